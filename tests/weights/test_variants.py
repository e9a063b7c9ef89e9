"""Backbones with arguments: `<architecture>:<argument>=<value>`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from medtransfer.core.errors import UserError
from medtransfer.registry import cards, timm_folder
from medtransfer.training import fitting, networks, optimizer
from medtransfer.training.fitting import NetworkSpec
from medtransfer.weights import architectures, backbones, store, timm_index, variants
from medtransfer.weights.names import check_backbone, parse

TINY = "vit_tiny_patch16_224"


@pytest.mark.parametrize(
    ("name", "architecture", "arguments"),
    [
        ("resnet50", "resnet50", {}),
        ("vit_small_patch14_dinov2:img_size=224", "vit_small_patch14_dinov2", {"img_size": 224}),
        (
            f"{TINY}:init_values=1e-5:no_embed_class=true:mlp_layer=SwiGLUPacked",
            TINY,
            {"init_values": 1e-5, "no_embed_class": True, "mlp_layer": "SwiGLUPacked"},
        ),
    ],
)
def test_a_name_says_the_architecture_and_what_timm_is_told(
    name: str, architecture: str, arguments: dict[str, object]
) -> None:
    assert variants.split(name) == (architecture, arguments)
    assert timm_index.is_architecture(name)
    assert variants.split(variants.spelled(architecture, arguments)) == (architecture, arguments)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"{TINY}:patch_sise=8", "patch_size"),
        (f"{TINY}:patch_size", "<argument>=<value>"),
        (f"{TINY}:patch_size=8:patch_size=16", "once"),
        (f"{TINY}:mlp_layer=system", "SwiGLUPacked"),
        ("vit_tinny_patch16_224:patch_size=8", "near names: vit_tiny_patch16_224"),
    ],
)
def test_what_is_no_argument_is_refused_with_the_near_one(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_backbone(name)


def test_what_timm_does_not_build_is_refused_by_its_name() -> None:
    with pytest.raises(UserError, match=r"resnet50:patch_size=8.*unexpected keyword"):
        backbones.bare_backbone("resnet50:patch_size=8")


def test_equal_backbones_have_one_name() -> None:
    names = [
        "random@vit_small_patch14_dinov2:reg_tokens=4:img_size=224",
        "random@vit_small_patch14_dinov2:img_size=224:reg_tokens=4",
    ]
    assert len({parse(name, "").canonical for name in names}) == 1
    assert parse("random@vit_small_patch14_dinov2:img_size=518", "").canonical == "random@vit_small_patch14_dinov2"
    assert parse(f"random@{TINY}:init_values=0.00001", "").canonical == f"random@{TINY}:init_values=1e-05"
    assert (
        parse(f"file:w.pth@{TINY}:patch_size=8+drive", "resnet50").canonical == f"file:w.pth@{TINY}:patch_size=8+drive"
    )


@pytest.mark.parametrize(
    "name", [f"{TINY}:img_size=96", f"{TINY}:init_values=1e-05:img_size=96", f"{TINY}:img_size=64"]
)
def test_networks_of_a_variant_are_timms_to_the_bit(name: str) -> None:
    side = architectures.published_side(name)
    assert side == variants.split(name)[1]["img_size"]
    config: Any = backbones.bare_backbone(name).pretrained_cfg
    assert config["input_size"][-1] == side
    tensors = backbones.bare_state(name, 3, "one")
    architecture, arguments = variants.split(name)
    reference = timm.create_model(architecture, num_classes=0, **arguments)
    reference.load_state_dict(tensors)
    images = torch.randn(2, 3, side, side)
    ours = networks.backbone(NetworkSpec(backbone=name, image_size=side), tensors)
    with torch.inference_mode():
        assert torch.equal(ours.eval()(images), reference.eval()(images))


@pytest.mark.slow
def test_a_variant_trains_at_another_side_and_segments() -> None:
    name = f"{TINY}:init_values=1e-05:img_size=96"
    tensors = backbones.bare_state(name, 3, "one")
    spec = NetworkSpec(backbone=name, image_size=64)
    assert not fitting.misfit(spec)
    assert networks.classifier(spec, 2, tensors, 0)(torch.randn(2, 3, 64, 64)).shape == (2, 2)
    decoder = fitting.resolved_decoder(name, "auto")
    model = networks.segmenter(NetworkSpec(backbone=name, image_size=64, decoder=decoder), 1, tensors, 0)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 1, 64, 64)
    assert networks.pretrained_part(model)[0] == name
    assert optimizer.depth_of(name).keys() == dict(backbones.bare_backbone(name).named_parameters()).keys() | {
        "head.weight", "head.bias",
    }  # fmt: skip


def test_other_code_loads_a_registered_variant(tmp_path: Path) -> None:
    name = f"{TINY}:act_layer=silu:img_size=96:init_values=1e-05:mlp_layer=SwiGLUPacked"
    tensors = backbones.bare_state(name, 3, "one")
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "w.safetensors")
    init = parse(f"file:{tmp_path}/w.safetensors@{name}", "resnet50")
    store.obtain(init, tmp_path)
    folder = tmp_path / "backbone"
    pack = timm_folder.gather(init, tmp_path)
    assert pack is not None
    timm_folder.write(folder, pack, tmp_path)
    use = cards.backbone_use(name)
    assert "mlp_layer=timm.layers.SwiGLUPacked" in use
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, mlp_layer=timm.layers.SwiGLUPacked)
    assert model.state_dict().keys() == tensors.keys()
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in tensors.items())
