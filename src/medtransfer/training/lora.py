"""Low-rank adaptation of a frozen transformer (Hu et al., LoRA, ICLR 2022), through the library `peft`."""

from __future__ import annotations

import torch
from torch import nn

from medtransfer.core.errors import UserError
from medtransfer.training import networks

PARTS = ("attn", "attention")
"""names of a block's attention in timm"""


def attention_layers(backbone: nn.Module) -> list[str]:
    """Lists the linear layers of a backbone's attention: queries, keys and values, and the projection behind them."""
    return [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and set(name.split(".")[:-1]) & set(PARTS)
    ]


def adapt(model: nn.Module, rank: int, alpha: int, seed: int) -> None:
    """Freezes the backbone of a network and puts a low-rank change beside each linear layer of its attention.

    The change is zero at the start, so the network gives what it gave; head and decoder stay trainable.

    Args:
        model: built by `networks`; changed in place.
        rank: of each change.
        alpha: the change is scaled by alpha / rank.
        seed: draws the changes' first factors.

    Raises:
        UserError: the backbone has no attention.
    """
    from peft import LoraConfig, inject_adapter_in_model

    architecture, backbone = networks.pretrained_part(model)
    layers = attention_layers(backbone)
    if not layers:
        raise UserError(f"the protocol lora changes the attention of a transformer, and {architecture} has none")
    backbone.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers), backbone)
