"""The benchmark of a GPU runs to its end where there is none, so that each of its lines was run once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_it_writes_a_page_that_says_what_it_is_of(top: Path, tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    command = [sys.executable, "benchmarks/gpu.py", "--quick", "--out", str(page)]
    subprocess.run(command, cwd=top, env={"PYTHONPATH": "src:.", "PATH": "", "HOME": str(tmp_path)}, check=True)
    text = page.read_text()
    titles = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "The card's limit, a product of matrices", "Input alone", "Training steps", "A small run, seconds",
        "Several runs at once, a process each", "Several runs in step, one process", "The paper's grid",
    ]  # fmt: skip
    assert text.count("| resnet18 |") == 2
