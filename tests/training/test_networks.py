from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import initialization
from timm.layers import resample_abs_pos_embed
from timm.models import swin_transformer, vision_transformer
from torch import Tensor, nn

from medtransfer import params as parameters
from medtransfer.core.errors import UserError
from medtransfer.data.catalog import TASKS
from medtransfer.runs import run as runs
from medtransfer.training import fitting, networks
from medtransfer.training.fitting import NetworkSpec
from medtransfer.weights import architectures, backbones
from medtransfer.weights.names import parse
from tests.support import fakes
from tests.support.quick import quick

FAMILIES = {
    "test_resnet": (96, "unet"),
    "test_efficientnet": (96, "unet"),
    "test_nfnet": (96, "unet"),
    "test_coatnet": (96, "unet"),
    "resnet50_clip_gap": (64, "unet"),
    "test_convnext": (96, "upernet"),
    "test_mambaout": (96, "upernet"),
    "swin_tiny_patch4_window7_224": (64, "upernet"),
    "hiera_tiny_224": (64, "upernet"),
    "efficientvit_m0": (96, "upernet"),
    "test_vit": (96, "dpt"),
    "deit_tiny_distilled_patch16_224": (64, "dpt"),
    "vit_tiny_patch16_dinov3_qkvb": (64, "dpt"),
    "eva02_tiny_patch14_224": (84, "dpt"),
    "xcit_nano_12_p8_224": (64, "dpt"),
}
"""architecture -> a side that is not the published one, and the decoder for it"""

