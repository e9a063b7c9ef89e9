"""What the configuration files of a published model say: timm's, transformers' and open_clip's.

An architecture is only named where the facts leave no choice; else what they hint at is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medtransfer.weights import timm_index, variants
from medtransfer.weights.records import Triple

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """What a configuration says of a model."""

    backbone: str = ""
    """timm architecture with its arguments; empty: it is not certain"""
    hint: str = ""
    """what it says of the architecture, in words"""
    mean: Triple | None = None
    std: Triple | None = None


_VIT: dict[tuple[object, object], str] = {
    (192, 12): "tiny",
    (384, 12): "small",
    (768, 12): "base",
    (1024, 24): "large",
    (1280, 32): "huge",
}
_SIZES: Mapping[str, dict[tuple[object, object], str]] = {
    "vit": _VIT,
    "clip": _VIT,
    "dinov2": {(384, 12): "small", (768, 12): "base", (1024, 24): "large", (1536, 40): "giant"},
    "siglip": {(768, 12): "base", (1024, 24): "large", (1152, 27): "so400m"},
}
"""width and number of blocks -> timm's word for the size"""
_CONVNEXT = {
    ((3, 3, 9, 3), (96, 192, 384, 768)): "tiny",
    ((3, 3, 27, 3), (96, 192, 384, 768)): "small",
    ((3, 3, 27, 3), (128, 256, 512, 1024)): "base",
    ((3, 3, 27, 3), (192, 384, 768, 1536)): "large",
    ((3, 3, 27, 3), (256, 512, 1024, 2048)): "xlarge",
}
"""blocks and widths of the stages -> likewise"""
_SWIN: dict[object, str] = {
    (96, (2, 2, 6, 2)): "tiny",
    (96, (2, 2, 18, 2)): "small",
    (128, (2, 2, 18, 2)): "base",
    (192, (2, 2, 18, 2)): "large",
}
_OMITTED: Mapping[str, Config] = {
    "vit": {"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 16, "image_size": 224},
    "dinov2": {"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 14, "image_size": 224},
    "siglip": {"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 16, "image_size": 224},
    "clip": {"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 32, "image_size": 224},
}
"""values that transformers leaves out of a file because they are its class's own"""
_TYPES = {"dinov2_with_registers": "dinov2", "siglip_vision_model": "siglip", "clip_vision_model": "clip"}


def read(config: Config, clip: Config, preprocessor: Config) -> Facts:
    """Reads what the files say.

    Args:
        config: `config.json`, of timm or transformers; empty where there is none.
        clip: `open_clip_config.json`, likewise.
        preprocessor: transformers' `preprocessor_config.json`, likewise.
    """
    if isinstance(name := config.get("architecture"), str):
        given = _mapping(config, "pretrained_cfg") or config  # older files of timm have all on one level
        said = {key: value for key, value in _mapping(config, "model_args").items() if value not in ("", None)}
        arguments = {key: value for key, value in said.items() if key not in _NEUTRAL and (key, value) != _COLOUR}
        plain = arguments.keys() <= variants.ARGUMENTS
        hint = f"config.json names timm's {name} with {arguments}" if arguments else f"config.json names timm's {name}"
        known = plain and timm_index.is_architecture(name)
        return Facts(
            variants.spelled(name, arguments) if known else "", hint, _triple(given, "mean"), _triple(given, "std")
        )
    mean, std = _triple(preprocessor, "image_mean"), _triple(preprocessor, "image_std")
    if isinstance(kind := config.get("model_type"), str):
        return Facts(_of_transformers(kind, config), _hint(kind, config), mean, std)
    vision = _mapping(_mapping(clip, "model_cfg"), "vision_cfg")
    if isinstance(name := vision.get("timm_model_name"), str):
        given, hint = _mapping(clip, "preprocess_cfg"), f"open_clip_config.json names timm's {name}"
        backbone = name if timm_index.is_architecture(name) else ""
        return Facts(backbone, hint, _triple(given, "mean"), _triple(given, "std"))
    return Facts("", "", mean, std)


_COLOUR = ("in_chans", 3)
_NEUTRAL = {
    "num_classes", "drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate", "pos_drop_rate",
    "patch_drop_rate", "dynamic_img_size", "dynamic_img_pad", "weight_init", "fix_init",
}  # fmt: skip
"""arguments of timm's that change neither the backbone's tensors nor its features"""


def _of_transformers(kind: str, config: Config) -> str:
    """Names timm's architecture that a model of transformers is; empty where it is not certain."""
    family = _TYPES.get(kind, kind)
    if family in ("siglip", "clip"):
        config = _mapping(config, "vision_config") if kind == family else config
    if family in ("convnext", "convnextv2"):
        stages = tuple(config.get("depths") or ()), tuple(config.get("hidden_sizes") or ())
        return _one(f"{family}_{_CONVNEXT[stages]}") if stages in _CONVNEXT else ""
    facts = {**_OMITTED.get(family, {}), **config}
    side, patch = facts.get("image_size"), facts.get("patch_size")
    if family == "swin":
        size = _SWIN.get((facts.get("embed_dim"), tuple(facts.get("depths") or ())), "")
        return _one(f"swin_{size}_patch{patch}_window{facts.get('window_size')}_{side}") if size else ""
    width_and_depth = facts.get("hidden_size"), facts.get("num_hidden_layers")
    size = _SIZES.get(family, {}).get(width_and_depth, "")
    if not size or not isinstance(side, int):
        return ""
    if family == "dinov2":
        registers = facts.get("num_register_tokens") or 0 if kind == "dinov2_with_registers" else 0
        return _one(f"vit_{size}_patch{patch}{f'_reg{registers}' if registers else ''}_dinov2", img_size=side)
    if family == "vit":
        return _one(f"vit_{size}_patch{patch}_{side}") or _one(f"vit_{size}_patch{patch}_224", img_size=side)
    word = "clip_quickgelu" if family == "clip" and facts.get("hidden_act", "quick_gelu") == "quick_gelu" else family
    return _one(f"vit_{size}_patch{patch}_{word}_{side}") or _one(f"vit_{size}_patch{patch}_{word}_224", img_size=side)


def _one(name: str, **arguments: int) -> str:
    """Spells an architecture; empty where timm has none of the name."""
    return variants.spelled(name, arguments) if timm_index.is_architecture(name) else ""


def _hint(kind: str, config: Config) -> str:
    wanted = ("hidden_size", "num_hidden_layers", "patch_size", "image_size", "embed_dim", "depths", "hidden_sizes")
    facts = {**config, **_mapping(config, "vision_config")}
    said = ", ".join(f"{key} {facts[key]}" for key in wanted if key in facts)
    return f"config.json is of transformers' {kind}" + (f" with {said}" if said else "")


def _mapping(tree: Config, key: str) -> Config:
    value = tree.get(key)
    return value if isinstance(value, Mapping) else {}


def _triple(tree: Config, key: str) -> Triple | None:
    """Takes three numbers; None where something else stands there."""
    value = tree.get(key)
    if not isinstance(value, (list, tuple)) or len(value) != 3 or not all(isinstance(v, (int, float)) for v in value):
        return None
    return float(value[0]), float(value[1]), float(value[2])
