"""Recognises how a file names a backbone's tensors, and brings them to timm's names with an account of every key.

Each naming that a key of the file shows is tried under each prefix where the backbone may stand, and then passed
through timm's own conversion. What accounts for the whole backbone, each tensor made of the file's own, is taken; two
different ways that do are refused.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from medtransfer.core.errors import UserError
from medtransfer.weights import architectures, provenance, variants
from medtransfer.weights.key_rules import spread_gray
from medtransfer.weights.namings import NAMINGS, TIMM, WRAPPERS, Naming
from medtransfer.weights.provenance import Found

HEADS = (
    "fc.*", "classifier.*", "cls_head.*", "head.*", "head_dist.*", "heads.*", "mlp_head.*", "lm_head.*",
    "segmentation_head.*", "classification_head.*", "decode_head.*", "auxiliary_head.*", "aux_classifier.*",
    "dino_head.*", "ibot_head.*", "omni_heads.*", "projector.*", "projectors.*", "projection.*", "projection_head.*",
    "predictor.*", "prediction_head.*", "prototypes.*", "pooler.*", "op_threshs", "queue", "queue_ptr", "visual.proj",
)  # fmt: skip
"""keys behind the backbone's prefix, or beside the backbone, that are left out: what ends a network"""
BESIDE = (
    "decoder.*", "decoder_*", "mask_token", "*.mask_token", "text.*", "text_model.*", "text_projection",
    "text_projection.*", "visual_projection.*", "logit_scale", "logit_bias", "prompt_encoder.*", "mask_decoder.*",
    "shared_image_embedding.*", "*.attn_mask", "*.relative_position_index", "*.bias_mask", "rope_embed.*", "rope.*",
    "*.rope.*",
)  # fmt: skip
"""likewise, of what stands beside a backbone or is computed anew: decoders, towers of text, masks, fixed tables"""
AROUND = tuple(pattern for pattern in (*HEADS, *BESIDE) if "mask_token" not in pattern)
"""what is taken away before timm's own conversion, which knows files by their mask token"""
SIZED = ("pos_embed", "relative_position_bias_table", "rel_pos_h", "rel_pos_w")
"""ends of the names of tensors whose shape follows the input's side"""


@dataclass
class Reading:
    """One way to read a file, and what it leaves open."""

    naming: Naming
    sign: str
    """the key that shows it"""
    prefix: str
    names: dict[str, str]
    """key in the file -> its name by this naming, with the prefix"""
    found: Found = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    swallowed: tuple[str, ...] = ()
    """keys of which timm's own conversion made nothing"""
    failure: str = ""
    brought: bool = False
    """names were changed by timm's own conversion"""

    @property
    def fits(self) -> bool:
        """Says whether it accounts for the whole backbone."""
        return not (self.missing or self.shapes or self.failure)

    @property
    def words(self) -> str:
        """Says which naming it is, and by what key it is known."""
        shown = f" ({self.sign})" if self.sign else ""
        known = self.brought and self.naming is TIMM
        return f"{'names that timm converts itself' if known else self.naming.name}{shown}, prefix {self.prefix!r}"


def recognise(
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    backbone: str,
    *,
    prefix: str = "",
    rename: Sequence[tuple[str, str]] = (),
) -> Reading:
    """Finds the way to read a file's tensors.

    Args:
        tensors: key -> tensor of the file, those that a rule leaves out taken away.
        wanted: timm's key -> tensor of the backbone at its published side.
        backbone: its name.
        prefix: of the backbone's keys in the file; empty: looked for.
        rename: expressions and what they become, put in place of each other in this order behind the prefix.

    Returns:
        The reading that accounts for the whole backbone; where none does, the nearest, which says what it lacks.

    Raises:
        UserError: two readings account for it that differ in what they take, or two keys get one name.
    """
    named = _named(tensors, prefix, rename)
    readings = [
        _read(naming, sign, start, tensors, renamed, wanted, backbone)
        for naming, sign, renamed in _applicable(named)
        for start in ([""] if prefix or rename else _starts(naming, renamed, wanted))
    ]
    whole = [reading for reading in readings if reading.fits]
    ways = {tuple((name, keys) for name, (keys, _) in sorted(one.found.items())): one for one in reversed(whole)}
    if len(ways) > 1:
        first, second = list(ways.values())[-1], list(ways.values())[-2]
        raise UserError(
            f"the backbone {backbone} stands in it twice: by {first.words}, and by {second.words}; choose one by an "
            "entry under `inits` of params.yaml with `prefix:` and `drop:`"
        )
    if whole:
        return next((one for one in whole if one.sign), whole[0])
    return min(readings, key=lambda one: (bool(one.failure), len(one.missing), len(one.shapes)))


