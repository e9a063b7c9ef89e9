"""The fake checkpoints hold what the published files are documented to hold.

Counts and keys are written out here from the publishers' loaders, not from the writers. torch's files are read by torch
itself; `formats`, which has tests of its own, reads TensorFlow's and haiku's.
"""

from __future__ import annotations

import zipfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from medtransfer.weights.formats import read
from tests.support import checkpoints

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
PROJECTION = {"module.projection_head.3.weight": (128, 2048), "module.projection_head.1.running_var": (2048,)}
TORCH: dict[str, tuple[str, str, int, Shapes]] = {
    "inat2021": ("state_dict", "", 320, {"fc.weight": (10000, 2048)}),
    "inat2021-mini": ("state_dict", "module.", 320, {"module.fc.bias": (10000,)}),
    "imagenet+inat2021": ("state_dict", "", 320, {"fc.weight": (10000, 2048)}),
    "imagenet+inat2021-mini": ("state_dict", "", 320, {"fc.weight": (10000, 2048)}),
    "insdis": ("model", "module.encoder.", 320, {"module.head.0.weight": (128, 2048)}),
    "pirl": ("model", "module.encoder.", 324, {"module.head_jig.fc1.bias": (128,)}),
    "infomin": ("model", "module.encoder.", 328, {"module.head_jig.fc2.weight": (128, 1152)}),
    "moco-v1": ("state_dict", "module.encoder_q.", 320, {"module.encoder_q.fc.weight": (128, 2048)}),
    "moco-v2": ("state_dict", "module.encoder_q.", 322, {"module.encoder_q.fc.2.weight": (128, 2048)}),
    "pcl-v1": ("state_dict", "module.encoder_q.", 642, {"module.encoder_k.fc.weight": (128, 2048)}),
    "pcl-v2": ("state_dict", "module.encoder_q.", 646, {"module.queue": (128, 16384), "module.queue_ptr": (1,)}),
    "swav": ("", "module.", 328, PROJECTION | {"module.prototypes.weight": (3000, 128)}),
    "sela-v2": ("", "module.", 328, PROJECTION | {"module.prototypes.weight": (3000, 128)}),
    "deepcluster-v2": ("", "module.", 330, PROJECTION | {"module.prototypes.prototypes2.weight": (3000, 128)}),
    "simclr-v1-lightly": ("state_dict", "", 320, {"fc.weight": (1000, 2048)}),
    "barlow-twins": ("", "", 318, {}),
    "vicreg": ("", "", 318, {}),
    "dino": ("", "", 318, {}),
    "random+chestxray14-published": ("state_dict", "", 320, {"fc.0.weight": (14, 2048)}),
    "imagenet+chestxray14-published": ("state_dict", "", 320, {"fc.0.weight": (14, 2048)}),
    "random+chexpert-published": ("state_dict", "module.", 320, {"module.fc.0.weight": (14, 2048)}),
    "imagenet+chexpert-published": ("state_dict", "module.", 320, {"module.fc.0.weight": (14, 2048)}),
    "imagenet+mimic-published": ("state_dict", "module.", 320, {"module.fc.0.weight": (14, 2048)}),
    "moco-v3": ("state_dict", "module.base_encoder.", 666, {"module.base_encoder.fc.3.weight": (256, 4096)}),
}
"""name -> place of the state dict, the backbone's prefix, number of tensors in it, shapes of some of the rest"""
LEGACY = {
    *("insdis", "pirl", "infomin", "moco-v1", "moco-v2", "pcl-v1", "pcl-v2"),
    *("swav", "sela-v2", "deepcluster-v2"),
}
"""files as old as, or made by code for, a torch before 1.6"""
IN_NAMES_OF_THEIR_OWN = {"simclr-v1", "simclr-v2", "byol", "radimagenet"}
PLACES = {
    "conv1.weight": ("base_model/conv2d", "~/initial_conv"),
    "layer1.0.downsample.0.weight": ("base_model/conv2d_1", "~/block_group_0/~/block_0/~/shortcut_conv"),
    "layer1.0.conv1.weight": ("base_model/conv2d_2", "~/block_group_0/~/block_0/~/conv_0"),
    "layer1.1.conv1.weight": ("base_model/conv2d_5", "~/block_group_0/~/block_1/~/conv_0"),
    "layer2.0.downsample.0.weight": ("base_model/conv2d_11", "~/block_group_1/~/block_0/~/shortcut_conv"),
    "layer4.2.conv3.weight": ("base_model/conv2d_52", "~/block_group_3/~/block_2/~/conv_2"),
}
"""torchvision's name -> SimCLR's and haiku's, counted by hand"""


