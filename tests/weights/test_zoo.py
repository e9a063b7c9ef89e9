"""Every record: a fake file in the published layout -> conversion -> receipt -> equal features -> a training step."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from medtransfer.core.errors import UserError
from medtransfer.training import fitting, networks
from medtransfer.training.fitting import NetworkSpec
from medtransfer.weights import convert, fingerprint, recipes, recognise, sizes, store, variants
from medtransfer.weights import locate as places
from medtransfer.weights.backbones import bare_backbone, load_into, same_padding
from medtransfer.weights.formats import read
from medtransfer.weights.licences import commercial
from medtransfer.weights.names import Initialization, parse
from medtransfer.weights.zoo import RECORDS
from tests.support import checkpoints, layouts

TAGGED = [
    ("imagenet", "resnet50"), ("imagenet", "convnext_tiny"), ("imagenet", "swin_tiny_patch4_window7_224"),
    ("imagenet", "deit_tiny_patch16_224"), ("imagenet-v2", "resnet50"), ("dino", "vit_small_patch16_224"),
    ("mae", "hiera_tiny_224"), ("mae", "vit_base_patch16_224"), ("convnext-v2", "convnextv2_atto"),
    ("dinov2", "vit_small_patch14_dinov2"), ("dinov2", "vit_small_patch14_reg4_dinov2"),
    ("dinov3", "vit_small_patch16_dinov3"), ("dinov3", "convnext_tiny"), ("clip", "resnet50_clip_gap"),
    ("clip", "vit_base_patch32_clip_224"), ("timm:resnet18.a1_in1k", "resnet18"),
    ("imagenet-22k", "vit_small_patch16_224"), ("imagenet-22k", "resnetv2_50x1_bit"), ("imagenet-12k", "convnext_nano"),
    ("swsl", "resnet18"), ("ssl-yfcc", "resnet18"), ("noisy-student", "tf_efficientnet_b0"),
    ("convnext-v2-22k", "convnextv2_nano"), ("beit-v2-22k", "beitv2_base_patch16_224"),
    ("openclip", "vit_base_patch32_clip_224"), ("siglip", "vit_base_patch16_siglip_224"),
    ("siglip-2", "vit_base_patch32_siglip_256"), ("tips-v2", "vit_base_patch14_reg1_tipsv2"),
    ("perception-encoder", "vit_pe_core_tiny_patch16_384"), ("eva02", "eva02_tiny_patch14_224"),
    ("perception-encoder-spatial", "vit_pe_spatial_tiny_patch16_512"), ("sam", "samvit_base_patch16"),
    ("sam-2", "sam2_hiera_tiny"), ("eupe", "vit_tiny_patch16_dinov3_qkvb"), ("c-radio", "vit_base_patch16_radio_v3"),
]  # fmt: skip
"""initializations that are a tag of timm's"""


LATER = [
    (name, backbone)
    for name in layouts.WRITERS
    for backbone in RECORDS[name].sources
    if sizes.parameters(backbone) < 60_000_000
]
"""files whose layouts are those of `layouts`, of a size that can be written in a test"""
SMALL = sorted(name for name in layouts.WRITERS if "resnet50" not in RECORDS[name].sources)
"""likewise, as a smaller network of the same architecture"""
QUICK_SMALL = {"biomedclip", "chexfound", "medsam", "rad-dino-maira-2", "retfound-cfp", "uni2-h"}
"""those of layouts that differ most"""
QUICK = {
    ("swav", "resnet50"),
    ("imagenet", "deit_tiny_patch16_224"),
}  # fmt: skip
"""a file of each kind; all of them take minutes"""


def cases(pairs: list[tuple[str, str]]) -> list[Any]:
    marks = {True: [pytest.mark.slow], False: []}
    return [
        pytest.param(name, backbone, marks=marks[(name, backbone) not in QUICK], id=f"{name}@{backbone}")
        for name, backbone in pairs
    ]


def bound(name: str, backbone: str) -> Initialization:
    """Binds a record whose file is not the published one, so has another hash."""
    init = parse(name if ":" in name else f"{name}@{backbone}", backbone)
    bare = {key: replace(source, sha256="", md5="") for key, source in init.record.sources.items()}
    return replace(init, record=replace(init.record, sources=bare))


def stands_in(backbone: str) -> dict[str, Tensor]:
    """Draws tensors that differ in every place, running statistics too."""
    generator = torch.Generator().manual_seed(7)
    state = bare_backbone(backbone).state_dict()
    for name, tensor in state.items():
        if name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(tensor.shape, generator=generator)
        elif tensor.is_floating_point():
            state[name] = tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
    return dict(state)


