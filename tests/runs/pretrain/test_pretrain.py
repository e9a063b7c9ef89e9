"""Continual pre-training: chains, receipts, resume, and what is refused before any work."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed

from medtransfer import params, tracking
from medtransfer.core.errors import UserError
from medtransfer.data.cache import Prepared
from medtransfer.data.catalog import TASKS
from medtransfer.runs import building
from medtransfer.runs import run as runs
from medtransfer.runs.pretrain import contamination, pretrain
from medtransfer.runs.pretrain import link as links
from medtransfer.training import fitting, networks
from medtransfer.training.trainer import Trainer
from medtransfer.weights import backbones, receipts, store
from medtransfer.weights.licences import strictest
from medtransfer.weights.names import parse
from medtransfer.weights.records import IMAGENET_MEAN, IMAGENET_STD
from tests.support import fakes, workspace
from tests.support.quick import quick

SLOW = pytest.mark.slow
ONE, TWO, VIT = "random+chestxray14", "random+chestxray14+chexpert", "random@test_vit+chestxray14"


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Is the test's own MLflow; who looks like whom is looked for in test_contamination, and takes half of the time."""
    monkeypatch.setattr(contamination, "_look_alikes", lambda _, names, *__: (np.zeros(len(names), bool), []))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, top: Path) -> Path:
    """A workspace with phantoms of three datasets, prepared once."""
    return workspace.make(tmp_path_factory.mktemp("pretraining"), top, "chestxray14", "chexpert", "shenzhen")


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """The same data with runs and weights of its own."""
    (tmp_path / "data").mkdir()
    for name in ("phantoms", "prepared"):
        (made / "data" / name).mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(made / "data" / name)
    (tmp_path / "presets").symlink_to(made / "presets")
    (tmp_path / "params.yaml").write_text((made / "params.yaml").read_text())
    return tmp_path


