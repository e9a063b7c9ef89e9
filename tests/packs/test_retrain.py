from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from medtransfer import params as parameters
from medtransfer.core.errors import UserError
from medtransfer.packs import private, retrain
from medtransfer.packs.records import Contribution
from medtransfer.params import Params
from medtransfer.results import study
from tests.results import test_study
from tests.support import packs, workspace

CLAIMED = {
    "classification.lr": 0.5,
    "classification.augmentation.flip": 0.25,
    "tasks.shenzhen.image_size": 48,
    "tasks.shenzhen.cache_size": 64,
    "engine.precision": "bf16",
    "model.random_last_bn": "zero",
    "protocols.linear_positions": 7,
    "data.split_seed": 9,
    "execution.threads_per_run": 3,
}


@pytest.fixture
def root(tmp_path: Path, top: Path) -> Path:
    return workspace.make(tmp_path, top)


def load(root: Path, **changes: Any) -> Params:
    tree = yaml.safe_load((root / "params.yaml").read_text())
    for section, values in changes.items():
        tree[section] |= values
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    return parameters.load(root / "params.yaml")


def travelled(params: Params, **changes: Any) -> Contribution:
    """Makes a contribution of one run with a study's parameters, as they stand in a file."""
    result = packs.result(params=CLAIMED, init=changes.pop("init", "random@resnet50"))
    tree = json.loads(json.dumps(private.params(dataclasses.asdict(params))))
    return packs.contribution([result], params=tree, **changes)


def test_a_run_is_trained_with_the_values_that_its_pack_says_it_had_and_where_this_machine_says(root: Path) -> None:
    theirs = travelled(load(root, tasks={"shenzhen": {"cache_size": 36, "image_size": 32, "changes": {"lr": 7.0}}}))
    here = load(root, classification={"patience": 99}, execution={"workers": 2, "device": "auto", "backend": "ray"})
    (job,) = retrain.jobs(theirs.results, theirs, here)
    training = parameters.protocol(job.params, "shenzhen", False)
    assert (training.lr, training.augmentation.flip) == (0.5, 0.25)
    assert training.patience != 99
    assert parameters.task_params(job.params, "shenzhen").image_size == 48
    assert parameters.task_params(job.params, "shenzhen").cache_size == 64
    found = (job.params.engine.precision, job.params.model.random_last_bn, job.params.data.split_seed)
    assert found == ("bf16", "zero", 9)
    assert job.params.protocols.linear_positions == 7
    execution = job.params.execution
    assert (execution.workers, execution.device, execution.backend, execution.threads_per_run) == (2, "cpu", "local", 3)


def test_own_weights_lie_where_they_lie_here(root: Path) -> None:
    entry = {"file": "/theirs/w.pth", "backbone": "resnet50", "images": "lists/seen.csv"}
    theirs = travelled(load(root, inits={"mine": entry}), init="file:w.pth@resnet50")
    assert theirs.params["inits"]["mine"]["file"] == "w.pth"
    here = load(
        root, inits={"mine": entry | {"file": "/ours/w.pth"}}, benchmark={"inits": ["file:/ours/x/w.pth@resnet50"]}
    )
    (job,) = retrain.jobs(theirs.results, theirs, here)
    assert job.params.inits["mine"].file == "/ours/w.pth"
    assert job.params.inits["mine"].images == str(Path("lists/seen.csv").absolute())
    assert job.init == "file:/ours/x/w.pth@resnet50"


def test_parameters_of_another_version_are_refused(root: Path) -> None:
    theirs = travelled(load(root))
    theirs = dataclasses.replace(theirs, params={**theirs.params, "engine": {"quantum": True}})
    with pytest.raises(UserError, match=r"parameters of the pack are not those of this version .* engine\.quantum"):
        retrain.jobs(theirs.results, theirs, load(root))


def test_the_folder_to_train_in_leaves_the_study_as_it_is(root: Path) -> None:
    for name in (
        "raw/mine/image.png",
        "weights/adhoc/a.safetensors",
        "prepared/mine/real/images.npy",
        "runs/x/cell.json",
    ):
        (root / "data" / name).parent.mkdir(parents=True)
        (root / "data" / name).write_text("theirs")
    folder = root / "data/verify/abc/study"
    found = test_study.study(test_study.trial(0, 0.5), init="random@resnet50", task="shenzhen")
    theirs = travelled(load(root), ledgers=(found, dataclasses.replace(found, task="drive")))
    work = retrain.jobs(theirs.results, theirs, load(root))
    for _ in range(2):  # a second time it goes on in it
        retrain.workspace(root, folder, work, theirs)
        assert (folder / "data/raw/mine/image.png").read_text() == "theirs"
        assert not (folder / "data/runs/x").exists()  # the study's own finished runs are not taken for re-runs
        assert [path.name for path in (folder / study.FOLDER).glob("*/*")] == ["random--resnet50.json"]
        for name in ("weights/adhoc/a.safetensors", "prepared/mine/real/images.npy"):
            path = folder / "data" / name
            path.with_name("new").write_text("ours")
            path.with_name("new").replace(path)  # as all that is made anew is put into its place
            assert (root / "data" / name).read_text() == "theirs"
    assert (folder / "data/prepared/mine/real/images.npy").read_text() == "ours"