def smaller(backbone: str) -> str:
    """Spells a backbone of the same architecture with few channels, and two blocks where their number can be told."""
    architecture, told = variants.split(backbone)
    less = {"embed_dim": 48} if architecture.startswith("swin") else {"embed_dim": 48, "num_heads": 3, "depth": 2}
    return variants.spelled(architecture, {**told, **less})


@pytest.fixture(scope="module")
def resnet50() -> dict[str, Tensor]:
    return stands_in("resnet50")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(places, "TIMM_SHA256", {})
    (tmp_path / "data/downloads").mkdir(parents=True)
    yield tmp_path
    for path in [*tmp_path.glob("data/*/*"), *tmp_path.glob("data/*/*/*")]:  # hundreds of megabytes each
        if path.is_file():
            path.unlink()
    gc.collect()


def published(init: Initialization, tensors: dict[str, Tensor], root: Path) -> Path:
    """Writes the fake file where the published one is to be put."""
    source = places.resolve(init)
    path = places.place(init, source, source.url, root)
    if init.record.name in layouts.WRITERS:
        layouts.write(init.record.name, tensors, path)
        return path
    if not source.tag:
        checkpoints.write(init.record.name, init.backbone, tensors, path)
        return path
    whole = timm.create_model(source.tag).state_dict() | tensors  # with the tag's classifier, if it has one
    save_file({key: tensor.contiguous() for key, tensor in whole.items()}, path)
    return path


def source_features(init: Initialization, tensors: dict[str, Tensor]) -> tuple[float, ...]:
    """Computes the features that the publisher's network has, on what it was given to see."""
    model = bare_backbone(init.backbone)
    load_into(model, tensors, init.backbone)
    same_padding(model, init.padding)
    if init.record.name == "radimagenet":  # saw blue first
        with torch.no_grad():
            first = model.get_parameter("conv1.weight")
            first.copy_(first.flip(1))
    return fingerprint.features(model)


@pytest.mark.parametrize(("name", "backbone"), cases([*checkpoints.NAMES, *TAGGED, *LATER]))
def test_a_published_file_becomes_the_backbone_it_holds(
    root: Path, resnet50: dict[str, Tensor], name: str, backbone: str
) -> None:
    init = bound(name, backbone)
    becomes_what_it_holds(init, resnet50 if backbone == "resnet50" else stands_in(backbone), root)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK_SMALL)) for name in SMALL]
)
def test_a_smaller_network_in_the_published_layout_becomes_the_backbone_it_holds(root: Path, name: str) -> None:
    record = RECORDS[name]
    ((backbone, source),) = record.sources.items()
    less = smaller(backbone)
    sources = {less: replace(source, sha256="", md5="")}
    init = Initialization(record=replace(record, sources=sources), backbone=less)
    becomes_what_it_holds(init, stands_in(less), root)


def becomes_what_it_holds(init: Initialization, tensors: dict[str, Tensor], root: Path) -> None:
    """Converts a fake file and holds every number, key and feature to what it was made of."""
    if init.record.name == "txrv-resnet50":  # of one channel
        tensors = tensors | {"conv1.weight": tensors["conv1.weight"][:, :1].expand(-1, 3, -1, -1).contiguous()}
    path = published(init, tensors, root)
    receipt = store.obtain(init, root)
    assert receipt is not None
    back = store.state(init, root, 0, "one")
    assert set(back) == set(tensors)
    kept = [key for key in tensors if key not in receipt.filled and key != "conv1.weight"]
    assert all(torch.equal(back[key], tensors[key]) for key in kept)
    assert all(key.endswith("num_batches_tracked") for key in receipt.filled)
    assert fingerprint.deviation(receipt.fingerprint, source_features(init, tensors)) < 1e-5
    assert store.verify(init, root) < 1e-5
    used = {part for keys in receipt.keys.values() for part in keys.split(" + ")}
    accounted = used | {key for keys in receipt.dropped.values() for key in keys}
    content = read.read(path, places.resolve(init).nested, places.resolve(init).member)
    assert accounted >= set(content.tensors)
    assert receipt.parameters == sum(p.numel() for p in bare_backbone(init.backbone).parameters())
    assert receipt.files[0].bytes == path.stat().st_size
    assert receipt.unverified == init.record.unverified
    assert store.obtain(init, root) == receipt
    one_step(init.backbone, back)


def one_step(backbone: str, tensors: dict[str, Tensor]) -> None:
    specs = (NetworkSpec(backbone=backbone, image_size=side) for side in (64, 112, 128, 224, 1024))
    spec = next(spec for spec in specs if not fitting.misfit(spec))
    model, size = networks.classifier(spec, 2, tensors, 0), spec.image_size
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = model(torch.randn(2, 3, size, size)).square().mean()
    loss.backward()
    optimizer.step()
    changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert torch.isfinite(loss)
    assert sum(changed) > len(changed) / 2


