from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from medtransfer import params as parameters
from medtransfer.data.fetch import medmnist
from medtransfer.packs import cards
from medtransfer.weights import receipts
from medtransfer.weights.locate import File
from medtransfer.weights.names import parse
from medtransfer.weights.receipts import Lineage, Receipt
from medtransfer.weights.records import MODALITIES
from tests.support import packs, workspace

RECEIPT = Receipt(
    init="imagenet", backbone="resnet50", files=(File("timm:x", "f" * 64, 1),), container="", beside=(), layout="",
    recipe={}, keys={}, dropped={}, filled=(), missing=(), unexpected=(), adapted=(), tensors_sha256="t" * 64,
    parameters=1, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), padding="", data="", method="", paper="",
    licence="CC BY-NC 4.0", commercial="no", note="", fingerprint=(), versions={},
)  # fmt: skip
LINEAGE = Lineage(
    init="imagenet@resnet50+chexpert", backbone="resnet50", digest="d", identity={}, parent="imagenet@resnet50",
    parent_sha256="t" * 64, parent_receipt=None, dataset="chexpert", manifest_digest="m", dropped=(), targets={},
    images={}, marks=(), method="supervised", monitor="val_auc", best_epoch=0, best=0.9, epochs=1, seconds=1.0,
    tensors_sha256="c" * 64, parameters=1, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), padding="",
    licences=("weights imagenet: Apache-2.0", "images of chexpert: Stanford University Dataset Research Use Agreement"),
    fingerprint=(), versions={}, mlflow_run_id="x",
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, top: Path) -> Path:
    return workspace.make(tmp_path, top)


def found(root: Path, init: str, tensors: str) -> Any:
    params = parameters.load(root / "params.yaml")
    (card,) = cards.of_inits([packs.result(init=init, weights_sha256=tensors)], params, root).values()
    return card


def test_a_receipt_says_file_and_licence_where_the_runs_began_with_its_tensors(root: Path) -> None:
    folder = root / "data/weights/benchmark"
    folder.mkdir(parents=True)
    (folder / "imagenet--resnet50.safetensors").touch()
    (folder / "imagenet--resnet50.receipt.json").write_text(json.dumps(dataclasses.asdict(RECEIPT)))
    card = found(root, "imagenet@resnet50", "t" * 64)
    assert (card.weights_sha256, card.tensors_sha256) == ("f" * 64, "t" * 64)
    assert (card.licence, card.commercial) == ("CC BY-NC 4.0", "no")
    other = found(root, "imagenet@resnet50", "o" * 64)  # they began with what is no longer here
    assert (other.weights_sha256, other.tensors_sha256) == ("", "o" * 64)
    assert other.licence != "CC BY-NC 4.0"


def test_weights_trained_further_have_the_modality_of_their_last_dataset_and_the_strictest_licence(root: Path) -> None:
    init = parse("imagenet+chexpert", "resnet50")
    path = receipts.path(init, root)
    path.parent.mkdir(parents=True)
    path.touch()
    path.with_suffix(".receipt.json").write_text(json.dumps(dataclasses.asdict(LINEAGE)))
    card = found(root, init.canonical, "c" * 64)
    assert (card.family, card.modality, card.commercial) == ("domain-adapted", "chest-x-ray", "no")
    assert card.licence.startswith("weights imagenet: Apache-2.0; images of chexpert")


def test_random_weights_have_no_licence_and_no_hash(root: Path) -> None:
    card = found(root, "random@resnet50", "random")
    assert (card.licence, card.commercial, card.tensors_sha256, card.modality) == ("", "yes", "", "none")


def test_every_dataset_that_can_be_had_has_a_modality_or_a_reason() -> None:
    assert set(cards.MODALITIES.values()) <= set(MODALITIES)
    flat = {name for name in medmnist() if "3d" not in name}
    assert flat <= cards.MODALITIES.keys()


def test_a_task_that_is_not_described_here_goes_by_its_name(root: Path) -> None:
    one = packs.result(task="mine", dataset="mine", images=("mine", "shenzhen"))
    card = cards.of_tasks([one], root)["mine"]
    assert (card.title, card.modality, card.derived_from) == ("mine", "chest-x-ray", ("shenzhen",))
    own = cards.of_tasks([dataclasses.replace(one, images=("mine",))], root)["mine"]
    assert own.modality == "not-stated"