@pytest.fixture(scope="module")
def vit(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer that is pre-trained at 32 px as a masked autoencoder."""
    root = tmp_path_factory.mktemp("transformer")
    shutil.copytree(made, root, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
        make(root, VIT, pretraining__method="mae", pretraining__projector="32", pretraining__max_epochs="1")
    return root


def load(root: Path, **changes: Any) -> params.Params:
    overrides = {"pretraining.max_epochs": "2", "pretraining.batch_size": "8", "pretraining.image_size": "32"}
    return params.load(root / "params.yaml", overrides | {k.replace("__", "."): v for k, v in changes.items()})


def make(root: Path, name: str = ONE, targets: Any = ("shenzhen",), **changes: Any) -> receipts.Lineage:
    settings = load(root, **changes)
    return pretrain.make(parse(name, settings.model.backbone), settings, root, targets)


def state(root: Path, name: str = ONE) -> dict[str, Any]:
    return store.state(parse(name, fakes.BACKBONE), root, 0, "one")


def test_weights_are_made_with_a_receipt_and_a_run_in_mlflow(root: Path) -> None:
    found = make(root)
    assert (found.init, found.parent) == (f"random@{fakes.BACKBONE}+chestxray14", f"random@{fakes.BACKBONE}")
    assert found.targets.keys() == {"shenzhen"}
    assert found.marks == ("synthetic",)
    assert found.images["train"] > found.images["val"] > 0
    assert "test" not in found.images
    client = tracking.connect(root)
    run = client.get_run(found.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["parent"] == f"random@{fakes.BACKBONE}"
    artifacts = {item.path for item in client.list_artifacts(found.mlflow_run_id)}
    name = f"random--{fakes.BACKBONE}--chestxray14"
    assert {f"{name}.safetensors", f"{name}.receipt.json", "params.yaml", "curves.png"} <= artifacts
    start = store.state(parse("random", fakes.BACKBONE), root, 0, "one")
    assert start.keys() == state(root).keys()


@pytest.mark.slow
def test_a_missing_link_is_made_first_and_the_receipt_carries_the_chain(root: Path) -> None:
    found = make(root, TWO)
    first = receipts.read(parse(ONE, fakes.BACKBONE), root)
    assert first is not None
    assert found.parent_sha256 == first.tensors_sha256
    assert found.parent_receipt is not None
    assert found.parent_receipt["init"] == first.init
    assert found.parent_receipt["parent_receipt"] is None
    words = "\n".join(receipts.summary(found))
    assert f"started from {first.init}, sha256 of the tensors {first.tensors_sha256}" in words
    assert len(found.licences) == 2


def test_a_chain_keeps_the_licences_of_its_weights_and_of_its_images(root: Path) -> None:
    torch.save(backbones.bare_state(fakes.BACKBONE, 1, "one"), root / "w.pth")
    entry = {"file": str(root / "w.pth"), "backbone": fakes.BACKBONE, "licence": "CC BY-NC 4.0"}
    settings = load(root, inits=json.dumps({"ours": entry}), pretraining__max_epochs="1")
    init = parse("ours+chestxray14", "", settings.inits)
    found = pretrain.make(init, settings, root, ("shenzhen",))
    images = f"images of chestxray14: {TASKS['chestxray14'].licence}"
    assert found.licences == ("weights ours: CC BY-NC 4.0", images)
    assert strictest(found.licences).part == "weights ours: CC BY-NC 4.0"


@pytest.mark.slow
def test_what_is_made_is_not_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(root)
    monkeypatch.setattr(pretrain, "_run", lambda *_: pytest.fail("trained again"))
    assert make(root) == first
    monkeypatch.undo()
    assert make(root, pretraining__lr="0.0001").tensors_sha256 != first.tensors_sha256


@pytest.mark.parametrize("after", [pytest.param(1, marks=SLOW), 2, pytest.param(3, marks=SLOW)])
@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_tensors(root: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    whole = make(root, pretraining__max_epochs="4")
    target = receipts.path(parse(ONE, fakes.BACKBONE), root)
    target.unlink()
    for path in (root / "data/runs").glob("*/*.safetensors"):
        path.unlink()
    save, count = Trainer._save, 0

    def killed(self: Trainer, best: Mapping[str, torch.Tensor]) -> None:
        nonlocal count
        save(self, best)
        count += 1
        if count == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        make(root, pretraining__max_epochs="4")
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    again = make(root, pretraining__max_epochs="4")
    assert again.tensors_sha256 == whole.tensors_sha256


@pytest.mark.slow
def test_a_process_killed_at_three_random_points_makes_the_same_file(tmp_path: Path, top: Path) -> None:
    words = ["pretrain", "--init", "random", "--dataset", "chestxray14", "--benchmark.tasks=[shenzhen]"]
    sizes = {"max_epochs": 40, "patience": 40, "batch_size": 8, "image_size": 32}
    words += [f"--pretraining.{name}={value}" for name, value in sizes.items()]
    points, files = np.random.default_rng().uniform(1, 9, 3), []
    for name in ("whole", "killed"):
        root = tmp_path / name
        root.mkdir()
        workspace.make(root, top, "chestxray14", "shenzhen")
        for epochs in points if name == "killed" else ():
            _kill(top, root, words, epochs)
        code, output = workspace.run(top, root, *words)
        assert code == 0, output
        assert ("resuming after epoch" in output) == (name == "killed")
        [path] = (root / receipts.FOLDER).glob("*.safetensors")
        files.append(path.read_bytes())
    assert files[0] == files[1], f"killed after {points} epochs"


def _kill(top: Path, root: Path, words: list[str], epochs: float) -> None:
    """Kills a training after some more epochs than the one before it has trained, in the midst of one."""

    def lines() -> int:
        return sum(len(path.read_text().splitlines()) for path in (root / "data/runs").glob("*/journal.jsonl"))

    process, before, end = workspace.command(top, root, *words), lines(), time.monotonic() + 120
    while lines() < before + int(epochs):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(epochs % 1 / 4)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(list((root / "data/runs").glob("*/checkpoint.pt"))) == 1
    assert not list((root / receipts.FOLDER).glob("*.safetensors"))


@pytest.mark.slow
def test_a_resume_with_other_parameters_is_another_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(self: Trainer, scores: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_progress", killed)
    with pytest.raises(KeyboardInterrupt):
        make(root)
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    make(root, pretraining__lr="0.0001")
    assert len(list((root / "data/runs").glob("*/journal.jsonl"))) == 2


def test_a_fine_tuning_run_starts_from_it(root: Path) -> None:
    found = make(root)
    [run] = runs.plan(load(root), root, [ONE], ["shenzhen"], [0])
    assert run.weights_sha256 == found.tensors_sha256
    assert run.init.canonical == found.init
    assert "contaminated" not in run.marked


@pytest.mark.parametrize(
    ("rule", "mean", "std"),
    [
        ("init", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("imagenet", IMAGENET_MEAN, IMAGENET_STD),
        ("none", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ],
)
@pytest.mark.slow
def test_weights_keep_the_normalization_that_they_were_trained_with(
    root: Path, rule: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    """timm's record of the test network has 0.5 for both."""
    make(root, pretraining__normalization=rule)
    [run] = runs.plan(load(root), root, [ONE], ["shenzhen"], [0])
    assert run.normalization == (mean, std)
    loader = building.trainer(run)[0].loader
    assert loader.scale.flatten().tolist() == pytest.approx([1 / (255 * each) for each in std])
    settings = load(root)
    link = links.resolve(parse(TWO, fakes.BACKBONE), settings, root, ())
    assert link.normalization == (mean, std)
    without_receipt = dataclasses.replace(run, root=root / "elsewhere")
    assert (run.digest == without_receipt.digest) == (rule == "init")


def test_a_rule_for_all_goes_before_the_normalization_of_the_last_training(root: Path) -> None:
    make(root, pretraining__normalization="none")
    [run] = runs.plan(load(root, classification__normalization="imagenet"), root, [ONE], ["shenzhen"], [0])
    assert run.normalization == (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize("side", quick([32, 64, 160], 32))
@pytest.mark.slow
def test_a_transformer_takes_another_side_after_pre_training(vit: Path, side: int) -> None:
    """Pre-trained at 32 px, kept at the published 160 px, used at any side, as weights from elsewhere are."""
    init = parse(VIT, fakes.BACKBONE)
    tensors = store.state(init, vit, 0, "one")
    assert {key: tensor.shape for key, tensor in tensors.items()} == backbones.shapes("test_vit")
    [best] = (load_file(path) for path in (vit / "data/runs").glob("*/best.safetensors"))
    model: Any = networks.classifier(fitting.NetworkSpec(backbone="test_vit", image_size=side), 1, tensors, 0)
    kept = {key: value for key, value in model.backbone.state_dict().items() if key != "pos_embed"}
    assert all(torch.equal(value, best[f"backbone.{key}"]) for key, value in kept.items())
    prefix = model.backbone.num_prefix_tokens
    grid = resample_abs_pos_embed(best["backbone.pos_embed"], [10, 10], num_prefix_tokens=prefix)
    grid = resample_abs_pos_embed(grid, [side // 16, side // 16], num_prefix_tokens=prefix)
    assert torch.allclose(model.backbone.pos_embed, grid, atol=1e-6)
    assert store.verify(init, vit) == 0
    assert torch.isfinite(model.eval()(torch.zeros(1, 3, side, side))).all()


def test_weights_that_are_not_made_name_the_command(root: Path) -> None:
    with pytest.raises(UserError, match=r"is not made yet: .*run `pretrain --init random@.* --dataset chestxray14`"):
        runs.plan(load(root), root, [ONE], ["shenzhen"], [0])


def test_a_changed_file_is_refused(root: Path) -> None:
    make(root)
    path = receipts.path(parse(ONE, fakes.BACKBONE), root)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="differs from its receipt"):
        state(root)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("random+nowhere", {}, "nowhere"),
        ("random+montgomery", {}, "montgomery has masks, no labels of images"),
        ("imagenet+chestxray14-published+chestxray14", {}, "its weights have seen chestxray14 before"),
        (ONE, {"pretraining__image_size": "48"}, "pretraining.image_size <= tasks.chestxray14.cache_size must hold"),
        (
            "random@test_vit+chestxray14",
            {"pretraining__image_size": "20"},
            "image_size 20 does not fit test_vit: .* 16",
        ),
        ("random@cait_xxs24_224+chestxray14", {}, "cannot bring pos_embed of cait_xxs24_224 back to the side 224"),
    ],
)
def test_a_chain_that_cannot_be_made_is_refused_before_work(
    root: Path, name: str, changes: dict[str, str], words: str
) -> None:
    settings = load(root, **changes)
    init = parse(name, "resnet50" if "published" in name else settings.model.backbone)
    with pytest.raises(UserError, match=words):
        pretrain.make(init, settings, root, ())
    assert not (root / "data/runs").exists()


def test_the_own_dataset_of_a_task_is_not_applicable(root: Path) -> None:
    with pytest.raises(UserError, match=r"not applicable: random@.* on chestxray14"):
        runs.plan(load(root), root, [ONE], ["chestxray14"], [0])


def test_tensors_are_those_of_the_best_epoch(root: Path) -> None:
    found = make(root)
    tensors = state(root)
    assert all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point())
    assert 0 <= found.best_epoch < found.epochs
    assert dataclasses.asdict(found)["digest"] == found.digest


