from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from medtransfer import params as parameters
from medtransfer.cli import VERBS, init_study
from medtransfer.cli.main import run
from medtransfer.core.errors import UserError
from tests import stages


@pytest.fixture
def study(tmp_path: Path) -> Path:
    run(["init", "my-study"], tmp_path)
    return tmp_path / "my-study"


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_study_holds_the_files_of_the_clone_and_says_nothing_of_one(study: Path, top: Path) -> None:
    assert names(study) == {*init_study.FILES, "data/raw/README.md"}
    assert [path.name for path in study.parent.iterdir()] == ["my-study"]
    assert parameters.load(study / "params.yaml") == parameters.load(top / "params.yaml")
    assert (study / "presets/paper_results.csv").read_bytes() == (top / "presets/paper_results.csv").read_bytes()
    for name in names(study) - {"presets/paper_results.csv"}:
        assert not re.search(
            r"\bsrc/|PYTHONPATH|docs/|requirements\.lock|`make |tests\.", (study / name).read_text()
        ), name
    comments = [line for line in (top / "dvc.yaml").read_text().splitlines() if line.strip().startswith("#")]
    kept = (study / "dvc.yaml").read_text().splitlines()
    assert [line for line in comments if line not in kept] == [comments[2]]


def test_its_entry_points_and_stages_call_the_installed_package(study: Path, top: Path) -> None:
    entries = yaml.safe_load((study / "MLproject").read_text())["entry_points"]
    assert {name: entry["command"].split()[:4] for name, entry in entries.items()} == {
        name: ["python", "-m", "medtransfer", name] for name, verb in VERBS.items() if verb.study
    }
    theirs = yaml.safe_load((top / "dvc.yaml").read_text())["stages"]
    ours = yaml.safe_load((study / "dvc.yaml").read_text())["stages"]
    assert list(ours) == ["version", *theirs]
    for name, stage in theirs.items():
        own, deps = ours[name].get("do", ours[name]), stage.get("do", stage).get("deps", [])
        files = [path for path in deps if not path.startswith(stages.CODE)]
        assert own.get("deps", []) == [*files, "data/version.txt"] * bool(deps)
    assert "medtransfer[train]==" in (study / "python_env.yaml").read_text()


@pytest.mark.parametrize("git", [False, True])
def test_dvc_is_told_where_there_is_no_git(tmp_path: Path, git: bool) -> None:
    if git:
        (tmp_path / ".git").mkdir()
    run(["init", "my-study"], tmp_path)
    assert ("no_scm = true" in (tmp_path / "my-study/.dvc/config").read_text()) is not git


def test_a_preset_is_what_it_begins_with(tmp_path: Path, top: Path) -> None:
    run(["init", "paper-study", "--preset", "paper"], tmp_path)
    assert parameters.load(tmp_path / "paper-study/params.yaml") == parameters.load(top / "presets/paper.yaml")
    with pytest.raises(UserError, match="--preset must be one of demo, paper, got 'papers'"):
        run(["init", "other", "--preset", "papers"], tmp_path)
    assert not (tmp_path / "other").exists()


def test_nothing_is_overwritten(study: Path) -> None:
    (study / "notes.txt").write_text("mine")
    (study / "MLproject").unlink()
    run(["init", "my-study"], study.parent)
    assert (study / "MLproject").is_file()
    (study / "MLproject").unlink()
    (study / "params.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"my-study holds files that a study would overwrite \(params\.yaml\)"):
        run(["init", "my-study"], study.parent)
    assert not (study / "MLproject").exists()
    assert (study / "params.yaml").read_text() == (study / "notes.txt").read_text() == "mine"


def test_a_study_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "presets").write_text("a file where a folder would be")
    with pytest.raises(UserError, match="cannot be written"):
        run(["init", "."], tmp_path)
    assert names(tmp_path) == {"presets"}
    assert [path.name for path in tmp_path.parent.iterdir() if path.name.endswith(".tmp")] == []


def test_a_folder_without_a_study_names_the_verb_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"params\.yaml, found none; run in the folder of a study, which `medtransfer init"
    ):
        run(["show"], tmp_path)


def test_the_wheel_holds_what_a_study_is_made_of(top: Path) -> None:
    wheel = tomllib.loads((top / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    included = wheel["force-include"]
    assert all(place == f"medtransfer/study/{name}" for name, place in included.items())
    listed = {str(path.relative_to(top)) for name in included for path in (top / name).rglob("*")}
    assert listed | {name for name in included if (top / name).is_file()} == set(init_study.FILES)
