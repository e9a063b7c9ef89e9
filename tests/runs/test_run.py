from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medtransfer.core.errors import UserError
from medtransfer.data.cache import load
from medtransfer.data.catalog import TASKS
from medtransfer.data.tasks import Layout
from medtransfer.params import OwnInit
from medtransfer.runs import dry_run, run
from medtransfer.runs.run import Run
from medtransfer.weights import backbones, store
from medtransfer.weights.names import Initialization, parse
from tests.support import fakes, workspace

PUBLISHED = "imagenet+chestxray14-published"


def planned(top: Path, init: Initialization, task: str = "shenzhen", **overrides: str) -> Run:
    return Run(
        init=init, task=task, seed=0, params=fakes.load_params(top, **overrides), device="cpu", prepared=top,
        manifest_digest="m", marks=(), weights_sha256="w", root=top,
    )  # fmt: skip


def own(**fields: Any) -> Initialization:
    return parse("ours", "resnet50", {"ours": OwnInit(file="w.pth", backbone=fakes.BACKBONE, **fields)})


def test_a_mean_of_ones_own_is_part_of_a_runs_identity(top: Path) -> None:
    one, other = (planned(top, own(mean=mean)).digest for mean in ((0.5, 0.5, 0.5), (0.4, 0.5, 0.5)))
    assert one != other
    rule = {"classification__normalization": "imagenet"}
    one, other = (planned(top, own(mean=mean), **rule).digest for mean in ((0.5, 0.5, 0.5), (0.4, 0.5, 0.5)))
    assert one == other


def test_the_padding_switch_changes_the_identity_of_those_runs_that_it_changes(top: Path) -> None:
    def digests(name: str) -> set[str]:
        return {planned(top, parse(name, "x"), model__padding=p).digest for p in ("init", "torch")}

    assert len(digests("byol")) == len(digests("simclr-v1")) == 2
    assert len(digests("swav")) == len(digests("random@resnet50")) == 1


def test_the_decoder_is_in_the_identity_of_segmentation_alone(top: Path) -> None:
    init = parse("random@test_convnext", "x")
    shown = planned(top, init, "montgomery").fields
    assert shown["model.decoder"] == "upernet"
    assert "model.decoder" not in planned(top, init, "shenzhen").fields


