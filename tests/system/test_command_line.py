from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from medtransfer import tracking
from medtransfer.cli.main import main, name_first, run
from medtransfer.core import downloads
from medtransfer.core.errors import UserError
from tests.support import workspace
from tests.support.quick import quick


@pytest.fixture
def root(tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    return workspace.make(tmp_path, top, "shenzhen", "montgomery", "drive", "chestxray14")


def refused(root: Path, *words: str) -> str:
    with pytest.raises(UserError) as error:
        run(words, root)
    assert not list((root / "data/runs").glob("*/journal.jsonl"))
    assert [e.name for e in tracking.connect(root).search_experiments()] == ["Default"]
    return str(error.value)


def finetune(task: str, *more: str) -> tuple[str, ...]:
    return ("finetune", "--init", "random", "--task", task, "--seed", "0", *more)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("finetune",), "finetune needs --init"),
        pytest.param(("finetune", "--init", "imgenet"), "Did you mean imagenet?", marks=pytest.mark.slow),
        (("finetune", "--init", "random@resnet_50"), "resnet50"),
        (finetune("drives"), "did you mean drive?"),
        pytest.param(
            ("finetune", "--init", "random", "--seed", "one"), "seed must be a whole number", marks=pytest.mark.slow
        ),
        (finetune("shenzhen", "--classification.lrr", "1"), "the nearest valid name is classification.lr"),
        pytest.param(finetune("shenzhen", "--tsk", "1"), "the nearest option is --task", marks=pytest.mark.slow),
        pytest.param(
            finetune("shenzhen", "--classification.monitor", "val_dice"),
            "must be one of val_loss, val_auc",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            finetune("montgomery", "--tasks.montgomery.image_size", "33"),
            "must be a multiple of 32",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            finetune("shenzhen", "--tasks.shenzhen.changes.lr", "1", "--classification.lr", "2"),
            "has no effect",
            marks=pytest.mark.slow,
        ),
        (("finetune", "--init", "file:absent.pth"), "absent.pth, found none"),
        pytest.param(
            finetune("shenzhen", "--params", "absent.yaml"), "absent.yaml, found none", marks=pytest.mark.slow
        ),
    ],
)
def test_bad_words_are_refused_before_anything_starts(root: Path, words: tuple[str, ...], message: str) -> None:
    assert message in refused(root, *words)
    assert not (root / "data/prepared").exists()


def test_weights_that_cannot_be_had_say_where_to_get_and_put_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "get", unreachable)
    monkeypatch.setattr(downloads, "BACKOFF", 0.0)
    message = refused(root, "finetune", "--init", "swav", "--task", "shenzhen")
    assert "swav@resnet50" in message
    assert "https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar" in message
    assert str(root / "data/downloads/swav_800ep_pretrain.pth.tar") in message


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def damage(root: Path, what: str) -> str:
    """Breaks a dataset in one way; returns its task."""
    shenzhen, chest = root / "data/phantoms/shenzhen/CXR_png", root / "data/phantoms/chestxray14"
    if what == "no folder":
        shutil.rmtree(shenzhen.parent)
        return "shenzhen"
    if what == "truncated":
        cut(sorted(shenzhen.glob("*"))[3])
        return "shenzhen"
    if what == "mask size":
        mask = sorted((root / "data/phantoms/montgomery/ManualMask/leftMask").glob("*"))[2]
        Image.open(mask).resize((11, 12)).save(mask)
        return "montgomery"
    table = chest / "Data_Entry_2017.csv"
    if what == "label":
        table.write_text(table.read_text().replace("Mass", "Masss", 1))
    if what == "missing file":
        (chest / "images" / (chest / "test_list.txt").read_text().split()[0]).unlink()
    if what == "patient":
        train = (chest / "train_val_list.txt").read_text().split()
        test = (chest / "test_list.txt").read_text().split()
        move = [n for n in test if n.startswith(test[0][:8])][:1]
        (chest / "train_val_list.txt").write_text("\n".join(train + move))
        (chest / "test_list.txt").write_text("\n".join(n for n in test if n not in move))
    return "chestxray14"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        pytest.param("no folder", "looked for the shenzhen files in", marks=pytest.mark.slow),
        ("truncated", "1 of 40 samples cannot be decoded"),
        ("mask size", "they must have one size"),
        ("label", "has the label 'Masss', which is not one of Atelectasis"),
        pytest.param("missing file", "1 have no images on disk", marks=pytest.mark.slow),
        ("patient", "1 patients"),
    ],
)
def test_broken_data_are_refused_and_nothing_is_lost(root: Path, what: str, message: str) -> None:
    task = damage(root, what)
    words = refused(root, *finetune(task))
    assert message in words
    assert not list((root / "data/prepared").glob("*/phantoms/manifest.json"))


