from __future__ import annotations

from pathlib import Path

import pytest

from medtransfer.cli.results import COMPARED
from medtransfer.params import load
from medtransfer.report import console
from medtransfer.report.console import Summary


@pytest.fixture
def root(tmp_path: Path, top: Path) -> Path:
    folder = tmp_path / "data/results/cells/shenzhen/0123"
    folder.mkdir(parents=True)
    (folder / "cell.json").write_text("{}")
    (tmp_path / "params.yaml").write_text((top / "params.yaml").read_text())
    return tmp_path


def of(root: Path, **changes: str) -> str:
    return console.inputs(load(root / "params.yaml", changes), COMPARED, root)


def test_what_was_shown_is_shown_again_until_something_that_it_rests_on_changes(root: Path) -> None:
    shown = Summary(
        of=of(root), first=("Synthetic.",), header=("init", "AUC"), rows=(("random", "1.0"), ("swav", "2.0")),
        bold=((False, False), (False, True)), notes=("n = 3",), answers=(("all tasks", "swav."),),
    )  # fmt: skip
    console.save(shown, root)
    assert console.load(root, of(root)) == shown
    assert console.load(root, of(root, **{"comparison.alpha": "0.01"})) is None
    (root / "data/results/cells/shenzhen/0123/cell.json").write_text('{"scores": {}}')
    assert console.load(root, of(root)) is None


@pytest.mark.parametrize("content", ["", "{}", '{"of": 1}', "[]"])
def test_a_damaged_summary_is_none(root: Path, content: str) -> None:
    path = root / console.FILE
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert console.load(root, of(root)) is None