def _named(tensors: Mapping[str, Tensor], prefix: str, rename: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Gives the file's keys the names that a rule says; name -> key."""
    named: dict[str, str] = {}
    for key in tensors:
        if not key.startswith(prefix):
            continue
        name = re.sub(WRAPPERS, "", key.removeprefix(prefix))
        for expression, replacement in rename:
            name = re.sub(expression, replacement, name)
        if name in named:
            raise UserError(f"its keys {named[name]} and {key} both become {name}")
        named[name] = key
    return named


def _applicable(named: Mapping[str, str]) -> list[tuple[Naming, str, dict[str, str]]]:
    """Lists the namings that some key shows, with that key and what becomes of all."""
    found = []
    for naming in NAMINGS:
        sign = next((key for name, key in named.items() if re.search(naming.sign, name)), "") if naming.sign else ""
        if naming.sign and not sign:
            continue
        renamed = {naming.read(name): key for name, key in named.items()}
        if len(renamed) == len(named):  # no two keys became one name
            found.append((naming, sign, renamed))
    return found


def _starts(naming: Naming, renamed: Mapping[str, str], wanted: Mapping[str, Tensor]) -> list[str]:
    """Lists the prefixes under which the backbone may stand: most of its names do, as many under two at most."""
    if naming.start:
        return [name.removesuffix(naming.start) for name in renamed if _ends(name, naming.start)]
    whole = dict.fromkeys(map(_whole, renamed))  # in the order of the file, which messages keep
    stands = Counter(key[: len(key) - len(name)] for name in wanted for key in whole if _ends(key, name))
    ranked = stands.most_common()
    most = ranked[0][1] if ranked else 0
    return [prefix for prefix, count in ranked if count == most][:2] or [""]


def _ends(key: str, name: str) -> bool:
    return key.endswith(name) and (len(key) == len(name) or key[-len(name) - 1] == ".")


def _whole(name: str) -> str:
    """Names the joint tensor that a query's is a part of."""
    return re.sub(r"\.attn\.q\.(weight|bias)$", r".attn.qkv.\1", name)


def _read(
    naming: Naming,
    sign: str,
    prefix: str,
    tensors: Mapping[str, Tensor],
    renamed: Mapping[str, str],
    wanted: Mapping[str, Tensor],
    backbone: str,
) -> Reading:
    """Tries one naming under one prefix."""
    reading = Reading(naming, sign, prefix, {key: name for name, key in renamed.items()})
    inside: Found = {
        name.removeprefix(prefix): ((key,), tensors[key]) for name, key in renamed.items() if name.startswith(prefix)
    }
    inside = {name: value for name, value in inside.items() if name in wanted or not _matches(name, AROUND)}
    if not naming.start:
        inside = _joined(inside, wanted)
    made = dict(inside)
    try:
        made = provenance.converted(backbone, inside)
    except UserError as error:
        reading.failure = str(error)
    used = {key for keys, _ in made.values() for key in keys}
    reading.brought = any(name in wanted and name not in inside for name in made)
    reading.swallowed = tuple(key for keys, _ in inside.values() for key in keys if key not in used)
    first = f"{architectures.published(backbone).first_conv}.weight"
    for name, like in wanted.items():
        keys, tensor = made.get(name, ((), like))
        sources = [tensors[key] for key in keys]
        if not keys:
            reading.missing += [] if name.endswith("num_batches_tracked") else [name]
            continue
        if name == first and tensor.ndim == 4 and tensor.shape[1] == 1 and tensor[:, 0].shape == like[:, 0].shape:
            tensor = spread_gray(tensor, like)
            reading.adapted.append(f"{name}: one channel spread over three by thirds")
        elif tensor.shape != like.shape or not _same(name, tensor, sources):
            reading.shapes.append(f"{keys[0]} {tuple(sources[0].shape)} for {tuple(like.shape)}")
        elif note := _changed(name, tensor, sources[-1]):
            reading.adapted.append(note + _as_they_are(name, sources[-1], wanted, backbone))
        reading.found[name] = (keys, tensor)
    return reading


def _joined(inside: Found, wanted: Mapping[str, Tensor]) -> Found:
    """Joins query, key and value, parts those of a pooling head, and gives tokens timm's axes."""
    result = dict(inside)
    for name in [name for name in inside if re.search(r"\.attn\.q\.(weight|bias)$", name)]:
        parts = [re.sub(r"q(\.\w+)$", rf"{letter}\1", name) for letter in "qkv"]
        if _whole(name) in wanted and all(part in inside for part in parts):
            values = [result.pop(part) for part in parts]
            if len({tensor.shape for _, tensor in values}) == 1:
                result[_whole(name)] = (sum((keys for keys, _ in values), ()), torch.cat([t for _, t in values]))
    for kind in ("weight", "bias"):
        keys, tensor = result.pop(f"attn_pool.in_proj_{kind}", ((), torch.empty(0)))
        if keys and not len(tensor) % 3:
            result[f"attn_pool.q.{kind}"] = (keys, tensor[: len(tensor) // 3])
            result[f"attn_pool.kv.{kind}"] = (keys, tensor[len(tensor) // 3 :])
    for name, (keys, tensor) in result.items():
        like = wanted.get(name, tensor)
        if tensor.shape != like.shape and _bare(tensor) == _bare(like):  # a product is a convolution of one pixel
            result[name] = (keys, tensor.reshape(like.shape))
        elif name == "pos_embed" and tensor.ndim == 2 and like.ndim == 3:
            result[name] = (keys, tensor[None])
    return _with_registers(result)


def _with_registers(inside: Found) -> Found:
    """Adds the class token's place in DINOv2's position embeddings to the token: with registers, timm's have none."""
    keys, registers = inside.get("register_tokens", ((), None))
    if registers is None or not {"cls_token", "pos_embed"} <= inside.keys():
        return inside
    (token_keys, token), (place_keys, places) = inside["cls_token"], inside["pos_embed"]
    result = {name: value for name, value in inside.items() if name != "register_tokens"} | {
        "reg_token": (keys, registers)
    }
    if places.ndim == 3 and token.shape == (1, 1, places.shape[-1]) and _square(places.shape[1] - 1):
        result["cls_token"] = ((*token_keys, *place_keys), token + places[:, :1])
        result["pos_embed"] = (place_keys, places[:, 1:])
    return result


def _same(name: str, tensor: Tensor, sources: Sequence[Tensor]) -> bool:
    """Says whether a tensor is made of the file's numbers alone: as they are, joined, or on another grid."""
    source = sources[-1]
    if name.endswith(SIZED):
        return _on_a_grid(name, tensor, source)
    if name.endswith("cls_token") and len(sources) == 2:
        return source.ndim > 1 and source.shape[-1] == tensor.shape[-1]
    if len(sources) == 1 and name.startswith(("attn_pool.q.", "attn_pool.kv.")) and source.shape != tensor.shape:
        third = 3 * len(tensor) in (len(source), 2 * len(source))
        return third and source.shape[1:] == tensor.shape[1:]
    if len(sources) == 1:
        return _bare(source) == _bare(tensor)
    rows = sum(len(one) for one in sources)
    joined = all(one.shape[1:] == tensor.shape[1:] for one in sources)
    return joined and (rows == len(tensor) or (name.endswith("qkv.bias") and 3 * rows == 2 * len(tensor)))


def _bare(tensor: Tensor) -> list[int]:
    return [side for side in tensor.shape if side != 1]


def _on_a_grid(name: str, tensor: Tensor, source: Tensor) -> bool:
    """Says whether a tensor that follows the input's side is the file's, on the file's grid or another."""
    if _bare(source) == _bare(tensor):
        return True
    channels = tensor.shape[-1]
    if source.shape[-1] != channels or source.numel() % channels:
        return name.endswith("pos_embed") and source.ndim == tensor.ndim == 4 and source.shape[1] == tensor.shape[1]
    if name.endswith(("rel_pos_h", "rel_pos_w")) or (source.ndim == 4 and tensor.ndim == 4):
        return True
    here, there = tensor.numel() // channels, source.numel() // channels
    beside = here - math.isqrt(here) ** 2  # places of the class token and others, which no grid holds
    return _square(there - beside) or _square(there - beside - 1)


def _changed(name: str, tensor: Tensor, source: Tensor) -> str:
    """Says what became of a tensor whose grid is another one in the file."""
    if not name.endswith(SIZED) or _bare(source) == _bare(tensor):
        return ""
    channels = tensor.shape[-1]
    sides = [math.isqrt(one.numel() // channels) for one in (source, tensor)]
    if sides[0] == sides[1]:
        return ""  # the class token's place was moved to the class token
    if name.endswith(("rel_pos_h", "rel_pos_w")):
        return f"{name}: {len(source)} places resampled to {len(tensor)}"
    return f"{name}: {sides[0]} x {sides[0]} places, taken as a square, resampled to {sides[1]} x {sides[1]}"


def _as_they_are(name: str, source: Tensor, wanted: Mapping[str, Tensor], backbone: str) -> str:
    """Says by which name of the backbone its position embeddings are taken as they are."""
    patch = wanted.get("patch_embed.proj.weight")
    if name != "pos_embed" or patch is None or source.ndim > 3:
        return ""
    architecture, told = variants.split(backbone)
    side = math.isqrt(source.numel() // source.shape[-1]) * patch.shape[-1]
    return f"; @{variants.spelled(architecture, {**told, 'img_size': side})} takes them as they are"


def _square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def leave_out(keys: Sequence[str], reading: Reading, given: str = "") -> dict[str, tuple[str, ...]]:
    """Sorts the keys that a reading does not take by the rule that leaves each out; others are no rule's.

    Heads stand behind the backbone's prefix or, of `module.backbone.`, under `module.` or at the top.

    Args:
        keys: of the file, that it does not take.
        reading: of the file.
        given: prefix that a rule says, which the reading does not know of.
    """
    prefix = given + reading.prefix
    parts = prefix.split(".")[:-1]
    roots = [".".join((*parts[:count], "")) for count in range(len(parts), -1, -1)] if parts else [prefix, ""]
    left: list[str] = list(keys)
    dropped: dict[str, tuple[str, ...]] = {}
    rules = {root + pattern: root + pattern for root in roots for pattern in (*HEADS, *BESIDE)}
    for rule in rules:
        matched = tuple(k for k in left if _matches(k, [rule]) or _matches(reading.names.get(k, k), [rule]))
        left = [key for key in left if key not in matched]
        dropped |= {rule: matched} if matched else {}
    swallowed = tuple(key for key in left if key in reading.swallowed)
    return dropped | ({"left out by timm's own conversion": swallowed} if swallowed else {})


def advice(reading: Reading, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], backbone: str) -> list[str]:
    """Says what the file shows of the backbone that it holds, where it is another than the one named."""
    shapes = {name.removeprefix(reading.prefix): tensors[key].shape for key, name in reading.names.items()}
    architecture, told = variants.split(backbone)
    patch, like = shapes.get("patch_embed.proj.weight"), wanted.get("patch_embed.proj.weight")
    if patch is None or like is None or len(patch) != 4:
        return []
    blocks = {int(found[1]) for name in shapes if (found := re.match(r"blocks\.(\d+)\.", name))}
    depth = sum(bool(re.fullmatch(r"blocks\.\d+\.norm1\.weight", name)) for name in wanted)
    if patch[0] != like.shape[0] or (blocks and len(blocks) != depth):
        return [f"the file holds {len(blocks)} blocks of width {patch[0]}, with patches of {patch[-1]} pixels"]
    more: dict[str, object] = {"patch_size": patch[3]} if patch[2] == patch[3] != like.shape[3] else {}
    if "blocks.0.ls1.gamma" in shapes and "blocks.0.ls1.gamma" not in wanted:
        more["init_values"] = 1e-5
    registers = shapes.get("reg_token") or shapes.get("register_tokens")
    if registers and "reg_token" not in wanted:
        more["reg_tokens"] = registers[-2]
    if "fc_norm.weight" in shapes and "fc_norm.weight" not in wanted:
        more["global_pool"] = "avg"
        more |= {} if "cls_token" in shapes else {"class_token": False}
    biases = [name for name in shapes if re.match(r"blocks\.0\.attn\.q.*bias$", name)]
    if "blocks.0.attn.qkv.weight" in shapes and "blocks.0.attn.qkv.bias" in wanted and not biases:
        more["qkv_bias"] = False
    places, wished = shapes.get("pos_embed"), wanted.get("pos_embed")
    if places and wished is not None and "cls_token" in shapes and places[-2] == wished.shape[-2] - 1:
        more["no_embed_class"] = True
    return [f"the file holds {variants.spelled(architecture, {**told, **more})}"] if more else []
