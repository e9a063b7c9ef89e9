from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from medtransfer import params as parameters
from medtransfer.cli import VERBS
from medtransfer.cli import data as data_verbs
from medtransfer.cli.main import build_parser, check_verb, main, read_overrides, run
from medtransfer.core.errors import UserError
from medtransfer.params import dotted_names

HEAVY = (
    "torch", "torchvision", "timm", "segmentation_models_pytorch", "lightly", "mlflow", "optuna", "ray", "pandas",
    "pyarrow", "scipy", "sklearn", "matplotlib", "jinja2", "sqlalchemy", "psycopg", "boto3", "requests", "pydicom",
    "nibabel", "tifffile", "huggingface_hub",
)  # fmt: skip
"""what takes a third of a second or more to import"""

LIGHT = [
    ["tasks"], ["inits"], ["inits", "rad-dino"], ["inits", "--max-parameters", "90M", "--open"], ["status"], ["show"],
    ["compare"], ["promote"], ["benchmark"], ["tune"],
    ["finetune", "--init", "resnet50"], ["finetune", "--init", "random", "--task", "drive"],
    ["pretrain", "--init", "imagenet"], ["prepare", "shenzen"], ["audit", "drive"], ["weights", "imgenet"],
    ["demote", "medtransfer-backbone"], ["export", "medtransfer-drive"], ["finetune", "--init", "random", "--lr", "1"],
    ["sources"], ["finetun"], ["--help"], ["--version"], [],
]  # fmt: skip

PROGRAM = """
import json, sys
from pathlib import Path
from medtransfer.cli.main import run
from medtransfer.core.errors import UserError
said = {}
for words in json.loads(sys.argv[1]):
    try:
        run(words, Path.cwd())
    except (UserError, SystemExit) as error:
        pass
    said[" ".join(words)] = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
print("FOUND", json.dumps(said))
"""


def test_lists_states_and_refusals_import_nothing_heavy(tmp_path: Path, top: Path) -> None:
    (tmp_path / "params.yaml").write_text((top / "params.yaml").read_text())
    known = [sys.executable, "-c", "from medtransfer.weights import timm_index; timm_index.architectures()"]
    subprocess.run(known, check=True)  # asks timm where this version was never asked before
    command = [sys.executable, "-c", PROGRAM, json.dumps(LIGHT), json.dumps(HEAVY)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.partition("FOUND ")[2])
    assert found == {" ".join(words): [] for words in LIGHT}


@pytest.mark.parametrize(
    ("word", "message"),
    [("finetun", "did you mean finetune"), ("stat", "did you mean status"), ("xyzzy", "verbs: phantoms, sources")],
)
def test_a_word_that_is_no_verb_is_answered_with_the_nearest(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_verb([word])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr", "1"], "set by its whole name: --classification.lr or --segmentation.lr or --pretraining.lr"),
        (["--max-epochs", "1"], "--classification.max_epochs or --segmentation.max_epochs"),
        (["--tsk", "1"], "the nearest option is --task"),
        (["--margins", "1"], "options: --init, --task, --seed"),
    ],
)
def test_an_unknown_option_is_answered_with_what_it_may_have_meant(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_overrides(words, "finetune")


def test_a_parameter_without_its_section_is_looked_for_in_what_the_verb_reads() -> None:
    with pytest.raises(UserError, match=r"whole name: --classification\.lr or --segmentation\.lr$"):
        read_overrides(["--lr", "1"], "benchmark")


def test_without_inits_to_tune_no_data_are_asked_for(tmp_path: Path, top: Path) -> None:
    (tmp_path / "params.yaml").write_text((top / "params.yaml").read_text())
    run(["tune"], tmp_path)  # what `dvc repro` does in a study of other tasks
    with pytest.raises(UserError, match="task shenzhen: looked for the shenzhen files"):
        run(["tune", "--init", "random"], tmp_path)


def test_without_a_verb_help_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run([], tmp_path)
    shown = capsys.readouterr().out
    assert all(name in shown for name in VERBS)


def test_every_option_is_explained() -> None:
    for name, entry in VERBS.items():
        assert entry.summary.endswith("."), name
        unsaid = [option for option in entry.identity if not entry.help_of(option)]
        assert not unsaid, (name, unsaid)


def test_the_shell_completes_verbs_options_and_parameters() -> None:
    shown = build_parser(completing=True).parse_args(["finetune", "--classification.lr", "1"])
    assert vars(shown)["classification.lr"] == "1"
    assert {"classification.lr", "engine.portable", "benchmark.seeds"} <= set(dotted_names())


def test_a_section_that_an_older_parameter_file_lacks_is_named_before_dvc_stops(tmp_path: Path, top: Path) -> None:
    text = (top / "params.yaml").read_text()
    start = text.index("\ncorruptions:")
    older = text[:start] + text[text.index("\n\n", start) :]
    (tmp_path / "dvc.yaml").write_text((top / "dvc.yaml").read_text())
    (tmp_path / "params.yaml").write_text(older)
    with pytest.raises(UserError, match=r"before there was corruptions, .*: add `corruptions: {}` at its end"):
        data_verbs._check_sections(tmp_path)
    (tmp_path / "params.yaml").write_text(older + "\ncorruptions: {}\n")
    data_verbs._check_sections(tmp_path)
    assert parameters.load(tmp_path / "params.yaml").corruptions.kinds == ()


def test_no_colour_and_no_traceback_reach_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["medtransfer", "statsu"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == (
        "medtransfer: unknown verb statsu; did you mean status? `medtransfer --help` says what each does\n"
    )


def test_phantoms_are_those_of_the_benchmark_unless_others_are_named(top: Path) -> None:
    params = parameters.load(top / "params.yaml")
    counts = params.phantoms.images
    own = {name: counts[name] for name in ("chestxray14", "shenzhen", "montgomery")}
    assert data_verbs._datasets(params, top, "benchmark") == own
    read_on = parameters.load(top / "params.yaml", {"tasks.chestxray14.external": "[{task: chexpert}]"})
    read_on = dataclasses.replace(
        read_on, benchmark=dataclasses.replace(read_on.benchmark, tasks=("chestxray14", "montgomery"))
    )
    sites = {name: counts[name] for name in ("chestxray14", "chexpert", "montgomery")}
    assert data_verbs._datasets(read_on, top, "benchmark") == sites
    assert data_verbs._datasets(params, top, "all") == counts
    assert data_verbs._datasets(params, top, "drive") == {"drive": counts["drive"]}
    with pytest.raises(UserError, match="no phantoms of driv; the nearest valid name is drive"):
        data_verbs._datasets(params, top, "driv")
