from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medtransfer import params as parameters
from medtransfer.core.errors import UserError
from medtransfer.data.catalog import TASKS
from medtransfer.params import Training
from medtransfer.training import fitting, networks, optimizer
from medtransfer.training.fitting import NetworkSpec
from medtransfer.training.trainer import Progress, Trainer
from medtransfer.weights import backbones
from tests.support import fakes


def protocol(top: Path, kind: str = "classification", **changes: str) -> Any:
    params = fakes.load_params(top, **{f"{kind}__{name}": value for name, value in changes.items()})
    segmentation = kind == "segmentation"
    return parameters.protocol(params, "montgomery" if segmentation else "shenzhen", segmentation)


def network(backbone: str, kind: str = "classification") -> nn.Module:
    tensors = backbones.bare_state(backbone, 0, "one")
    build: Any = networks.segmenter if kind == "segmentation" else networks.classifier
    built: nn.Module = build(NetworkSpec(backbone=backbone, image_size=96, decoder="auto"), 1, tensors, 0)
    return built


def rates(model: nn.Module, settings: Training) -> dict[str, float]:
    """Says at which rate each named parameter is trained."""
    groups = optimizer.build_optimizer(model, settings).param_groups
    of: dict[int, float] = {id(p): group["lr"] for group in groups for p in group["params"]}
    return {name: of[id(p)] for name, p in model.named_parameters() if id(p) in of}


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_with_one_rate_there_is_one_group_of_all_parameters_in_order(top: Path, kind: str) -> None:
    model, settings = network("test_resnet", kind), protocol(top, kind)
    (group,) = optimizer.build_optimizer(model, settings).param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]
    assert group["lr"] == settings.lr


VIT = {
    "head.weight": 1.0,
    "backbone.norm.weight": 0.5,
    "backbone.blocks.5.mlp.fc2.weight": 0.5,
    "backbone.blocks.4.mlp.fc2.weight": 0.25,
    "backbone.blocks.0.attn.qkv.weight": 0.5**6,
    "backbone.patch_embed.proj.weight": 0.5**7,
    "backbone.pos_embed": 0.5**7,
}
RESNET = {
    "head.bias": 1.0,
    "backbone.layer4.0.conv1.weight": 0.5,
    "backbone.layer3.0.bn1.weight": 0.25,
    "backbone.layer2.0.conv2.weight": 0.125,
    "backbone.layer1.0.conv1.weight": 0.0625,
    "backbone.conv1.0.weight": 0.03125,
}


@pytest.mark.parametrize(("backbone", "wanted"), [("test_vit", VIT), ("test_resnet", RESNET)])
def test_rates_fall_by_the_factor_from_block_to_block(top: Path, backbone: str, wanted: dict[str, float]) -> None:
    found = rates(network(backbone), protocol(top, lr="1e-2", backbone_lr="0.5", layer_decay="0.5"))
    assert {name: found[name] for name in wanted} == {name: pytest.approx(1e-2 * x) for name, x in wanted.items()}


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "cspnext_tiny", "test_vit"])
def test_an_encoders_parameters_have_the_rates_of_the_backbone(top: Path, backbone: str) -> None:
    """timm's feature extractors rename keys; the blocks stay the same."""
    changes = {"lr": "1e-2", "layer_decay": "0.5", "backbone_lr": "0.5"}
    bare = rates(network(backbone), protocol(top, **changes))
    model = network(backbone, "segmentation")
    found = rates(model, protocol(top, "segmentation", **changes))
    encoder: Any = model.get_submodule("encoder.model")
    keys = backbones.sources((name for name, _ in encoder.named_parameters()), backbones.bare_state(backbone, 0, "one"))
    assert len(set(found.values())) > 4
    for name, key in keys.items():
        assert found[f"encoder.model.{name}"] == bare[f"backbone.{key}"]
    assert {rate for name, rate in found.items() if not name.startswith("encoder")} == {1e-2}


def test_a_backbone_has_a_rate_of_its_own(top: Path) -> None:
    found = rates(network("test_resnet"), protocol(top, lr="1e-2", backbone_lr="0.1"))
    assert {rate for name, rate in found.items() if name.startswith("backbone")} == {1e-2 * 0.1}
    assert found["head.weight"] == 1e-2


def test_the_first_group_is_the_head_whatever_the_rates(top: Path) -> None:
    for changes in ({"backbone_lr": "3"}, {"backbone_lr": "0"}, {"layer_decay": "0.5"}):
        settings = protocol(top, **changes)
        assert optimizer.build_optimizer(network("test_resnet"), settings).param_groups[0]["lr"] == settings.lr


@pytest.mark.parametrize("segmentation", [False, True])
def test_a_frozen_backbone_is_the_same_after_training_and_the_rest_is_not(
    top: Path, tmp_path: Path, segmentation: bool
) -> None:
    section = "segmentation" if segmentation else "classification"
    change: Any = {f"{section}__backbone_lr": "0", f"{section}__min_steps": "3", f"{section}__max_epochs": "1"}
    trainer, _ = fakes.trainer(top, tmp_path, segmentation=segmentation, **change)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    trainer.run(lambda *_: None, lambda _: None)
    after = trainer.model.state_dict()
    own = "encoder." if segmentation else "backbone."
    assert any(key.startswith(own) and "running_mean" in key for key in before)
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith(own))
    assert any(not torch.equal(before[key], after[key]) for key in before if not key.startswith(own))


