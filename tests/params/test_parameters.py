from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from medtransfer import params as parameters
from medtransfer.cli import VERBS
from medtransfer.cli.main import build_parser, read_overrides
from medtransfer.core import schema
from medtransfer.core.errors import UserError
from medtransfer.data.catalog import TASKS
from medtransfer.params import Params
from tests.conftest import TOP

SECTIONS = {field.name for field in dataclasses.fields(Params)}


def load(top: Path, **overrides: str) -> Params:
    return parameters.load(top / "params.yaml", {k.replace("__", "."): v for k, v in overrides.items()})


@pytest.mark.parametrize("name", ["params.yaml", *(f"presets/{p.name}" for p in (TOP / "presets").glob("*.yaml"))])
def test_every_parameter_file_loads_and_names_known_tasks(top: Path, name: str) -> None:
    params = parameters.load(top / name)
    assert set(params.tasks) <= set(TASKS)
    assert set(params.benchmark.tasks) <= set(params.tasks)
    for task in params.tasks:
        parameters.protocol(params, task, TASKS[task].segmentation)


def test_every_verb_is_an_entry_point_with_its_identity_parameters(top: Path) -> None:
    project = yaml.safe_load((top / "MLproject").read_text())
    assert set(project["entry_points"]) == {name for name, entry in VERBS.items() if entry.study}
    for name, entry in project["entry_points"].items():
        declared = {k: v.get("default") for k, v in entry.get("parameters", {}).items()}
        assert declared == VERBS[name].identity
        options = " ".join(f"--{k} {{{k}}}" for k in declared)
        assert entry["command"] == f"PYTHONPATH=src python -m medtransfer {name} {options}".strip()


def stages(top: Path) -> dict[str, dict[str, Any]]:
    tree = yaml.safe_load((top / "dvc.yaml").read_text())["stages"]
    return {name: stage.get("do", stage) for name, stage in tree.items()}


def test_every_stage_calls_its_verb_and_names_its_sections(top: Path) -> None:
    for name, stage in stages(top).items():
        assert stage["cmd"].startswith(f"PYTHONPATH=src python -m medtransfer {name}")
        assert {p.split(".")[0] for p in stage.get("params", [])} == set(VERBS[name].sections)
        assert set(VERBS[name].sections) <= SECTIONS


def test_stages_depend_on_files_that_exist_and_never_own_the_users_folder(top: Path) -> None:
    for stage in stages(top).values():
        for dep in stage.get("deps", []):
            if not dep.startswith("data/"):
                assert (top / dep).exists(), dep
                assert dep not in ("src", "src/medtransfer")
        outs = [next(iter(out)) if isinstance(out, dict) else out for out in stage["outs"]]
        assert not any(out.startswith(("data/raw", "data/runs", "data/downloads", "mlruns")) for out in outs)


@pytest.mark.parametrize("text", ["3e-4", "0.0003", '"3e-4"', "3.0e-4"])
def test_one_value_however_it_is_written(top: Path, text: str) -> None:
    assert load(top, classification__lr=text).classification.lr == 3e-4


