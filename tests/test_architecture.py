from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests import stages

HEAVY = {
    "mlflow": {"tracking", "promotion"},
    "ray": {"execution"},
    "optuna": {"tuning"},
}
LAYERS = [
    {"params", "records", "errors", "files", "progress", "sqlitefiles", "addresses", "arithmetic"},
    {
        "datasets",
        "tasks",
        "catalog",
        "runlengths",
        "pixels",
        "grids",
        "codestreams",
        "dicom",
        "nifti",
        "tiff",
        "formats",
        "masks",
        "survey",
        "zoo",
        "initializations",
        "streams",
    },
    {
        "phantoms",
        "metrics",
        "statistics",
        "randomization",
        "delong",
        "resampling",
        "joint",
        "pairs",
        "looks",
        "ranks",
        "effects",
        "published",
        "entries",
        "audit",
        "duplicates",
        "splits",
        "sources",
        "rows",
        "cache",
        "downloads",
        "containers",
        "objectstore",
        "backbones",
    },
    {
        "facts",
        "decoding",
        "sheets",
        "description",
        "leaks",
        "contamination",
        "fetching",
        "layouts",
        "checkpoints",
        "fingerprints",
    },
    {"preparation", "conversion", "lineage", "weights", "augmentation"},
    {"loading", "models", "objectives", "optimizers", "ledger"},
    {"training", "examples", "selfsupervision", "probing", "distributed"},
    {
        "tracking",
        "curves",
        "execution",
        "services",
        "leases",
        "report",
        "cells",
        "comparison",
        "evidence",
        "contrasts",
        "claims",
        "answers",
        "findings",
        "tables",
        "writing",
        "sections",
        "exports",
        "figures",
        "gallery",
        "inspection",
        "listing",
    },
    {"runs", "links"},
    {"finetuning", "pretraining", "planning", "display"},
    {"tuning"},
    {"benchmark", "chosen", "status"},
    {"promotion"},
    {"verbs"},
    {"__main__"},
]
"""from bottom to top; a module imports from its own layer or below"""


def modules(top: Path) -> dict[str, list[ast.Module]]:
    found: dict[str, list[ast.Module]] = {}
    for path in (top / "src/medtransfer").rglob("*.py"):
        parts = path.relative_to(top / "src/medtransfer").with_suffix("").parts
        found.setdefault(parts[0], []).append(ast.parse(path.read_text()))
    return found


def imports(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_module_has_a_layer_and_imports_point_down(top: Path) -> None:
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    found = modules(top)
    assert set(found) - {"__init__"} == set(level)
    for name, trees in found.items():
        for tree in trees if name in level else []:
            for imported in imports(tree):
                parts = imported.split(".")
                if parts[0] == "medtransfer" and parts[1] in level:
                    assert level[parts[1]] <= level[name], f"{name} imports {imported} from above"


@pytest.mark.parametrize("library", HEAVY)
def test_heavy_libraries_enter_through_their_modules_alone(top: Path, library: str) -> None:
    users = {
        n for n, trees in modules(top).items() for t in trees if any(i.split(".")[0] == library for i in imports(t))
    }
    assert users <= HEAVY[library]


def test_learning_code_knows_no_tracker(top: Path) -> None:
    for name in ("training", "loading", "models", "objectives", "weights", "preparation"):
        for tree in modules(top)[name]:
            assert not any("tracking" in imported for imported in imports(tree))


def test_the_command_line_imports_nothing_heavy_before_the_verb_is_known(top: Path) -> None:
    code = (
        "import sys, contextlib\nfrom medtransfer.__main__ import build_parser\nbuild_parser().format_help()\n"
        "print([m for m in ('torch', 'mlflow', 'timm', 'pandas', 'numpy', 'PIL') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=top, env={"PYTHONPATH": "src"}, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("stage", sorted(set(stages.verbs()) - {"sources"}))  # which runs always
def test_a_stage_depends_on_all_code_that_its_verb_imports(stage: str) -> None:
    needed, listed = stages.modules_of(stages.verbs()[stage]), stages.listed(stage)
    assert (sorted(needed - listed), sorted(listed - needed)) == ([], []), "run `python -m tests.stages`"


@pytest.mark.parametrize(
    ("stage", "module"),
    [
        ("compare", "randomization"),  # decides p-values
        ("compare", "tasks"),  # holds margins
        ("prepare", "streams"),  # draws splits
        ("promote", "contrasts"),
        ("benchmark", "weights"),  # imported by what it imports
        ("pretrain", "selfsupervision"),
    ],
)
def test_a_closure_holds_what_decides_numbers(stage: str, module: str) -> None:
    assert {f"src/medtransfer/{module}.py", f"src/medtransfer/{module}"} & stages.modules_of(stage)


def test_a_closure_follows_lazy_imports_and_not_those_of_a_type_checker(tmp_path: Path) -> None:
    code = tmp_path / "src/medtransfer"
    (code / "verbs").mkdir(parents=True)
    (code / "room").mkdir()
    (code / "verbs/all.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from medtransfer import typed\n"
        "def go():\n    return help_()\ndef help_():\n    from medtransfer import lazy\n    lazy()\n"
        "def other():\n    from medtransfer import unused\n"
    )
    (code / "lazy.py").write_text("def f():\n    import medtransfer.room.inner\n")
    (code / "room/__init__.py").write_text("from .near import x\n")
    for name in ("room/inner", "room/near", "typed", "unused"):
        (code / f"{name}.py").touch()
    assert stages.modules_of("go", tmp_path) == {f"src/medtransfer/{p}" for p in ("lazy.py", "room", "verbs/all.py")}
