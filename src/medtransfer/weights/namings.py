"""How publishers name the tensors that timm names otherwise: one record per naming, read off the code that saves them.

A naming is a list of regular expressions that are put in place one after the other, wherever they stand in a key. What
timm's own conversion of an architecture does (see `provenance`) is left to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

WRAPPERS = r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\."
"""what torch.compile, FSDP and activation checkpointing put between the parts of a key"""


@dataclass(frozen=True)
class Naming:
    """One way to name the tensors of an architecture."""

    name: str
    sign: str
    """a key that this is found in shows it"""
    rules: tuple[tuple[str, str], ...] = ()
    """expression -> what it becomes"""
    start: str = ""
    """the name that timm's own conversion looks for, where timm's names say nothing of the prefix"""

    def read(self, key: str) -> str:
        """Gives a key the name that timm, or its own conversion, knows."""
        for expression, name in self.rules:
            key = re.sub(expression, name, key)
        return key


_LAYERS = r"(?:encoder\.)?layers?\.(\d+)\."
"""transformers' blocks, in files (`encoder.layer.0.`) and in memory since its version 5 (`layers.0.`)"""
_SIGN_OF_VIT = r"embeddings\.(?:patch_embeddings\.projection|patch_embedding)\.|layers?\.\d+\.(?:attention|self_attn)\."
_VIT = (
    (r"embeddings\.cls_token$", "cls_token"),
    (r"embeddings\.class_embedding$", "cls_token"),
    (r"embeddings\.register_tokens$", "register_tokens"),
    (r"embeddings\.mask_token$", "mask_token"),
    (r"embeddings\.position_embeddings$", "pos_embed"),
    (r"embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"embeddings\.patch_embedding\.", "patch_embed.proj."),
    (_LAYERS + r"(?:norm1|layernorm_before|layer_norm1)\.", r"blocks.\1.norm1."),
    (_LAYERS + r"(?:norm2|layernorm_after|layer_norm2)\.", r"blocks.\1.norm2."),
    (_LAYERS + r"(?:attention\.(?:attention\.)?|self_attn\.)(?:query|q_proj)\.", r"blocks.\1.attn.q."),
    (_LAYERS + r"(?:attention\.(?:attention\.)?|self_attn\.)(?:key|k_proj)\.", r"blocks.\1.attn.k."),
    (_LAYERS + r"(?:attention\.(?:attention\.)?|self_attn\.)(?:value|v_proj)\.", r"blocks.\1.attn.v."),
    (_LAYERS + r"(?:attention\.(?:output\.dense|o_proj)|self_attn\.out_proj)\.", r"blocks.\1.attn.proj."),
    (_LAYERS + r"(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.", r"blocks.\1.mlp.fc1."),
    (_LAYERS + r"(?:output\.dense|mlp\.fc2|mlp\.weights_out|mlp\.down_proj)\.", r"blocks.\1.mlp.fc2."),
    (_LAYERS + r"layer_scale([12])\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (r"(^|\.)pre_layrnorm\.", r"\1norm_pre."),
    (r"(^|\.)head\.probe$", r"\1attn_pool.latent"),
    (r"(^|\.)head\.attention\.out_proj\.", r"\1attn_pool.proj."),
    (r"(^|\.)head\.attention\.in_proj_", r"\1attn_pool.in_proj_"),
    (r"(^|\.)head\.layernorm\.", r"\1attn_pool.norm."),
    (r"(^|\.)head\.mlp\.", r"\1attn_pool.mlp."),
    (r"(^|\.)(?:post_layernorm|layernorm)\.(weight|bias)$", r"\1norm.\2"),
)
_SWIN_BLOCK = r"(?:encoder\.)?layers\.(\d+)\.blocks\.(\d+)\."
_SWIN = (
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"embeddings\.norm\.", "patch_embed.norm."),
    (_SWIN_BLOCK + r"layernorm_before\.", r"layers.\1.blocks.\2.norm1."),
    (_SWIN_BLOCK + r"layernorm_after\.", r"layers.\1.blocks.\2.norm2."),
    (_SWIN_BLOCK + r"attention\.(?:self\.)?(?:query|q_proj)\.", r"layers.\1.blocks.\2.attn.q."),
    (_SWIN_BLOCK + r"attention\.(?:self\.)?(?:key|k_proj)\.", r"layers.\1.blocks.\2.attn.k."),
    (_SWIN_BLOCK + r"attention\.(?:self\.)?(?:value|v_proj)\.", r"layers.\1.blocks.\2.attn.v."),
    (_SWIN_BLOCK + r"attention\.(?:output\.dense|o_proj)\.", r"layers.\1.blocks.\2.attn.proj."),
    (_SWIN_BLOCK + r"attention\.(?:self|relative_position_bias)\.relative_", r"layers.\1.blocks.\2.attn.relative_"),
    (_SWIN_BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\.", r"layers.\1.blocks.\2.mlp.fc1."),
    (_SWIN_BLOCK + r"(?:output\.dense|mlp\.fc2)\.", r"layers.\1.blocks.\2.mlp.fc2."),
    (r"(?:encoder\.)?layers\.(\d+)\.downsample\.", r"layers.\1.downsample."),
    (r"(^|\.)layernorm\.(weight|bias)$", r"\1norm.\2"),
)
_CONVNEXT_LAYER = r"(?:encoder\.)?stages\.(\d+)\.layers\.(\d+)\."
_CONVNEXT = (
    (r"embeddings\.patch_embeddings\.", "stem.0."),
    (r"embeddings\.layernorm\.", "stem.1."),
    (_CONVNEXT_LAYER + r"layer_scale_parameter$", r"stages.\1.blocks.\2.gamma"),
    (_CONVNEXT_LAYER + r"dwconv\.", r"stages.\1.blocks.\2.conv_dw."),
    (_CONVNEXT_LAYER + r"layernorm\.", r"stages.\1.blocks.\2.norm."),
    (_CONVNEXT_LAYER + r"pwconv([12])\.", r"stages.\1.blocks.\2.mlp.fc\3."),
    (_CONVNEXT_LAYER + r"grn\.", r"stages.\1.blocks.\2.mlp.grn."),
    (r"(?:encoder\.)?stages\.(\d+)\.downsampling_layer\.", r"stages.\1.downsample."),
    (r"(^|\.)layernorm\.(weight|bias)$", r"\1head.norm.\2"),
)
_SAM = (
    (r"patch_embed\.projection\.", "patch_embed.proj."),
    (r"(^|\.)layers\.(\d+)\.layer_norm([12])\.", r"\1blocks.\2.norm\3."),
    (r"(^|\.)layers\.(\d+)\.", r"\1blocks.\2."),
    (r"mlp\.lin([12])\.", r"mlp.fc\1."),
    (r"neck\.conv1\.", "neck.0."),
    (r"neck\.layer_norm1\.", "neck.1."),
    (r"neck\.conv2\.", "neck.2."),
    (r"neck\.layer_norm2\.", "neck.3."),
)
_TORCHVISION_LAYER = r"encoder\.layers\.encoder_layer_(\d+)\."
_TORCHVISION = (
    (r"(^|\.)class_token$", r"\1cls_token"),
    (r"encoder\.pos_embedding$", "pos_embed"),
    (r"(^|\.)conv_proj\.", r"\1patch_embed.proj."),
    (_TORCHVISION_LAYER + r"ln_([12])\.", r"blocks.\1.norm\2."),
    (_TORCHVISION_LAYER + r"self_attention\.in_proj_(weight|bias)$", r"blocks.\1.attn.qkv.\2"),
    (_TORCHVISION_LAYER + r"self_attention\.out_proj\.", r"blocks.\1.attn.proj."),
    (_TORCHVISION_LAYER + r"mlp\.(?:0|linear_1)\.", r"blocks.\1.mlp.fc1."),
    (_TORCHVISION_LAYER + r"mlp\.(?:3|linear_2)\.", r"blocks.\1.mlp.fc2."),
    (r"encoder\.ln\.", "norm."),
)

TIMM = Naming("timm's names", "")
NAMINGS = (
    TIMM,
    Naming("DINOv2's names", r"register_tokens$|blocks\.\d+\.mlp\.w12\.", (
        (r"(blocks\.\d+\.mlp\.)w12\.", r"\1fc1."), (r"(blocks\.\d+\.mlp\.)w3\.", r"\1fc2."),
    )),
    Naming("DINOv2's blocks in chunks, as FSDP saves them", r"(?:^|\.)blocks\.\d+\.\d+\.", (
        (r"(^|\.)blocks\.\d+\.(\d+)\.", r"\1blocks.\2."),
        (r"(blocks\.\d+\.mlp\.)w12\.", r"\1fc1."), (r"(blocks\.\d+\.mlp\.)w3\.", r"\1fc2."),
    )),
    Naming("transformers' names of a vision transformer", _SIGN_OF_VIT, _VIT),
    Naming("transformers' names of Swin", r"layers\.\d+\.blocks\.\d+\.(?:attention|layernorm_before)\.", _SWIN),
    Naming("transformers' names of ConvNeXt", r"stages\.\d+\.layers\.\d+\.dwconv\.", _CONVNEXT),
    Naming("SAM's names", r"mlp\.lin1\.", _SAM),
    Naming("torchvision's names of a vision transformer", r"encoder_layer_\d+\.", _TORCHVISION),
    Naming("ConvNeXt's original names", r"downsample_layers\.0\.0\.", start="downsample_layers.0.0.weight"),
    Naming("CLIP's original names", r"visual\.class_embedding$", start="visual.class_embedding"),
    Naming("CLIP's original names, a convolutional tower", r"visual\.layer1\.0\.conv1\.weight$",
           start="visual.conv1.weight"),
)  # fmt: skip
"""timm's own first: it is what a file is held to where no other fits"""