def damage(content: read.Content, key: str, what: str) -> read.Content:
    tensors = dict(content.tensors)
    if what == "missing":
        del tensors[key]
    elif what == "unexpected":
        tensors["something.else"] = torch.ones(2)
    elif what == "shape":
        tensors[key] = torch.ones(3, 2)
    elif what == "prefix":
        tensors = {f"student.{name}": tensor for name, tensor in tensors.items()}
    return replace(content, tensors=tensors)


SOME = ["swav", "moco-v2", "byol", "simclr-v2", "infomin", "radimagenet", "inat2021-mini", "imagenet"]


@pytest.mark.parametrize(
    "name", [name if name == "swav" else pytest.param(name, marks=pytest.mark.slow) for name in SOME]
)
def test_what_does_not_account_for_the_backbone_is_refused_with_file_and_keys(
    root: Path, resnet50: dict[str, Tensor], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = bound(name, "resnet50")
    path = published(init, resnet50, root)
    receipt = store.obtain(init, root)
    assert receipt is not None
    source = places.resolve(init)
    content = read.read(path, source.nested, source.member)
    checkpoint = places.find(init, root)
    key = receipt.keys["layer3.2.conv2.weight"]
    for what, words in (
        ("missing", "layer3.2.conv2.weight"),
        ("unexpected", "something.else"),
        ("shape", "layer3.2.conv2.weight" if source.tag else key),
        ("prefix", "conv1.weight"),
    ):
        monkeypatch.setattr(read, "read", lambda *_, what=what: damage(content, key, what))
        with pytest.raises(UserError) as error:
            convert.convert(init, checkpoint)
        assert str(path) in str(error.value), what
        assert words in str(error.value), (what, str(error.value))


@pytest.mark.parametrize("architecture", ["test_convnext", "swin_tiny_patch4_window7_224"])
def test_what_is_known_by_its_original_names_may_have_timms_too(architecture: str) -> None:
    """The chest X-ray ConvNeXt and Swin may have been trained by timm's classes."""
    state = stands_in(architecture)
    reading = recognise.recognise({f"module.{key}": tensor for key, tensor in state.items()}, state, architecture)
    assert {key: source for key, (source, _) in reading.found.items()} == {key: (f"module.{key}",) for key in state}
    assert reading.fits


def test_a_file_of_another_hash_is_refused_and_nothing_converted(root: Path, resnet50: dict[str, Tensor]) -> None:
    for name, stated in (("moco-v2", "a04e12f8"), ("radimagenet", "08629f7e7bd3e29b")):
        init = parse(name, "resnet50")
        path = published(init, resnet50, root)
        with pytest.raises(UserError, match=stated) as error:
            store.obtain(init, root)
        assert str(path) in str(error.value)
    assert not list(root.glob("data/weights/*/*"))


def test_a_file_by_hand_is_asked_for_with_its_steps(root: Path) -> None:
    with pytest.raises(UserError) as error:
        store.obtain(parse("inat2021", "resnet50"), root)
    for words in (
        "cornell.box.com",
        "unpack it",
        str(root / "data/downloads"),
        "inat2021_supervised_large_from_scratch",
    ):
        assert words in str(error.value)


def test_records_are_complete_and_their_files_have_names_of_their_own() -> None:
    files: dict[str, str] = {}
    for name, record in RECORDS.items():
        assert record.name == name
        assert record.data
        assert record.method
        timms = bool(record.tags) or any(source.tag for source in record.sources.values())
        assert record.licence or timms or name == "imagenet", name
        for backbone, source in record.sources.items():
            assert [bool(source.url), bool(source.steps), bool(source.tag)].count(True) == 1, name
            if source.tag:
                continue
            file = places.place(parse(f"{name}@{backbone}", backbone), source, source.url, Path()).name
            assert files.setdefault(file, name) == name, f"{file} is of {name} and {files[file]}"
            assert len(source.sha256) in (0, 8, 64)
        assert all(0 < s <= 1 for s in record.std or (1,))


def test_licences_say_whether_commercial_use_is_permitted() -> None:
    assert commercial("Apache-2.0") == "yes"
    assert commercial("CC-BY-NC-4.0") == commercial("ASU non-commercial") == "no"
    assert commercial("dinov3-license") == commercial("not stated") == "unclear"


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("swav", (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)),
        ("simclr-v1", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        ("byol", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("radimagenet", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("clip@vit_base_patch16_clip_224", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ("dino@vit_small_patch16_224", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("random@tf_efficientnet_lite0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("timm:vit_base_patch16_224.augreg_in21k", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_input_normalization_is_that_of_pre_training(name: str, mean: Any, std: Any) -> None:
    assert recipes.normalization(parse(name, "resnet50")) == (mean, std)