SUCCESSOR = [
    *(f"resnet{depth}" for depth in (101, 152)),
    *(f"convnext_{size}" for size in ("tiny", "small", "base")),
    *(f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base")),
    *(f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")),
]
"""backbones of the benchmark of 2025"""


def drawn(backbone: str, seed: int = 0) -> dict[str, Tensor]:
    return backbones.bare_state(backbone, seed, "one")


def images(side: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def step(model: nn.Module, side: int) -> Tensor:
    """Takes the gradient of a batch and returns its logits."""
    torch.manual_seed(0)
    logits: Tensor = model.train()(images(side))
    logits.square().mean().backward()  # type: ignore[no-untyped-call]  # torch's own stub is untyped
    return logits.detach()


def spec(backbone: str, side: int, decoder: str = "auto", padding: str = "") -> NetworkSpec:
    return NetworkSpec(backbone=backbone, image_size=side, decoder=decoder, padding=padding)


def check_gradients(module: nn.Module) -> None:
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize("backbone", quick(FAMILIES, "test_resnet", "test_vit"))
def test_a_classifier_learns_at_a_side_that_is_not_the_published_one(backbone: str) -> None:
    side = FAMILIES[backbone][0]
    model: Any = networks.classifier(spec(backbone, side), 3, drawn(backbone), 0)
    assert side != architectures.published_side(backbone)
    assert step(model, side).shape == (2, 3)
    check_gradients(model.backbone)


@pytest.mark.parametrize("backbone", quick(FAMILIES, "test_resnet", "test_vit", "test_convnext"))
def test_a_segmenter_learns_and_answers_at_the_size_of_the_input(backbone: str) -> None:
    side, decoder = FAMILIES[backbone]
    model: Any = networks.segmenter(spec(backbone, side), 2, drawn(backbone), 0)
    assert fitting.resolved_decoder(backbone, "auto") == decoder
    logits = step(model, side)
    assert logits.shape == (2, 2, side, side)
    assert torch.isfinite(logits).all()
    check_gradients(model.encoder)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext", "deit_tiny_patch16_224"])
def test_at_the_published_side_the_features_are_those_of_timm_to_the_bit(backbone: str) -> None:
    tensors, side = drawn(backbone), architectures.published_side(backbone)
    reference = timm.create_model(backbone, pretrained=False, num_classes=0)
    reference.load_state_dict(tensors, strict=True)
    model: Any = networks.classifier(spec(backbone, side), 1, tensors, 0)
    with torch.inference_mode():
        assert torch.equal(model.backbone.eval()(images(side)), reference.eval()(images(side)))


@pytest.mark.parametrize("backbone", ["mobilenetv3_small_100", "efficientvit_b0", "resnet50_clip"])
def test_the_head_is_as_wide_as_what_the_backbone_really_gives(backbone: str) -> None:
    side = architectures.published_side(backbone)
    with torch.device("meta"):
        model: Any = networks.Classifier(backbone, 1, side)
        assert model(torch.empty(2, 3, side, side)).shape == (2, 1)
    assert model.head.in_features == backbones.width(backbone, side)


def filled(backbone: str, tensors: Mapping[str, Tensor], side: int) -> dict[str, Tensor]:
    model: Any = networks.classifier(spec(backbone, side), 1, tensors, 0)
    return dict(model.backbone.state_dict())


@pytest.mark.parametrize(
    ("backbone", "filter_tensors", "ending"),
    [
        ("test_vit", vision_transformer.checkpoint_filter_fn, "pos_embed"),
        ("deit_tiny_patch16_224", vision_transformer.checkpoint_filter_fn, "pos_embed"),
        ("swin_tiny_patch4_window7_224", swin_transformer.checkpoint_filter_fn, "relative_position_bias_table"),
    ],
)
def test_tensors_that_depend_on_the_side_are_resampled_as_timm_does_and_no_other_is_touched(
    backbone: str, filter_tensors: Any, ending: str
) -> None:
    tensors = drawn(backbone)
    found = filled(backbone, tensors, 96)
    wanted = filter_tensors(dict(tensors), timm.create_model(backbone, img_size=96, num_classes=0))
    changed = {key for key, value in found.items() if value.shape != tensors[key].shape}
    assert changed
    assert all(key.endswith(ending) for key in changed)
    assert all(torch.equal(found[key], wanted[key]) for key in changed)
    assert all(torch.equal(found[key], tensors[key]) for key in found if key not in changed)


def test_a_square_grid_that_timm_leaves_alone_is_resampled_by_its_function() -> None:
    tensors = drawn("hiera_tiny_224")
    found = filled("hiera_tiny_224", tensors, 96)["pos_embed"]
    assert torch.equal(found, resample_abs_pos_embed(tensors["pos_embed"], [24, 24], num_prefix_tokens=0))


def test_weights_of_another_shape_are_refused_however_timm_would_bend_them() -> None:
    tensors = drawn("test_vit")
    tensors["patch_embed.proj.weight"] = tensors["patch_embed.proj.weight"][..., :8, :8]
    for side in (160, 96):
        with pytest.raises(RuntimeError, match=r"size mismatch for patch_embed\.proj\.weight"):
            networks.classifier(spec("test_vit", side), 1, tensors, 0)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
def test_the_u_net_is_that_of_segmentation_models_pytorch_to_the_bit(backbone: str) -> None:
    tensors = drawn(backbone)
    torch.manual_seed(7)
    wanted: Any = smp.Unet(f"tu-{backbone}", encoder_weights=None, in_channels=3, classes=2)
    torch.manual_seed(7)
    initialization.initialize_decoder(wanted.decoder)
    initialization.initialize_head(wanted.segmentation_head)
    backbones.load_into(wanted.encoder.model, tensors, backbone)
    state, found = wanted.state_dict(), networks.segmenter(spec(backbone, 64), 2, tensors, 7).state_dict()
    assert list(found) == list(state)
    assert all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("backbone", "build", "options"),
    [
        ("test_convnext", smp.UPerNet, {}),
        ("test_mambaout", smp.UPerNet, {}),
        ("test_vit", smp.DPT, {"img_size": 96, "num_classes": 0}),
    ],
)
def test_upernet_and_dpt_compute_what_those_of_segmentation_models_pytorch_compute(
    backbone: str, build: Any, options: dict[str, int]
) -> None:
    ours = networks.segmenter(spec(backbone, 96), 2, drawn(backbone), 7).eval()
    theirs = build(f"tu-{backbone}", encoder_weights=None, classes=2, **options).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    with torch.inference_mode():
        assert torch.equal(ours(images(96)), theirs(images(96)))


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "test_vit"])
def test_decoders_are_drawn_from_the_seed_alone(backbone: str) -> None:
    def decoder(init_seed: int, head_seed: int) -> dict[str, Tensor]:
        state = networks.segmenter(spec(backbone, 96), 1, drawn(backbone, init_seed), head_seed).state_dict()
        return {key: value for key, value in state.items() if not key.startswith("encoder")}

    first, other_init, other_seed = decoder(1, 9), decoder(2, 9), decoder(1, 8)
    assert all(torch.equal(first[key], other_init[key]) for key in first)
    assert any(not torch.equal(first[key], other_seed[key]) for key in first)