def drawn(backbone: str) -> State:
    """Draws tensors no two of which are equal."""
    generator = torch.Generator().manual_seed(11)
    state = timm.create_model(backbone, num_classes=0).state_dict()
    return {
        key: torch.randn(x.shape, generator=generator) if x.is_floating_point() else torch.tensor(number)
        for number, (key, x) in enumerate(state.items())
    }


@pytest.fixture(scope="module")
def resnet50() -> State:
    return drawn("resnet50")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for path in tmp_path.iterdir():  # hundreds of megabytes each
        path.unlink()


def written(name: str, backbone: str, tensors: State, path: Path) -> Any:
    """Writes a file and reads it as torch does."""
    checkpoints.write(name, backbone, tensors, path)
    with torch.serialization.safe_globals([Namespace]):
        return torch.load(path, weights_only=True)


def leaves(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from leaves(value)


def copies(tree: Any, tensors: State) -> int:
    """Counts the tensors in a tree that begin as one of the backbone's does, in whatever order its axes are."""
    known = {(x.numel(), float(x.flatten()[0])) for x in tensors.values() if x.is_floating_point()}
    return sum((x.numel(), float(x.flatten()[0])) in known for x in leaves(tree) if x.is_floating_point())


def equal(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def test_every_published_file_is_looked_at_here() -> None:
    resnets = {name for name, backbone in checkpoints.NAMES if backbone == "resnet50"}
    assert resnets == set(TORCH) | IN_NAMES_OF_THEIR_OWN
    assert set(checkpoints.NAMES) - {(name, "resnet50") for name in resnets} == {
        ("moco-v3", "vit_base_patch16_224"),
        ("imagenet+mimic-published", "swin_base_patch4_window7_224"),
        ("imagenet+mimic-published", "convnext_base"),
    }


@pytest.mark.parametrize("name", TORCH)
def test_a_torch_file_holds_the_backbone_once_under_its_prefix(folder: Path, resnet50: State, name: str) -> None:
    place, prefix, count, others = TORCH[name]
    content = written(name, "resnet50", resnet50, folder / "file")
    assert zipfile.is_zipfile(folder / "file") == (name not in LEGACY)
    state = content[place] if place else content
    assert len(state) == count
    assert equal({key: state[prefix + key] for key in resnet50}, resnet50)
    assert copies(content, resnet50) == 265
    assert {key: tuple(state[key].shape) for key in others} == others


def test_an_averaged_copy_has_the_model_s_keys_without_module(folder: Path, resnet50: State) -> None:
    content = written("infomin", "resnet50", resnet50, folder / "file")
    assert {f"module.{key}" for key in content["model_ema"]} == set(content["model"])
    assert content["contrast"]["memory"].shape == (65536, 128)
    assert content["optimizer"]["param_groups"]


def test_lightly_s_file_has_shortcuts_first_and_kernels_that_are_not_contiguous(folder: Path, resnet50: State) -> None:
    state = written("simclr-v1-lightly", "resnet50", resnet50, folder / "file")["state_dict"]
    order = list(state)
    assert order.index("layer1.0.downsample.0.weight") < order.index("layer1.0.conv1.weight")
    assert not state["layer1.0.conv2.weight"].is_contiguous()


def test_radimagenet_numbers_the_children(folder: Path, resnet50: State) -> None:
    state = written("radimagenet", "resnet50", resnet50, folder / "file")
    assert len(state) == 318
    assert copies(state, resnet50) == 265
    assert {key.split(".")[1] for key in state} == set("014567")
    for theirs, ours in (("backbone.0", "conv1"), ("backbone.1", "bn1"), ("backbone.7.2.conv3", "layer4.2.conv3")):
        assert torch.equal(state[f"{theirs}.weight"], resnet50[f"{ours}.weight"])


@pytest.mark.parametrize(("name", "member", "count"), [("simclr-v1", True, 268), ("simclr-v2", False, 728)])
@pytest.mark.slow
def test_simclr_counts_kernels_in_the_order_of_construction(
    folder: Path, resnet50: State, name: str, member: bool, count: int
) -> None:
    path = folder / ("ResNet50_1x.zip" if member else "model.ckpt-250228.index")
    checkpoints.write(name, "resnet50", resnet50, path)
    state = read.read(path, (), "ResNet50_1x/model.ckpt-225206.index" if member else "").tensors
    assert len(state) == count
    assert copies(state, resnet50) == 265
    assert sum(key.startswith("base_model/") and key.endswith("/kernel") for key in state) == 53
    for ours, (theirs, _) in PLACES.items():
        assert torch.equal(state[f"{theirs}/kernel"].permute(3, 2, 0, 1), resnet50[ours])
    for leaf, ours in (("gamma", "weight"), ("beta", "bias"), ("moving_variance", "running_var")):
        found = state[f"base_model/batch_normalization_11/{leaf}"]
        assert torch.equal(found, resnet50[f"layer2.0.downsample.1.{ours}"])
    assert state["head_supervised/linear_layer/dense/kernel"].shape == (2048, 1000)
    assert state["global_step"].dtype == torch.int64


def test_simclr_v1_is_in_a_folder_of_a_zip_alone(folder: Path, resnet50: State) -> None:
    checkpoints.write("simclr-v1", "resnet50", resnet50, folder / "ResNet50_1x.zip")
    assert [path.name for path in folder.iterdir()] == ["ResNet50_1x.zip"]
    with zipfile.ZipFile(folder / "ResNet50_1x.zip") as archive:
        parts = {f"ResNet50_1x/model.ckpt-225206.{part}" for part in ("index", "data-00000-of-00001")}
        assert parts < set(archive.namelist())


def test_simclr_v2_has_slots_and_an_averaged_copy(folder: Path, resnet50: State) -> None:
    path = folder / "model.ckpt-250228.index"
    checkpoints.write("simclr-v2", "resnet50", resnet50, path)
    assert path.with_name("model.ckpt-250228.data-00000-of-00001").is_file()
    state = read.read(path, ()).tensors
    kernel = "base_model/conv2d_52/kernel"
    assert state[kernel].shape == state[f"{kernel}/Momentum"].shape == state[f"ema_model/{kernel}"].shape
    assert sum(key.startswith("ema_model/base_model/") for key in state) == 265
    assert state["head_contrastive/nl_2/dense/kernel"].shape == (2048, 128)
    assert "head_contrastive/nl_1/batch_normalization/beta" in state
    assert "head_contrastive/nl_2/batch_normalization/beta" not in state
    assert not any("moving" in key for key in state if key.endswith("Momentum"))


@pytest.mark.slow
def test_byol_holds_online_and_target_networks_in_haiku_s_names(folder: Path, resnet50: State) -> None:
    checkpoints.write("byol", "resnet50", resnet50, folder / "pretrain_res50x1.pkl")
    state = read.read(folder / "pretrain_res50x1.pkl", ()).tensors
    assert len(state) == 3 * 171 + 2 * 330
    assert copies(state, resnet50) == 265 + 106  # a running average is there twice: average and hidden
    online = {key.removeprefix("online_params/res_net50/"): x for key, x in state.items() if "online_params/res" in key}
    assert len(online) == 53 + 2 * 53
    for ours, (_, theirs) in PLACES.items():
        assert torch.equal(online[f"{theirs}/w"].permute(3, 2, 0, 1), resnet50[ours])
    place = "res_net50/~/block_group_1/~/block_0/~/shortcut_batchnorm"
    assert state[f"online_params/{place}/scale"].shape == (1, 1, 1, 512)
    assert torch.equal(state[f"online_params/{place}/offset"].flatten(), resnet50["layer2.0.downsample.1.bias"])
    variance = state[f"online_state/{place}/~/var_ema/average"].flatten()
    assert torch.equal(variance, resnet50["layer2.0.downsample.1.running_var"])
    assert state["target_params/projector/linear_1/w"].shape == (4096, 256)
    assert state["online_params/classifier/w"].shape == (2048, 1000)


@pytest.mark.slow
def test_moco_v3_s_vit_has_its_projector_for_a_head(folder: Path) -> None:
    tensors = drawn("vit_base_patch16_224")
    state = written("moco-v3", "vit_base_patch16_224", tensors, folder / "file")["state_dict"]
    assert len(state) == 2 * (150 + 16) + 10
    assert equal({key: state[f"module.base_encoder.{key}"] for key in tensors}, tensors)
    assert copies(state, tensors) == 150
    assert state["module.base_encoder.head.6.weight"].shape == (256, 4096)
    assert "module.base_encoder.head.7.weight" not in state
    assert state["module.predictor.3.weight"].shape == (256, 4096)


@pytest.mark.slow
def test_swin_merges_patches_at_the_end_of_a_stage_and_saves_its_buffers(folder: Path) -> None:
    tensors = drawn("swin_base_patch4_window7_224")
    state = written("imagenet+mimic-published", "swin_base_patch4_window7_224", tensors, folder / "file")["state_dict"]
    assert len(state) == 327 + 24 + 11 + 2
    assert copies(state, tensors) == 327
    for stage in (0, 1, 2):
        found = state[f"module.layers.{stage}.downsample.reduction.weight"]
        assert torch.equal(found, tensors[f"layers.{stage + 1}.downsample.reduction.weight"])
    key = "layers.2.blocks.17.attn.relative_position_bias_table"
    assert torch.equal(state[f"module.{key}"], tensors[key])
    assert state["module.layers.2.blocks.17.attn.relative_position_index"].shape == (49, 49)
    masks = [tuple(x.shape) for key, x in state.items() if key.endswith("attn_mask")]
    assert masks == [(64, 49, 49), (16, 49, 49), *[(4, 49, 49)] * 9]
    assert state["module.head.weight"].shape == (14, 1024)


@pytest.mark.slow
def test_convnext_has_its_authors_names(folder: Path) -> None:
    tensors = drawn("convnext_base")
    content = written("imagenet+mimic-published", "convnext_base", tensors, folder / "file")
    state = content["model"]
    assert isinstance(content["args"], Namespace)
    assert len(state) == 342 + 2
    assert copies(state, tensors) == 342
    for theirs, ours in (
        ("downsample_layers.0.0", "stem.0"),
        ("downsample_layers.0.1", "stem.1"),
        ("downsample_layers.3.1", "stages.3.downsample.1"),
        ("stages.2.26.dwconv", "stages.2.blocks.26.conv_dw"),
        ("stages.2.26.pwconv2", "stages.2.blocks.26.mlp.fc2"),
        ("norm", "head.norm"),
    ):
        assert torch.equal(state[f"{theirs}.weight"], tensors[f"{ours}.weight"])
    assert torch.equal(state["stages.2.26.gamma"], tensors["stages.2.blocks.26.gamma"])
    assert state["head.bias"].shape == (14,)


@pytest.mark.parametrize("backbone", ["resnet18", "convnextv2_atto"])
def test_timm_s_own_file_is_the_whole_model_with_a_classifier(folder: Path, backbone: str) -> None:
    tensors = drawn(backbone)
    checkpoints.write("timm", backbone, tensors, folder / "model.safetensors")
    state = load_file(folder / "model.safetensors")
    assert state.keys() == timm.create_model(backbone).state_dict().keys()
    assert len(state) == len(tensors) + 2
    assert equal({key: state[key] for key in tensors}, tensors)


def test_a_file_is_the_same_each_time_and_the_caller_s_numbers_are_left_alone(folder: Path, resnet50: State) -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    first = written("moco-v1", "resnet50", resnet50, folder / "one")["state_dict"]
    assert torch.equal(torch.rand(2), expected)
    assert equal(written("moco-v1", "resnet50", resnet50, folder / "two")["state_dict"], first)
