from __future__ import annotations

import pytest
import torch

from medtransfer.core.errors import UserError
from medtransfer.training import lora, networks
from medtransfer.training.fitting import BackboneSpec
from medtransfer.weights import backbones


def classifier(backbone: str) -> torch.nn.Module:
    spec = BackboneSpec(backbone=backbone, image_size=160)
    return networks.classifier(spec, 2, backbones.bare_state(backbone, 0, "one"), 0)


def test_a_change_begins_at_nothing_and_only_it_and_the_head_are_trained() -> None:
    model, images = classifier("test_vit").eval(), torch.randn(2, 3, 160, 160)
    before = model(images)
    lora.adapt(model, rank=4, alpha=8, seed=0)
    torch.testing.assert_close(model(images), before)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {"head.weight", "head.bias"}
    layers = lora.attention_layers(backbones.bare_backbone("test_vit"))
    assert layers
    assert len(trained) == 2 + 2 * len(layers)


def test_its_draws_are_the_seeds() -> None:
    states = list[torch.Tensor]()
    for seed in (0, 0, 1):
        model = classifier("test_vit")
        torch.manual_seed(len(states))
        lora.adapt(model, rank=4, alpha=8, seed=seed)
        states.append(torch.cat([p.flatten() for n, p in model.named_parameters() if "lora_A" in n]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_a_network_without_attention_is_refused() -> None:
    with pytest.raises(UserError, match="changes the attention of a transformer, and test_resnet has none"):
        lora.adapt(classifier("test_resnet"), rank=4, alpha=8, seed=0)