def test_a_decoder_that_cannot_use_the_maps_is_refused_and_another_that_can_is_built() -> None:
    assert fitting.resolved_decoder("test_resnet", "upernet") == "upernet"
    for backbone, decoder in (("test_resnet", "upernet"), ("test_convnext", "unet")):
        model = networks.segmenter(spec(backbone, 96, decoder), 1, drawn(backbone), 0)
        assert model(images(96)).shape[-1] == 96
    with pytest.raises(UserError, match="strides are 16, 16, 16: set it to auto or dpt"):
        fitting.resolved_decoder("test_vit", "unet")
    with pytest.raises(UserError, match="set it to auto or unet or upernet"):
        fitting.resolved_decoder("test_resnet", "dpt")


def check(top: Path, task: str, side: int, backbone: str, decoder: str = "auto", **changes: str) -> None:
    params = fakes.load_params(top, **changes)
    protocol = parameters.protocol(params, task, TASKS[task].segmentation)
    fitting.check(TASKS[task], protocol, spec(backbone, side, decoder))


@pytest.mark.parametrize(
    ("task", "side", "backbone", "message"),
    [
        (
            "shenzhen",
            96,
            "eva02_tiny_patch14_224",
            "must be a multiple of the patch size 14; 84, 98, 112, 224 would do",
        ),
        ("shenzhen", 100, "test_vit", "must be a multiple of the patch size 16; 96, 112, 128, 160, 224 would do"),
        ("shenzhen", 96, "resnet50_clip", r"timm has no rule that fits head\.pos_embed .* side; 224 would do"),
        ("shenzhen", 96, "efficientformer_l1", "does not fit efficientformer_l1: .*; 224 would do"),
        (
            "montgomery",
            80,
            "test_resnet",
            "must be a multiple of 32, the U-Net's total stride; 64, 96, 128, 160, 224 would do",
        ),
        ("montgomery", 112, "test_vit", "with the decoder dpt: .* 2 x 2 patches of 16 .*; 96, 128, 160, 224 would do"),
        ("montgomery", 96, "eva02_tiny_patch14_224", "2 x 2 patches of 14 pixels; 84, 112, 140, 224 would do"),
    ],
)
def test_a_side_that_does_not_fit_is_refused_with_those_that_would(
    top: Path, task: str, side: int, backbone: str, message: str
) -> None:
    with pytest.raises(UserError, match=rf"tasks\.{task}\.image_size {side}") as error:
        check(top, task, side, backbone)
    assert re.search(message, str(error.value)), str(error.value)


def test_what_fits_is_not_refused(top: Path) -> None:
    check(top, "shenzhen", 98, "eva02_tiny_patch14_224")
    check(top, "shenzhen", 100, "test_resnet")  # convolutions take any side
    check(top, "shenzhen", 224, "resnet50_clip")
    check(top, "montgomery", 96, "resnet50_clip")  # its attention pool is no part of the encoder
    check(top, "montgomery", 100, "test_convnext")
    check(top, "montgomery", 96, "vgg11")  # its first map is of stride 1


def test_an_upernet_needs_two_images_in_a_batch(top: Path) -> None:
    with pytest.raises(UserError, match="batch_size >= 2 must hold for the decoder upernet"):
        check(top, "montgomery", 96, "test_convnext", segmentation__batch_size="1")