def test_a_tolerance_is_in_the_identity_of_own_tasks_that_state_one(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(**changes: Any) -> str:
        task = replace(TASKS["montgomery"], spacing=None, **changes)
        monkeypatch.setattr("medtransfer.runs.run.catalog.lookup", lambda name, root: task)
        return planned(top, parse("random@resnet50", "x"), "montgomery").digest

    monkeypatch.setattr("medtransfer.runs.run.Run.fields", {})
    assert digest(tolerance=(3, "px")) == digest()
    own = [digest(layout=Layout(), tolerance=value) for value in (None, (2, "px"), (2, "mm"), (3, "mm"))]
    assert own[0] == digest()
    assert len(set(own)) == 4


def test_an_init_is_left_out_where_it_was_pre_trained_on_the_tasks_own_dataset() -> None:
    inits = [parse(name, "resnet50") for name in ("imagenet", PUBLISHED)]
    tasks = {name: TASKS[name] for name in ("chestxray14", "siim")}
    pairs = [(task, init.record.name) for task, init in run.applicable(inits, tasks)]
    assert pairs == [("chestxray14", "imagenet"), ("siim", "imagenet"), ("siim", PUBLISHED)]
    with pytest.raises(UserError, match=r"not applicable: imagenet\+chestxray14-published@resnet50 on chestxray14"):
        run.applicable(inits[1:], {"chestxray14": TASKS["chestxray14"]})


def test_runs_on_images_that_an_init_has_seen_are_marked(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = workspace.make(tmp_path, top, "siim", "chexpert")
    params = fakes.load_params(root, inits=f"{{ours: {{file: w.pth, backbone: {fakes.BACKBONE}}}}}")
    torch.save(backbones.bare_state(fakes.BACKBONE, 1, "one"), tmp_path / "w.pth")
    clean = run.plan(params, root, ["ours"], ["siim"], [0])
    assert "contaminated" not in clean[0].marked
    init = clean[0].init
    seen = replace(init, record=replace(init.record, name=PUBLISHED))
    monkeypatch.setattr(run, "parse", lambda *_: seen)
    monkeypatch.setattr(
        store, "obtain", lambda *_: store.read_receipt(next(root.glob("data/weights/adhoc/*.safetensors")))
    )
    assert "contaminated" in run.plan(params, root, ["ours"], ["siim"], [0])[0].marked


def test_test_images_in_a_training_list_mark_the_runs_of_an_init_and_of_chains_from_it(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = workspace.make(tmp_path, top, "shenzhen")
    torch.save(backbones.bare_state(fakes.BACKBONE, 1, "one"), tmp_path / "w.pth")
    plain = {"file": "w.pth", "backbone": fakes.BACKBONE}

    def planned(**images: str) -> Run:
        here = fakes.load_params(root, inits=json.dumps({"ours": plain | images}))
        return run.plan(here, root, ["ours"], ["shenzhen"], [0])[0]

    bare = planned()
    samples = load(bare.prepared).samples
    test, train = (samples["id"][samples["split"] == split].tolist() for split in ("test", "train"))
    seen = tmp_path / "seen.txt"
    (tmp_path / "other.csv").write_text("image,age\n" + "".join(f"{name}.png,5\n" for name in train))
    seen.write_text("".join(f"set/{name}.png\n" for name in (*test[:3], *train)))
    found, clean = planned(images="seen.txt"), planned(images="other.csv")
    assert bare.listed is None
    assert found.listed is not None
    assert (found.listed.held, found.listed.test, found.marked[-1]) == (3, len(test), "contaminated")
    assert clean.listed is not None
    assert (clean.listed.held, clean.listed.by) == (0, ("name",))
    assert "contaminated" not in clean.marked
    assert len({bare.digest, found.digest, clean.digest}) == 3
    assert replace(found, listed=None).digest == bare.digest
    (line,) = dry_run.list_lines([bare, found])
    assert line.startswith(f"ours@{fakes.BACKBONE} on shenzhen: 3 of {len(test)} test images are in its training list")
    chain = parse("ours+chexpert", "", {"ours": OwnInit(file="w.pth", backbone=fakes.BACKBONE, images="seen.txt")})
    assert run._listed(chain, load(bare.prepared), bare.params, root) == found.listed
    seen.unlink()
    with pytest.raises(UserError, match=r"looked for the list of training images .*seen\.txt, found none"):
        planned(images="seen.txt")


@pytest.mark.slow
def test_a_run_starts_from_a_file_with_a_key_rule_of_ones_own(top: Path, tmp_path: Path) -> None:
    root = workspace.make(tmp_path, top, "shenzhen")
    state = {f"student.{k}": v for k, v in backbones.bare_state(fakes.BACKBONE, 1, "one").items()}
    torch.save(state | {"student.projector.weight": torch.ones(2, 2)}, tmp_path / "w.pth")
    entry = f"{{ours: {{file: w.pth, backbone: {fakes.BACKBONE}, prefix: student., drop: [student.projector.*]}}}}"
    code, output = workspace.run(
        top, root, "finetune", "--init", "ours", "--task", "shenzhen", "--seed", "0", "--inits", entry
    )
    assert code == 1
    assert "inits" in output  # a section is no dotted parameter: it is written into params.yaml
    text = (root / "params.yaml").read_text().replace("inits: {}", f"inits: {entry}")
    (root / "params.yaml").write_text(text)
    code, output = workspace.run(top, root, "finetune", "--init", "ours", "--task", "shenzhen", "--seed", "0")
    assert code == 0, output
    assert f"ours@{fakes.BACKBONE}-s0: test auc" in output
