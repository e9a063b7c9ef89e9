"""Backbones that timm builds when told so: `<architecture>:<argument>=<value>:...`, and short names of long ones.

`eva02_tiny_patch14_224:patch_size=16` is timm's architecture with patches of 16 pixels. An argument that is the side of
the input (`img_size`, in pixels) says for which side weights were saved, as a tag's own configuration does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from medtransfer.core.errors import UserError
from medtransfer.core.schema import nearest

Value = int | float | bool | str

ARGUMENTS = {
    "act_layer", "class_token", "depth", "embed_dim", "global_pool", "img_size", "init_values", "mlp_layer",
    "mlp_ratio", "no_embed_class", "num_heads", "patch_size", "pre_norm", "qkv_bias", "reg_tokens", "swiglu_mlp",
    "window_size",
}  # fmt: skip
"""those of timm's that decide which tensors an architecture has, or what it computes of them"""
LAYERS = ("Mlp", "GluMlp", "SwiGLU", "SwiGLUPacked")
"""values of `mlp_layer`: classes of `timm.layers`"""
_EVA_X = ("tiny", "small", "base")
_PACKED = "act_layer=silu:mlp_layer=SwiGLUPacked"
VARIANTS: dict[str, str] = {
    **{f"eva02_{size}_patch16_224_eva_x": f"eva02_{size}_patch14_224:patch_size=16" for size in _EVA_X},
    "vit_base_patch14_reg4_h0mini": f"vit_base_patch14_reg4_dinov2:img_size=224:mlp_ratio=5.33334:{_PACKED}",
    "vit_large_patch16_reg4_chexfound": "vit_large_patch14_reg4_dinov2:patch_size=16:img_size=512:mlp_ratio=5.34375:"
    + _PACKED,
    "vit_huge_patch14_virchow": f"vit_huge_patch14_224:init_values=1e-05:mlp_ratio=5.3375:{_PACKED}",
    "vit_huge_patch14_reg4_virchow2": "vit_huge_patch14_224:init_values=1e-05:mlp_ratio=5.3375:reg_tokens=4:" + _PACKED,
    "vit_giant_patch16_224_gigapath": "vit_giant_patch14_dinov2:img_size=224:patch_size=16",
    "vit_giant_patch14_reg8_uni2": "vit_giant_patch14_224:depth=24:embed_dim=1536:init_values=1e-05:mlp_ratio=5.33334:"
    f"no_embed_class=true:num_heads=24:reg_tokens=8:{_PACKED}",
}
"""short name -> what it stands for"""


def split(name: str) -> tuple[str, dict[str, Value]]:
    """Splits a backbone's name into timm's architecture and what timm is told of it.

    Raises:
        UserError: a part is no `argument=value`, or no argument that may be told.
    """
    architecture, *parts = VARIANTS.get(name, name).split(":")
    arguments: dict[str, Value] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not value or key in arguments:
            raise UserError(f"backbone {name!r}: each part behind a colon is <argument>=<value>, once; got {part!r}")
        if key not in ARGUMENTS:
            raise UserError(f"backbone {name!r}: unknown argument {key!r}{nearest(key, sorted(ARGUMENTS))}")
        arguments[key] = _value(value)
    if arguments.get("mlp_layer", LAYERS[0]) not in LAYERS:
        raise UserError(f"backbone {name!r}: mlp_layer is one of {', '.join(LAYERS)}")
    return architecture, arguments


def base(name: str) -> str:
    """Names timm's architecture of a backbone."""
    return VARIANTS.get(name, name).partition(":")[0]


def well_formed(name: str) -> bool:
    """Says whether a name can be a backbone's, whatever timm knows."""
    return bool(re.fullmatch(r"[A-Za-z0-9_]+(:[a-z_]+=[A-Za-z0-9_.-]+)*", name))


def spelled(architecture: str, arguments: Mapping[str, object]) -> str:
    """Spells a backbone's name: equal backbones are spelled alike, a short name stands for what it means."""
    parts = [f"{key}={_written(value)}" for key, value in sorted(arguments.items()) if value is not None]
    name = ":".join((architecture, *parts))
    return next((short for short, meant in VARIANTS.items() if spelled_alike(meant, name)), name)


def spelled_alike(meant: str, name: str) -> bool:
    """Says whether two spellings differ in the order of their arguments at most."""
    return sorted(meant.split(":")) == sorted(name.split(":"))


def _value(text: str) -> Value:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