GROUPS = {"backbone_lr": "0.1", "layer_decay": "0.5"}


def grouped(top: Path, folder: Path, **changes: str) -> Trainer:
    folder.mkdir(exist_ok=True)
    both: Any = {f"classification__{name}": value for name, value in (GROUPS | changes).items()}
    return fakes.trainer(top, folder, **both)[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "cosine", "warmup_epochs": "2", "max_epochs": "5"},
        {"schedule": "plateau", "plateau_patience": "0", "max_epochs": "8", "lr": "3e-3", "monitor": "val_auc"},
        {"schedule": "plateau", "plateau_patience": "0", "max_epochs": "8", "lr": "1e-6", "monitor": "val_auc"},
    ],
)
def test_every_schedule_scales_each_group_by_its_own_base(top: Path, tmp_path: Path, changes: dict[str, str]) -> None:
    trainer = grouped(top, tmp_path, **changes)
    seen: list[float] = []

    def compare(_: dict[str, float], __: int) -> None:
        factors = [group["lr"] / group["initial_lr"] for group in trainer.optimizer.param_groups]
        assert factors == pytest.approx([factors[0]] * len(factors))
        seen.append(factors[0])

    trainer.run(compare, lambda _: None)
    assert len(trainer.optimizer.param_groups) == 6
    assert len(set(seen)) > 1


class KilledError(Exception):
    pass


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_a_resumed_run_with_groups_gives_the_numbers_of_an_uninterrupted_one(
    top: Path, tmp_path: Path, schedule: str
) -> None:
    changes = {"schedule": schedule, "plateau_patience": "0"}

    def fit(trainer: Trainer, kill_at: int = 0) -> list[dict[str, float]]:
        logged: list[dict[str, float]] = []

        def report(progress: Progress) -> None:
            if progress.epoch == kill_at:
                raise KilledError

        trainer.run(lambda metrics, _: logged.append({**metrics, "images_per_second": 0}), report)
        return logged

    def state(trainer: Trainer) -> dict[str, Tensor]:
        return dict(trainer.model.state_dict())

    whole = grouped(top, tmp_path / "whole", **changes)
    logged = fit(whole)
    with pytest.raises(KilledError):
        fit(grouped(top, tmp_path / "killed", **changes), kill_at=1)
    resumed = grouped(top, tmp_path / "killed", **changes)
    assert resumed.resume() == 1
    assert fit(resumed) == logged[1:]
    assert all(torch.equal(value, state(resumed)[key]) for key, value in state(whole).items())
    rates = [[group["lr"] for group in trainer.optimizer.param_groups] for trainer in (whole, resumed)]
    assert rates[0] == rates[1]


def test_layers_that_timm_does_not_know_are_refused_before_work_starts(top: Path) -> None:
    spec = NetworkSpec(backbone="pit_ti_224", image_size=224)
    with pytest.raises(UserError, match="layers of pit_ti_224, which timm does not: set layer_decay to 1"):
        fitting.check(TASKS["shenzhen"], protocol(top, layer_decay="0.5"), spec)
    fitting.check(TASKS["shenzhen"], protocol(top), spec)


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({"backbone_lr": "-1"}, "`backbone_lr >= 0` must hold"),
        ({"layer_decay": "0"}, "`0 < layer_decay <= 1` must hold"),
        ({"layer_decay": "1.1"}, "`0 < layer_decay <= 1` must hold"),
        ({"layer_decay": "0.9", "backbone_lr": "0"}, "because a frozen backbone has no rates"),
    ],
)
def test_rates_without_a_meaning_are_refused(top: Path, changes: dict[str, str], law: str) -> None:
    with pytest.raises(UserError, match=law):
        protocol(top, **changes)


def test_partial_training_moves_the_last_blocks_alone(top: Path, tmp_path: Path) -> None:
    built, _ = fakes.trainer(top, tmp_path)
    optimizer.freeze_but_last(built.model, 1)
    trained = {name for name, parameter in built.model.named_parameters() if parameter.requires_grad}
    depths = optimizer.depth_of(fakes.BACKBONE)
    last = {f"backbone.{name}" for name, depth in depths.items() if depth == 0}
    assert trained - {"head.weight", "head.bias"} == {n for n, _ in built.model.named_parameters()} & last
    before = {key: tensor.clone() for key, tensor in built.model.state_dict().items()}
    built.optimizer = optimizer.build_optimizer(built.model, built.protocol)
    built.fit.epoch = 0
    built._train(0)
    moved = {key for key, tensor in built.model.state_dict().items() if not torch.equal(tensor, before[key])}
    frozen = {f"backbone.{name}" for name, depth in depths.items() if depth > 0}
    assert moved
    assert not moved & frozen
    still = {k for k in before if ("running" in k or "num_batches" in k) and k.rpartition(".")[0] + ".weight" in frozen}
    assert still  # statistics of frozen batch norms
    assert not moved & still


def test_more_blocks_than_there_are_are_refused() -> None:
    with pytest.raises(UserError, match=r"partial_blocks is 99, and test_resnet has \d+ blocks behind its stem"):
        optimizer.check_blocks(fakes.BACKBONE, 99)
