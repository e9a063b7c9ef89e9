"""The optimizer: which parameters are trained, at which rate."""

from __future__ import annotations

import functools
from typing import Any

import torch
from timm.models import group_parameters
from torch import nn

from medtransfer.core.errors import UserError
from medtransfer.params import Training
from medtransfer.training import networks
from medtransfer.weights import architectures, backbones


def build_optimizer(model: nn.Module, protocol: Training) -> torch.optim.Optimizer:
    """Builds torch's fused optimizer; SGD has momentum 0.9 and Nesterov's step.

    The first group holds head and decoder, whose rate is `lr`. Every group keeps its first rate as `initial_lr`.

    Raises:
        UserError: `layer_decay` for an architecture whose layers timm does not know.
    """
    groups = _groups(model, protocol)
    common: dict[str, Any] = {"lr": protocol.lr, "weight_decay": protocol.weight_decay, "fused": True}
    if protocol.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True, **common)
    kind = torch.optim.Adam if protocol.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, **common)


def freeze_but_last(model: nn.Module, blocks: int) -> None:
    """Freezes the backbone of a network but for its last blocks; their number is timm's (`depth_of`).

    Raises:
        UserError: timm does not know the architecture's blocks, or it has no more than these.
    """
    name, backbone = networks.pretrained_part(model)
    check_blocks(name, blocks)
    depths = depth_of(name)
    keys = backbones.sources((key for key, _ in backbone.named_parameters()), depths)
    for key, parameter in backbone.named_parameters():
        parameter.requires_grad_(depths.get(keys[key] or "", 0) < blocks)


def check_blocks(backbone: str, blocks: int) -> None:
    """Refuses to train more blocks than there are, or all of them.

    Raises:
        UserError: timm does not know the architecture's blocks, or it has no more than these.
    """
    most = max(depth_of(backbone).values())
    if blocks > most:
        raise UserError(
            f"protocols.partial_blocks is {blocks}, and {backbone} has {most} blocks behind its stem: that would be "
            "fine-tuning; take fewer blocks, or the protocol finetune"
        )


def _groups(model: nn.Module, protocol: Training) -> list[dict[str, Any]]:
    """Groups the trained parameters by rate; those of a frozen backbone need no gradient."""
    name, backbone = networks.pretrained_part(model)
    if protocol.backbone_lr == 0:
        backbone.requires_grad_(False)
    depths = depth_of(name) if protocol.layer_decay < 1 else {}
    keys = backbones.sources((key for key, _ in backbone.named_parameters()), depths)
    scales = {
        parameter: protocol.backbone_lr * protocol.layer_decay ** depths.get(keys[key] or "", 0)
        for key, parameter in backbone.named_parameters()
    }
    members: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            members.setdefault(scales.get(parameter, 1.0), []).append(parameter)
    return [
        {"params": members[scale], "lr": protocol.lr * scale, "initial_lr": protocol.lr * scale} for scale in members
    ]


@functools.lru_cache(maxsize=16)
def depth_of(backbone: str) -> dict[str, int]:
    """Counts for each parameter of a backbone how many blocks stand between its own and the last one: 0 for the last.

    The blocks are timm's (`group_matcher`); the stem counts as one, what follows the blocks belongs to the last.
    In BEiT (Bao et al., 2021) and `timm.optim.param_groups_layer_decay` the head stands one above the last block;
    here head and decoder have the rate `lr` and the last block has the backbone's.

    Raises:
        UserError: timm does not know the architecture's layers.
    """
    with torch.device("meta"):
        model = architectures.create(backbone, num_classes=1)  # the classifier marks the end
    if not hasattr(model, "group_matcher"):
        raise UserError(
            f"layer_decay < 1 and the protocol partial need to know the layers of {backbone}, which timm does not: set "
            "layer_decay to 1, take another protocol"
        )
    layers: dict[str, int] = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    head = max(layers.values())
    return {name: max(0, head - 1 - layer) for name, layer in layers.items()}


def follow(optimizer: torch.optim.Optimizer) -> None:
    """Brings every group's rate to the same fraction of its first one as that of head and decoder."""
    head, *others = optimizer.param_groups
    for group in others:
        group["lr"] = group["initial_lr"] * (head["lr"] / head["initial_lr"])


def set_training(model: nn.Module, protocol: Training) -> None:
    """Puts a network into training mode; frozen parts stay in evaluation mode, so their statistics do not move."""
    model.train()
    backbone = networks.pretrained_part(model)[1]
    if protocol.backbone_lr == 0:
        backbone.eval()
        return
    frozen = [module for module in backbone.modules() if _frozen(module)]
    for module in frozen:
        module.eval()


def _frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