@pytest.mark.slow
def test_a_label_without_positives_in_test_is_undefined_never_a_number(root: Path) -> None:
    chest = root / "data/phantoms/chestxray14"
    table, test = chest / "Data_Entry_2017.csv", (chest / "test_list.txt").read_text().split()
    lines = [
        line.replace("Hernia|", "").replace("|Hernia", "").replace("Hernia", "No Finding")
        if line[:16] in test
        else line
        for line in table.read_text().splitlines()
    ]
    table.write_text("\n".join(lines))
    run((*finetune("chestxray14"), "--classification.max_epochs", "1"), root)
    (path,) = (root / "data/runs").glob("*/cell.json")
    cell = json.loads(path.read_text())
    assert cell["undefined"] == ["Hernia"]
    assert "test_auc.Hernia" not in cell["scores"]
    assert cell["scores"]["test_labels_defined"] == 13
    assert "test_auc.Mass" in cell["scores"]


def test_real_files_take_the_place_of_phantoms_and_stay_untouched(root: Path) -> None:
    raw = root / "data/raw/drive"
    shutil.copytree(root / "data/phantoms/drive", root / "elsewhere")
    raw.parent.mkdir(parents=True)
    raw.symlink_to(root / "elsewhere")
    before = {p: p.stat().st_mtime_ns for p in (root / "elsewhere").rglob("*")}
    assert "trainval: published 20 images, found " in refused(root, "prepare", "--task", "drive")
    run(("prepare", "--task", "drive", "--partial"), root)
    manifest = json.loads((root / "data/prepared/drive/real/manifest.json").read_text())
    assert manifest["marks"] == ["partial"]
    assert {p: p.stat().st_mtime_ns for p in (root / "elsewhere").rglob("*")} == before
    raw.unlink()
    run(("prepare", "--task", "drive"), root)
    manifest = json.loads((root / "data/prepared/drive/phantoms/manifest.json").read_text())
    assert manifest["marks"] == ["synthetic"]


