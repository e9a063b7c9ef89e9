from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medtransfer import tracking
from medtransfer.__main__ import main, run
from medtransfer.errors import UserError
from tests import workspace


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
        (("finetune", "--init", "imgenet"), "Did you mean imagenet?"),
        (("finetune", "--init", "random@resnet_50"), "resnet50"),
        (finetune("drives"), "did you mean drive?"),
        (("finetune", "--init", "random", "--seed", "one"), "seed must be a whole number"),
        (finetune("shenzhen", "--classification.lrr", "1"), "the nearest valid name is classification.lr"),
        (finetune("shenzhen", "--tsk", "1"), "the nearest option is --task"),
        (finetune("shenzhen", "--classification.monitor", "val_dice"), "must be one of val_loss, val_auc"),
        (finetune("montgomery", "--tasks.montgomery.image_size", "33"), "must be a multiple of 32"),
        (finetune("shenzhen", "--tasks.shenzhen.changes.lr", "1", "--classification.lr", "2"), "has no effect"),
        (("finetune", "--init", "file:absent.pth"), "absent.pth, found none"),
        (finetune("shenzhen", "--params", "absent.yaml"), "absent.yaml, found none"),
    ],
)
def test_bad_words_are_refused_before_anything_starts(root: Path, words: tuple[str, ...], message: str) -> None:
    assert message in refused(root, *words)
    assert not (root / "data/prepared").exists()


def test_weights_that_cannot_be_had_say_where_to_get_and_put_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.error
    import urllib.request

    def unreachable(*_: Any, **__: Any) -> Any:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
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
        ("no folder", "looked for the shenzhen files in"),
        ("truncated", "1 samples cannot be decoded"),
        ("mask size", "they must have one size"),
        ("label", "has the label 'Masss', which is not one of Atelectasis"),
        ("missing file", "1 have no images on disk"),
        ("patient", "1 patients"),
    ],
)
def test_broken_data_are_refused_and_nothing_is_lost(root: Path, what: str, message: str) -> None:
    task = damage(root, what)
    words = refused(root, *finetune(task))
    assert message in words
    assert not list((root / "data/prepared").glob("*/phantoms/manifest.json"))


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
