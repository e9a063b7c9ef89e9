from __future__ import annotations

import re
from collections import Counter
from types import ModuleType

import pytest
import timm
import torch

from medtransfer.data import catalog
from medtransfer.data.tasks import applicable, contaminated
from medtransfer.weights import architectures, locate, recipes, sizes, timm_index, variants
from medtransfer.weights.backbones import bare_backbone
from medtransfer.weights.licences import commercial
from medtransfer.weights.names import DATASETS, Initialization, normal, parse, seen
from medtransfer.weights.records import MODALITIES, Record
from medtransfer.weights.rows import chest, medical, pathology, selfsupervised, supervised
from medtransfer.weights.zoo import RECORDS
from tests.support import checkpoints, layouts

FILES: tuple[ModuleType, ...] = (supervised, selfsupervised, chest, medical, pathology)
COUNTS = {
    "none": 1, "natural": 69, "chest-x-ray": 22, "radiology": 6, "ct": 1, "fundus": 6, "oct": 1, "ultrasound": 1,
    "dermatology": 1, "endoscopy": 3, "pathology": 20, "medical": 3,
}  # fmt: skip


def backbones(record: Record) -> list[str]:
    return locate.backbones(Initialization(record=record, backbone=""))


def bound() -> list[Initialization]:
    """Binds every record to each of its backbones."""
    return [Initialization(record=r, backbone=b) for r in RECORDS.values() for b in backbones(r)]


EVERY = sorted({init.backbone for init in bound()})


def test_no_row_is_lost_and_each_stands_under_its_modality() -> None:
    assert sum(len(file.ROWS) for file in FILES) == len(RECORDS) == sum(COUNTS.values())
    assert Counter(record.modality for record in RECORDS.values()) == COUNTS
    assert set(COUNTS) <= set(MODALITIES)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", name) for name in RECORDS)


def test_every_backbone_is_one_of_timm_s_and_spelled_as_everywhere() -> None:
    for backbone in EVERY:
        assert timm_index.is_architecture(backbone), backbone
        assert normal(backbone) == backbone
    assert set(variants.VARIANTS) <= set(EVERY), "a short name that no row uses"


def test_every_tag_has_weights_in_timm() -> None:
    for record in RECORDS.values():
        assert all(timm_index.pretrained(f"*.{tag}") for tag in record.tags), record.name
        for backbone, source in record.sources.items():
            assert not source.tag or source.tag.partition(".")[0] == backbone
            assert not source.tag or timm_index.pretrained(source.tag), source.tag


TAGGED = sorted({name for init in bound() if (name := locate.timm_name(init))})


@pytest.mark.slow
@pytest.mark.parametrize("tag", TAGGED)
def test_the_network_of_a_tag_holds_its_backbone(tag: str) -> None:
    """A file of timm's is loaded into the whole network, classifier and all, and the backbone taken out of that."""
    with torch.device("meta"):
        whole = {name: tensor.shape for name, tensor in timm.create_model(tag).state_dict().items()}
        bare = {name: tensor.shape for name, tensor in bare_backbone(tag.partition(".")[0]).state_dict().items()}
    assert bare.items() <= whole.items()


def test_every_file_has_an_address_and_a_licence() -> None:
    for init in bound():
        source = locate.resolve(init)
        assert source.url.startswith("https://") or source.steps, init.canonical
        assert recipes.licence_of(init) not in ("", "None"), init.canonical


def test_every_file_of_its_own_is_written_anew_in_a_test() -> None:
    own = {(r.name, b) for r in RECORDS.values() for b, source in r.sources.items() if not source.tag}
    later = {(name, backbone) for name in layouts.WRITERS for backbone in RECORDS[name].sources}
    assert own == later | set(checkpoints.NAMES)


def test_what_stands_behind_a_gate_has_its_page() -> None:
    gated = {record.name: record for record in RECORDS.values() if record.gate}
    assert {"retfound-cfp", "uni", "virchow2", "medsiglip-448", "ark-plus", "h-optimus-1"} <= set(gated)
    for record in gated.values():
        for source in record.sources.values():
            words = source.url if record.gate == "accept" else source.steps[0]
            assert ("huggingface.co/" if record.gate == "accept" else "forms.gle/") in words, record.name


