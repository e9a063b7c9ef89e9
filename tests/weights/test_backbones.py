from __future__ import annotations

import pytest
import torch
from timm.layers import resample_abs_pos_embed_nhwc
from timm.models.vision_transformer_sam import get_rel_pos

from medtransfer.training import fitting
from medtransfer.training.fitting import NetworkSpec
from medtransfer.weights import backbones

SAM = "samvit_base_patch16:depth=3:embed_dim=48:num_heads=3"
"""its third block looks at the whole image"""


@pytest.mark.parametrize("side", [224, 256])
def test_sam_takes_another_side_as_its_own_code_does(side: int) -> None:
    torch.manual_seed(2)
    drawn = backbones.bare_backbone(SAM).state_dict()
    tensors = {key: tensor + torch.randn(tensor.shape) for key, tensor in drawn.items()}
    model = backbones.bare_backbone(SAM, side)
    found = backbones.fitted(model, tensors, SAM, side)
    backbones.load_into(model, found, SAM)
    assert torch.isfinite(model.eval()(torch.zeros(1, 3, side, side))).all()
    places = side // 16
    assert torch.equal(found["pos_embed"], resample_abs_pos_embed_nhwc(tensors["pos_embed"], [places, places]))
    for axis in ("h", "w"):
        table, published = (one[f"blocks.2.attn.rel_pos_{axis}"] for one in (found, tensors))
        assert len(table) == 2 * places - 1 < len(published)
        assert torch.equal(get_rel_pos(places, places, table), get_rel_pos(places, places, published))
        window = f"blocks.0.attn.rel_pos_{axis}"
        assert found[window] is tensors[window]
    assert backbones.fitted(backbones.bare_backbone(SAM), tensors, SAM, 1024) is tensors


def test_sam_fits_the_sides_of_tasks() -> None:
    assert not fitting.misfit(NetworkSpec(backbone=SAM, image_size=224))
    assert "multiple" in fitting.misfit(NetworkSpec(backbone=SAM, image_size=230))