def test_override_of_a_list_and_of_a_tasks_change(top: Path) -> None:
    params = load(top, benchmark__seeds="[3, 4]", tasks__shenzhen__changes__augmentation__flip="0")
    assert params.benchmark.seeds == (3, 4)
    assert parameters.protocol(params, "shenzhen", False).augmentation.flip == 0
    assert params.classification.augmentation.flip == 0.5


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("classification.lrr", "1", "nearest valid name is classification.lr"),
        ("clasification.lr", "1", "nearest valid name is classification.lr"),
        ("classification", "1", "parameter classification must be a mapping"),
        ("classification.lr.x", "1", "unknown parameter"),
        ("classification.lr", "fast", "classification.lr must be a finite number, got 'fast'"),
        ("classification.lr", "0", "`lr > 0` must hold, got lr=0.0"),
        ("classification.lr", ".nan", "must be a finite number"),
        ("classification.batch_size", "1.5", "must be a whole number"),
        ("classification.batch_size", "true", "must be a whole number"),
        ("classification.schedule", "linear", "must be one of ['plateau', 'cosine', 'constant']"),
        ("data.phantoms", "1", "must be true or false"),
        ("benchmark.seeds", "[0, 0]", "no duplicates"),
        ("tasks.drive.image_size", "512", "image_size <= cache_size"),
        ("classification.lr", "[", "not YAML"),
    ],
)
def test_bad_values_are_refused_by_full_name(top: Path, name: str, value: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        parameters.load(top / "params.yaml", {name: value})
    assert words in str(error.value)


def test_missing_key_and_unknown_change_are_refused(top: Path, tmp_path: Path) -> None:
    tree = yaml.safe_load((top / "params.yaml").read_text())
    del tree["engine"]["precision"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=r"missing parameter engine\.precision"):
        parameters.load(tmp_path / "params.yaml")
    with pytest.raises(UserError, match=r"nearest valid name is tasks\.drive\.changes\.lr"):
        parameters.protocol(load(top, tasks__drive__changes__lrr="1"), "drive", True)


def test_an_override_that_a_task_would_undo_is_refused(top: Path) -> None:
    params = load(top)
    with pytest.raises(UserError, match=r"set tasks\.drive\.changes\.loss instead"):
        parameters.refuse_shadowed(params, ["segmentation.loss"], "drive")
    parameters.refuse_shadowed(params, ["segmentation.loss"], "montgomery")


def test_flat_names_are_the_dotted_names_of_the_file(top: Path) -> None:
    flat = schema.flatten(load(top))
    assert flat["classification.augmentation.flip"] == 0.5
    assert flat["benchmark.seeds"] == [0, 1, 2]
    for name, value in flat.items():
        if value and "changes" not in name:
            assert schema.flatten(parameters.load(top / "params.yaml", {name: str(value)})) == flat


def test_help_lists_every_verb() -> None:
    text = build_parser().format_help()
    assert all(name in text for name in VERBS)


def test_command_line_pairs() -> None:
    assert read_overrides(["--a.b", "1", "--c.d=2"], "finetune") == {"a.b": "1", "c.d": "2"}
    with pytest.raises(UserError, match="nearest option is --init"):
        read_overrides(["--nit", "swav"], "finetune")
    with pytest.raises(UserError, match="needs a value"):
        read_overrides(["--a.b"], "finetune")


@pytest.mark.parametrize("bad", ["x; touch pwned #", "a'b", "../x", "a b", "", "-x", "$(id)", "a/b", "x\ny"])
@pytest.mark.parametrize(
    "name", ["benchmark.tasks", "tuning.tasks", "tuning.study", "pretraining.probe", "claims.granularity.tasks"]
)
def test_a_name_that_a_shell_or_a_path_would_read_more_into_is_refused(top: Path, name: str, bad: str) -> None:
    value = bad if name in ("tuning.study", "pretraining.probe") else [bad]
    with pytest.raises(UserError, match=r"letters, digits, \. _ and - only"):
        parameters.load(top / "params.yaml", {name: yaml.safe_dump(value)})


@pytest.mark.parametrize("section", ["tasks", "phantoms.images", "inits"])
def test_a_key_that_becomes_a_folder_is_held_to_the_same(tmp_path: Path, top: Path, section: str) -> None:
    tree = yaml.safe_load((top / "params.yaml").read_text())
    node = tree["phantoms"]["images"] if section == "phantoms.images" else tree[section]
    node["../x"] = {"tasks": {"cache_size": 32, "image_size": 32, "changes": {}}, "phantoms.images": 8}.get(
        section, {"file": "w.pt", "backbone": "resnet18"}
    )
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=r"only"):
        parameters.load(tmp_path / "params.yaml")


def test_names_stand_in_quotes_in_the_commands_of_stages(top: Path) -> None:
    for stage in stages(top).values():
        assert re.findall(r"\S*\$\{.*?\}\S*", stage["cmd"]) == re.findall(r"'\$\{item\}'", stage["cmd"])


@pytest.mark.slow
def test_parameters_run_no_command_under_dvc(tmp_path: Path, top: Path) -> None:
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", "src", "presets", ".dvc/config", ".dvc/plots"):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (top / name).is_dir() else shutil.copyfile)(top / name, target)
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    text = (tmp_path / "params.yaml").read_text()
    names = json.dumps(["shenzhen", "x; touch pwned #", "y'; touch pwned; '"])
    text = text.replace("tasks: [shenzhen, montgomery]\n  seeds", f"tasks: {names}\n  seeds")
    assert "pwned" in text
    (tmp_path / "params.yaml").write_text(text)
    own = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    answer = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"], cwd=tmp_path, env=own, capture_output=True, text=True, timeout=300
    )
    assert answer.returncode != 0
    assert "benchmark.tasks: letters, digits" in answer.stdout + answer.stderr
    assert not list(tmp_path.rglob("pwned*"))
