# Two commands: `make demo` runs the small benchmark, `make test` runs the tests.
PYTHON ?= python3
BIN := .venv/bin
# DVC's stages and mlflow run call `python`: it must be this environment's.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONPATH := src
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := true
export NO_MKDOCS_2_WARNING := 1

.PHONY: demo test lint docs docs-check ui slow lock services bench-gpu
.DEFAULT_GOAL := demo

demo: .venv/installed
	@before=$$(cat dvc.lock 2>/dev/null); dvc repro && if [ "$$before" = "$$(cat dvc.lock)" ]; then echo "Nothing had changed: nothing was done."; fi
	@python -m medtransfer show

test: .venv/installed
	@pytest -n 2 --dist loadfile

slow: .venv/installed
	@pytest -m slow

lint: .venv/installed
	@ruff check src tests benchmarks examples docs
	@ruff format --check src tests benchmarks examples docs
	@mypy
	@codespell README.md CONTRIBUTING.md docs src examples

# The site of docs/ on http://127.0.0.1:8000, built anew at every change.
docs: .venv/installed
	@mkdocs serve --dev-addr 127.0.0.1:8000

# As CI builds it, into site/: a link that leads nowhere, or a page that no menu names, is an error.
docs-check: .venv/installed
	@mkdocs build --strict --quiet

# Input, step, run and grid on one GPU, as a page: benchmarks/gpu.md.
bench-gpu: .venv/installed
	@PYTHONPATH=src:. python benchmarks/gpu.py

ui: .venv/installed
	@python -m medtransfer ui --serve

services: .venv/installed
	@python -m medtransfer services start

# With uv where there is one; without, uv comes into the environment by pip; where that fails, pip alone.
.venv/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("medtransfer needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + "; say make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	@if command -v uv >/dev/null; then uv pip install -q --compile-bytecode --python $(BIN)/python -r requirements.lock; \
	elif $(BIN)/python -m pip install -q uv && $(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python -r requirements.lock; then :; \
	else $(BIN)/python -m pip install -q --no-deps -r requirements.lock; fi
	@$(BIN)/python -m pip install -q --no-deps --editable .  # the command `medtransfer`
	@$(BIN)/python -c "from medtransfer.weights import timm_index; timm_index.architectures()"  # asked once, kept
	@touch $@

# After a change of pyproject.toml.
lock:
	uv pip compile -q --no-header --no-annotate --all-extras --group dev pyproject.toml --python-version 3.11 -o requirements.lock