def test_the_launcher_that_mlflow_opened_gets_the_message(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = tracking.connect(root)
    run_id = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    monkeypatch.setattr("sys.argv", ["medtransfer", *finetune("shenzhen", "--classification.lrr", "1")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "nearest valid name is classification.lr" in capsys.readouterr().err
    assert "nearest valid name is classification.lr" in client.get_run(run_id).data.tags["error"]
    assert client.get_run(run_id).info.run_name == "finetune: refused"


@pytest.mark.slow
def test_init_alone_runs_every_task_and_seed_as_children(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = tracking.connect(root)
    run_id = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    run(("finetune", "--init", "random", "--classification.max_epochs", "1", "--segmentation.max_epochs", "1"), root)
    for task in ("shenzhen", "montgomery"):
        experiment = client.get_experiment_by_name(f"medtransfer/{task}")
        (child,) = client.search_runs([experiment.experiment_id])
        assert child.data.tags["mlflow.parentRunId"] == run_id
        assert child.info.status == "FINISHED"
    launcher = client.get_run(run_id)
    assert launcher.info.run_name == "finetune random all all"
    assert launcher.data.tags["mlflow.note.content"].count("random@test_resnet") == 2
    assert launcher.data.params == {}


def test_the_benchmark_is_compared(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--classification.max_epochs", "1", "--segmentation.max_epochs", "1", "--benchmark.seeds", "[0, 1]")
    for words in (("weights",), ("benchmark", *few), ("compare", *few), ("show", *few)):
        run(words, root)
    assert len(list((root / "data/results/cells").glob("*/*/cell.json"))) == 4
    assert "Synthetic phantoms" in capsys.readouterr().out
    results = root / "data/results"
    assert (results / "comparison.csv").read_text().count("random@test_resnet") == 2
    assert (results / "report/comparison.md").read_text().startswith("Synthetic phantoms")


def test_the_word_behind_a_verb_is_its_first_argument() -> None:
    assert name_first(["fetch", "pneumoniamnist", "--size", "64"]) == [
        "fetch", "--dataset", "pneumoniamnist", "--size", "64"
    ]  # fmt: skip
    assert name_first(["--verbose", "prepare", "drive"]) == ["--verbose", "prepare", "--task", "drive"]
    for words in (["prepare"], ["prepare", "--task", "drive"], ["sync", "x"], []):
        assert name_first(words) == words
    with pytest.raises(UserError, match="finetune drive means --init drive, but --init stands there too"):
        name_first(["finetune", "drive", "--init", "imagenet"])


# Tasks, audits, bad files


def own_task(root: Path, name: str = "mine") -> Path:
    """Describes the images of the Shenzhen phantoms as a task of one's own."""
    folder = root / "data/raw" / name
    shutil.copytree(root / "data/phantoms/shenzhen/CXR_png", folder / "scans")
    names = sorted(path.name for path in (folder / "scans").iterdir())
    rows = [f"scans/{file},P{number // 2},{file[-5]}" for number, file in enumerate(names)]
    (folder / "table.csv").write_text("\n".join(["image,who,ill", *rows]) + "\n")
    (folder / "task.yaml").write_text(
        "kind: binary\nlabels: [ill]\ntable: table.csv\npatient: who\nsplit: {val: 0.2, test: 0.3}\nimage_size: 32\n"
    )
    return folder


def test_tasks_are_listed_with_what_is_here(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    own_task(root)
    (root / "data/raw/broken").mkdir()
    (root / "data/raw/broken/task.yaml").write_text("kind: binary\n")
    run(("prepare", "--task", "mine"), root)
    run(("tasks",), root)
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("shenzhen *", "DXC14", "auc of 5", "phantoms: on disk", "1,790,594", "your own", "not valid",
                  "https://www.kaggle.com", "real: on disk,", "missing parameter labels"):  # fmt: skip
        assert words in shown, words


def test_initializations_are_listed_with_what_is_here(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "220")
    entry = "{ours: {file: w.pth, backbone: test_resnet, licence: MIT, data: our scans}}"
    text = (root / "params.yaml").read_text().replace("inits: {}", f"inits: {entry}")
    (root / "params.yaml").write_text(text)
    (root / "data/downloads").mkdir(parents=True)
    (root / "data/downloads/swav_800ep_pretrain.pth.tar").write_bytes(b"")
    run(("inits",), root)
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("random * any of timm", "swav resnet50 24M CC-BY-NC-4.0 no downloaded", "natural (",
                  "ours test_resnet", "MIT yes", "inat2021 resnet50 24M not stated (...) unclear by hand",
                  "dinov3-license unclear", "timm:<architecture>.<tag>"):  # fmt: skip
        assert words in shown, words


def test_one_initialization_is_told_whole(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "220")
    run(("inits", "moco-v3"), root)
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("licence CC-BY-NC-4.0; commercial use: no", "moco-v3/r-50-1000ep", "vit_base_patch16_224 (86M)"):
        assert words in shown, words


def test_weights_says_what_was_loaded(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(("weights", "imagenet@tf_efficientnet_lite0"), root)
    for words in ("294 tensors matched", "2 left out by rule", "3371008 parameters", "commercial use: yes", "57934424"):
        assert words in caplog.text, words


@pytest.mark.slow
def test_an_audit_finds_the_images_of_another_task(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    own_task(root)
    run(("audit", "mine", "--against", "shenzhen"), root)
    assert "mine against shenzhen:" in caplog.text
    folder = root / "data/audits/mine-shenzhen"
    with Image.open(folder / "pairs.png") as sheet:
        assert sheet.width > 1000
    header, first, *_ = (folder / "pairs.csv").read_text().splitlines()
    assert header == "mine,shenzhen,correlation"
    assert float(first.split(",")[2]) > 0.99
    assert "patients: train" in caplog.text
    assert "samples.png" in caplog.text


def test_bad_files_may_be_left_out_by_number(root: Path) -> None:
    folder = own_task(root)
    for path in sorted((folder / "scans").iterdir())[:2]:
        cut(path)
    with pytest.raises(UserError, match="--skip-bad 2"):
        run(("prepare", "--task", "mine"), root)
    run(("prepare", "mine", "--skip-bad", "2"), root)
    manifest = json.loads((root / "data/prepared/mine/real/manifest.json").read_text())
    assert len(manifest["skipped"]) == 2
    assert manifest["marks"] == ["partial"]
    with pytest.raises(UserError, match="skip_bad must be a whole number"):
        run(("prepare", "--task", "mine", "--skip-bad", "few"), root)


BAD: dict[str, tuple[str, str]] = {
    "a column that is not there": ("image,who,ill", "image,person,ill"),
    "an image twice": ("P19", "P19,0\nscans/CHNCXR_0001_0.png,P19"),
    "a label of 2": (",P3,0", ",P3,2"),
    "a label that is not a number": (",P3,0", ",P3,nan"),
    "a Windows path": ("scans/CHNCXR_0007_0.png", "D:\\scans\\CHNCXR_0007_0.png"),
    "a file that is not there": ("scans/CHNCXR_0007_0.png", "scans/seven.png"),
}


@pytest.mark.parametrize("what", quick(BAD, "an image twice", "a Windows path"))
def test_a_bad_table_stops_everything_before_it_starts(root: Path, what: str) -> None:
    folder = own_task(root)
    run(("prepare", "--task", "mine"), root)
    before = (root / "data/prepared/mine/real/manifest.json").read_text()
    table = folder / "table.csv"
    old, new = BAD[what]
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new, 1))
    assert str(table) in refused(root, *finetune("mine"))
    assert (root / "data/prepared/mine/real/manifest.json").read_text() == before