# Self-supervised


@pytest.mark.parametrize(
    "method", ["simclr", pytest.param("barlow-twins", marks=SLOW), pytest.param("vicreg", marks=SLOW)]
)
def test_images_alone_are_enough(root: Path, method: str) -> None:
    found = make(root, pretraining__method=method, pretraining__projector="32")
    assert found.method == method
    assert "pretraining.uncertain" not in found.identity["fields"]
    assert found.identity["fields"]["pretraining.projector"] == 32


def test_a_probe_chooses_the_epoch_and_its_test_is_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    rows = Prepared.rows

    def listed(self: Prepared, split: str) -> Any:
        asked.append(split)
        return rows(self, split)

    monkeypatch.setattr(Prepared, "rows", listed)
    changes = {"method": "simclr", "projector": "32", "probe": "shenzhen", "probe_every": "1", "monitor": "val_probe"}
    found = make(root, **{f"pretraining__{k}": v for k, v in changes.items()})
    assert found.monitor == "val_probe"
    probed = json.loads((root / "data/prepared/shenzhen/phantoms/manifest.json").read_text())
    assert found.identity["probe"] == probed["digest"]
    assert 0 <= found.best <= 1
    assert "test" not in asked


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "simcrl"}, "unknown self-supervised method 'simcrl'"),
        ({"method": "mae"}, "plain vision transformer"),
        ({"method": "simclr", "monitor": "val_probe"}, "monitor of simclr must be one of val_loss"),
        ({"probe": "shenzhen"}, "pretraining.probe is for self-supervised methods"),
        ({"method": "simclr", "probe": "nowhere"}, "nowhere"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_work(root: Path, changes: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make(root, **{f"pretraining__{k}": v for k, v in changes.items()})
    assert not (root / "data/runs").exists()


@pytest.mark.slow
def test_two_processes_of_torchrun_make_what_one_makes(root: Path, top: Path) -> None:
    """Losses agree to 2 %: batch norms of a few images amplify the rounding of sums in another order."""
    found = {}
    for processes in (1, 2):
        words = [f"--pretraining.{k}={v}" for k, v in {"max_epochs": 3, "batch_size": 8, "image_size": 32}.items()]
        words.append("--benchmark.tasks=[shenzhen]")
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [sys.executable, *launcher, "-m", "medtransfer", "pretrain", "random", "--dataset", "chestxray14"]
        own = {"PYTHONPATH": str(top / "src"), "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}
        own["MLFLOW_TRACKING_URI"] = f"sqlite:///{root}/{processes}.db"
        answer = subprocess.run([*command, *words], cwd=root, env=own, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr[-3000:]
        found[processes] = receipts.read(parse(ONE, fakes.BACKBONE), root)
        shutil.rmtree(root / "data/weights")
        shutil.rmtree(root / "data/runs")
    one, two = found[1], found[2]
    assert one is not None
    assert two is not None
    assert one.digest == two.digest
    assert two.best == pytest.approx(one.best, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engine__precision": "tf32"}, "arithmetic of GPUs"),
        ({"engine__compile": "true", "engine__graphs": "true"}, "CUDA graphs need a GPU"),
    ],
)
def test_arithmetic_that_a_cpu_has_not_is_refused_before_work(root: Path, changes: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        pretrain.make_all([ONE], load(root, execution__device="cpu", **changes), root, ())
    assert not (root / "data/runs").exists()