def pads(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Says how many pixels TensorFlow's SAME puts before and behind."""
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def padded_by_hand(module: Any, value: float) -> None:
    kernel, stride = (x[0] if isinstance(x, tuple) else x for x in (module.kernel_size, module.stride))
    module.padding = 0

    def pad(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        rows, columns = (pads(side, kernel, stride) for side in inputs[0].shape[-2:])
        return F.pad(inputs[0], (*columns, *rows), value=value)

    module.register_forward_pre_hook(pad)


def test_same_padding_is_that_of_byol_and_simclr_at_224() -> None:
    assert pads(224, 7, 2) == (2, 3)
    assert pads(112, 3, 2) == pads(56, 3, 2) == pads(28, 3, 2) == pads(14, 3, 2) == (0, 1)


@pytest.mark.parametrize("side", [224, 75])
@pytest.mark.parametrize("kind", ["pool", "all"])
def test_same_padding_equals_padding_by_hand_and_changes_no_key(side: int, kind: str) -> None:
    tensors = drawn("resnet26")
    model: Any = networks.classifier(spec("resnet26", side, padding=kind), 1, tensors, 0)
    reference: Any = timm.create_model("resnet26", num_classes=0)
    reference.load_state_dict(tensors)
    padded_by_hand(reference.maxpool, 0.0)  # as good as minus infinity behind a ReLU
    if kind == "all":
        for conv in (reference.conv1, *(getattr(reference, f"layer{k}")[0].conv2 for k in (2, 3, 4))):
            padded_by_hand(conv, 0.0)
    plain: Any = networks.classifier(spec("resnet26", side), 1, tensors, 0)
    assert list(model.state_dict()) == list(plain.state_dict())
    with torch.inference_mode():
        found, wanted, other = (m.eval()(images(side, 1)) for m in (model.backbone, reference, plain.backbone))
    assert torch.equal(found, wanted)
    assert not torch.equal(found, other)


def test_an_encoder_pads_as_asked_and_learns() -> None:
    specs = (spec("resnet18", 64, padding=kind) for kind in ("", "all"))
    plain, same = (networks.segmenter(each, 1, drawn("resnet18"), 0) for each in specs)
    assert list(plain.state_dict()) == list(same.state_dict())
    assert not torch.equal(step(plain, 64), step(same, 64))
    check_gradients(same.get_submodule("encoder.model.conv1"))


def run(top: Path, init: str, task: str, **changes: str) -> runs.Run:
    params = fakes.load_params(top, **changes)
    return runs.Run(
        init=parse(init, params.model.backbone, params.inits), task=task, seed=0, params=params, device="cpu",
        prepared=top, manifest_digest="", marks=(), weights_sha256="", root=top,
    )  # fmt: skip


def test_a_runs_identity_holds_the_resolved_decoder_and_the_padding_where_it_matters(top: Path) -> None:
    assert run(top, "random", "montgomery").fields["model.decoder"] == "unet"
    assert parameters.load(top / "presets/paper.yaml").model.decoder == "unet"  # so that this is no deviation
    assert run(top, "random@test_vit", "montgomery").fields["model.decoder"] == "dpt"
    spelled = run(top, "random", "montgomery", model__decoder="unet")
    assert spelled.digest == run(top, "random", "montgomery").digest
    assert "model.decoder" not in run(top, "random", "shenzhen").fields
    assert "model.padding" not in run(top, "swav", "shenzhen").fields
    assert run(top, "byol", "shenzhen").fields["model.padding"] == "init"
    assert run(top, "byol", "shenzhen", model__padding="torch").fields["model.padding"] == "torch"


@pytest.mark.slow
@pytest.mark.parametrize("backbone", SUCCESSOR)
def test_backbones_of_the_successor_paper_classify_and_segment_at_224(backbone: str) -> None:
    tensors = drawn(backbone)
    built = (
        networks.classifier(spec(backbone, 224), 14, tensors, 0),
        networks.segmenter(spec(backbone, 224), 1, tensors, 0),
    )
    for model, shape in zip(built, [(2, 14), (2, 1, 224, 224)], strict=True):
        if "tiny" in backbone:
            assert step(model, 224).shape == shape
            check_gradients(model)
        else:
            with torch.inference_mode():
                logits = model.eval()(images(224))
            assert logits.shape == shape
            assert torch.isfinite(logits).all()