def test_what_was_never_seen_of_a_file_is_said() -> None:
    for record in RECORDS.values():
        assert record.licence != "not seen" or "licence" in record.unverified, record.name
        assert not record.unverified.endswith("."), record.name
    assert not RECORDS["swav"].unverified
    assert "mean and std" in RECORDS["rad-dino"].unverified
    assert commercial(RECORDS["uni"].licence) == commercial(RECORDS["chexfound"].licence) == "unclear"


@pytest.mark.parametrize(
    ("name", "datasets"),
    [
        ("ark-plus", {"chestxray14", "chexpert", "shenzhen"}),
        ("ark-6", {"chestxray14", "chexpert", "shenzhen"}),
        ("rad-dino", {"chestxray14", "chexpert"}),
        ("rad-dino-maira-2", {"chestxray14", "chexpert"}),
        ("eva-x-base", {"chestxray14", "chexpert"}),
        ("chexfound", {"chexpert"}),
        ("medical-mae-vitb", {"chestxray14", "chexpert"}),
        ("medmae-cxr-mae-ft-cxr", {"chestxray14", "chexpert"}),
        ("medmae-in1k-byol-ft-cxr", {"chestxray14"}),
        ("txrv-resnet50", {"chestxray14", "siim"}),
        ("retfound-cfp", set()),
        ("biomedclip", set()),
    ],
)
def test_what_an_init_has_seen_keeps_it_from_those_tasks(name: str, datasets: set[str]) -> None:
    canonical = parse(f"{name}@{next(iter(RECORDS[name].sources))}", "resnet50").canonical
    assert seen(canonical) == datasets
    assert {task for task in DATASETS if not applicable(seen(canonical), task)} == datasets
    derived = {task.dataset: task.derived_from for task in catalog.TASKS.values()}
    assert contaminated(seen(canonical), "siim", derived) == ("chestxray14" in datasets)


def test_every_dataset_that_was_seen_is_one_of_a_task() -> None:
    assert {dataset for record in RECORDS.values() for dataset in record.datasets} <= DATASETS


def test_every_chest_x_ray_row_says_what_it_has_seen() -> None:
    """MIMIC-CXR is no task's; nothing else of chest X-rays is without the images of one."""
    silent = {r.name for r in RECORDS.values() if r.modality == "chest-x-ray" and not r.datasets}
    assert silent == {"imagenet+mimic-published"}


def test_the_table_of_sizes_holds_every_backbone_of_the_table_and_no_other() -> None:
    assert set(sizes.SIZES) == {*EVERY, "tf_efficientnet_lite0"}


@pytest.mark.parametrize(
    "backbone",
    [pytest.param(backbone, marks=[] if backbone in variants.VARIANTS else [pytest.mark.slow]) for backbone in EVERY],
)
def test_sizes_are_those_of_the_built_network(backbone: str) -> None:
    with torch.device("meta"):
        model = bare_backbone(backbone)
    cut = getattr(getattr(model, "patch_embed", None), "proj", None)
    whole = isinstance(cut, torch.nn.Conv2d) and cut.stride == cut.kernel_size
    patch = int(cut.stride[0]) if whole and cut is not None else 1
    count = sum(tensor.numel() for tensor in model.parameters())
    assert sizes.SIZES[backbone] == (count, patch), f'in weights/sizes.py: "{backbone}": ({count}, {patch}),'


@pytest.mark.parametrize(
    ("backbone", "side", "patch", "millions"),
    [
        ("vit_large_patch16_reg4_chexfound", 512, 16, 305),
        ("vit_giant_patch14_reg8_uni2", 224, 14, 681),
        ("vit_huge_patch14_reg4_virchow2", 224, 14, 631),
        ("vit_giant_patch16_224_gigapath", 224, 16, 1135),
        ("eva02_base_patch16_224_eva_x", 224, 16, 86),
        ("vit_base_patch14_reg4_h0mini", 224, 14, 86),
    ],
)
def test_short_names_are_networks_of_the_published_size(backbone: str, side: int, patch: int, millions: int) -> None:
    assert architectures.published_side(backbone) == side
    assert sizes.patch_size(backbone) == patch
    assert round(sizes.parameters(backbone) / 1e6) == millions


def test_a_backbone_that_no_row_has_is_built_to_be_counted() -> None:
    assert "resnet10t" not in sizes.SIZES
    assert sizes.parameters("resnet10t") == sum(tensor.numel() for tensor in bare_backbone("resnet10t").parameters())
    assert sizes.patch_size("resnet10t") == 1
