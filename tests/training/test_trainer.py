from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from medtransfer import params as parameters
from medtransfer.core.errors import UserError
from medtransfer.data.catalog import TASKS
from medtransfer.runs.run import check_engine
from medtransfer.training import fitting, objectives
from medtransfer.training import trainer as trainer_module
from medtransfer.training.fitting import NetworkSpec
from medtransfer.training.loader import certain
from medtransfer.training.trainer import Progress, TaskTrainer, Trainer
from tests.support import fakes
from tests.support.quick import quick


def fit(trainer: Trainer) -> list[tuple[int, dict[str, float]]]:
    logged: list[tuple[int, dict[str, float]]] = []
    trainer.run(lambda metrics, step: logged.append((step, metrics)), lambda progress: None)
    return logged


def numbers(logged: list[tuple[int, dict[str, float]]]) -> list[tuple[int, dict[str, float]]]:
    return [(step, {k: v for k, v in m.items() if k != "images_per_second"}) for step, m in logged]


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in trainer.model.state_dict().items()}


@pytest.mark.parametrize("segmentation", quick([False, True], False))
def test_same_seed_same_numbers_other_seed_others(top: Path, tmp_path: Path, segmentation: bool) -> None:
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trainer, _ = fakes.trainer(top, tmp_path / name, segmentation=segmentation, seed=seed)
        (tmp_path / name).mkdir(exist_ok=True)
        runs.append((numbers(fit(trainer)), weights_of(trainer)))
    (first, w1), (again, w2), (other, w3) = runs
    assert first == again
    assert all(torch.equal(w1[k], w2[k]) for k in w1)
    assert first != other
    assert any(not torch.equal(w1[k], w3[k]) for k in w1)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_resumed_run_gives_the_numbers_of_an_uninterrupted_one(
    top: Path, tmp_path: Path, at: int, schedule: str
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    change: Any = {"classification__schedule": schedule, "classification__plateau_patience": "0"}
    whole, _ = fakes.trainer(top, tmp_path / "whole", **change)
    logged = numbers(fit(whole))

    killed, _ = fakes.trainer(top, tmp_path / "killed", **change)

    def die(progress: Progress) -> None:
        if progress.epoch == at:
            raise KilledError

    with pytest.raises(KilledError):
        killed.run(lambda m, s: None, die)
    resumed, _ = fakes.trainer(top, tmp_path / "killed", **change)
    assert resumed.resume() == at
    assert numbers(fit(resumed)) == logged[at:]
    assert all(torch.equal(a, weights_of(resumed)[k]) for k, a in weights_of(whole).items())
    assert resumed.fit.best_epoch == whole.fit.best_epoch
    for a, b in zip(whole.test(), resumed.test(), strict=True):
        assert a.scores == b.scores


class Clock:
    """Time in which nothing but an epoch takes any: a second each."""

    def __init__(self, trainer: Trainer, writing: float = 0.0) -> None:
        self.now, self.trainer, self.writing = 0.0, trainer, writing
        self.written: list[int] = []
        whole, train = trainer._save, trainer._train

        def save(best: Any) -> None:
            whole(best)
            self.now += self.writing
            self.written.append(trainer.fit.epoch)

        def epoch(number: int) -> tuple[float, int]:
            self.now += 1
            return train(number)

        self.trainer.__dict__.update(_save=save, _train=epoch)

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic


@pytest.mark.parametrize(
    ("seconds", "writing", "written"),
    [
        pytest.param(0.0, 0.0, [1, 2, 3, 4, 5, 6, 7], marks=pytest.mark.slow),
        (3.0, 0.0, [3, 6, 7]),
        pytest.param(100.0, 0.0, [7], marks=pytest.mark.slow),
        (1.0, 0.125, [1, 4, 7]),
    ],
)
def test_a_checkpoint_is_written_when_the_last_one_is_old_and_at_the_end(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, writing: float, written: list[int]
) -> None:
    change: Any = {"classification__max_epochs": "7", "classification__patience": "7"}
    for name in ("every", "some"):
        (tmp_path / name).mkdir()
    every = fakes.trainer(top, tmp_path / "every", **change)[0]
    some = fakes.trainer(top, tmp_path / "some", **change)[0]
    logged = numbers(fit(every))
    clock = Clock(some, writing)
    monkeypatch.setattr(trainer_module, "time", clock)
    some.checkpoint_seconds, some._written = seconds, 0.0
    kept: list[int] = []
    again: list[tuple[int, dict[str, float]]] = []
    some.run(lambda metrics, step: again.append((step, metrics)), lambda progress: None, kept=kept.append)
    assert clock.written == kept == written
    assert numbers(again) == logged
    assert every.best_file.read_bytes() == some.best_file.read_bytes()
    assert some.best_sha256 == every.best_sha256


def test_a_kill_between_checkpoints_costs_the_epochs_since_the_last_and_no_digit(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change: Any = {"classification__max_epochs": "6", "classification__patience": "6"}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = fakes.trainer(top, tmp_path / "whole", **change)[0]
    logged = numbers(fit(whole))
    killed = fakes.trainer(top, tmp_path / "killed", **change)[0]
    with monkeypatch.context() as patched:
        patched.setattr(trainer_module, "time", Clock(killed))
        killed.checkpoint_seconds, killed._written = 2.0, 0.0

        def die(progress: Progress) -> None:
            if progress.epoch == 5:
                raise KilledError

        with pytest.raises(KilledError):
            killed.run(lambda m, s: None, die)
    resumed = fakes.trainer(top, tmp_path / "killed", **change)[0]
    assert resumed.resume() == 4
    assert numbers(fit(resumed)) == logged[4:]
    assert all(torch.equal(a, weights_of(resumed)[k]) for k, a in weights_of(whole).items())
    assert resumed.best_file.read_bytes() == whole.best_file.read_bytes()


def test_a_damaged_checkpoint_starts_the_run_over(top: Path, tmp_path: Path) -> None:
    trainer, _ = fakes.trainer(top, tmp_path)
    logged = numbers(fit(trainer))
    trainer.checkpoint_file.write_bytes(trainer.checkpoint_file.read_bytes()[:1000])
    again, _ = fakes.trainer(top, tmp_path)
    assert again.resume() == 0
    assert numbers(fit(again)) == logged


def test_it_learns_to_classify(top: Path, tmp_path: Path) -> None:
    trainer, _ = fakes.trainer(top, tmp_path, classification__max_epochs="12", classification__lr="3e-3")
    fit(trainer)
    _, test = trainer.test()
    assert test.scores["auc"] > 0.85
    assert {"sensitivity", "specificity", "brier", "average_precision"} <= set(test.scores)
    assert list(test.table.columns) == ["id", "patient", "target.Tuberculosis", "probability.Tuberculosis"]


@pytest.mark.slow
def test_it_learns_to_segment_and_scores_native_size(top: Path, tmp_path: Path) -> None:
    trainer, data = fakes.trainer(
        top, tmp_path, segmentation=True, segmentation__max_epochs="15", segmentation__lr="3e-3"
    )
    fit(trainer)
    _, test = trainer.test()
    assert test.scores["dice"] > 0.7
    assert abs(test.scores["native_dice"] - test.scores["dice"]) < 0.1
    row = int(data.rows("test")[0])
    assert test.table["native_target"][0] == data.native_mask(row).sum()
    assert len(test.table) == 8


def test_the_monitor_decides_checkpoint_and_stop(top: Path, tmp_path: Path) -> None:
    trainer, _ = fakes.trainer(
        top, tmp_path, classification__monitor="val_auc", classification__patience="2", classification__max_epochs="40"
    )
    history = [m for _, m in fit(trainer)]
    scores = [m["val_auc"] for m in history]
    best = int(np.argmax(scores))
    assert trainer.fit.best_epoch == best
    assert len(history) == best + 1 + 3  # more than 2 epochs without improvement
    val, _ = trainer.test()
    assert set(val.scores) >= {"auc"}


@pytest.mark.parametrize(("metric", "segmentation", "lower"), [("brier", False, True), ("ece", False, True),
                                                               ("surface_dice", True, False)])  # fmt: skip
def test_the_best_epoch_by_another_metric_is_on_the_side_that_its_record_says(
    top: Path, tmp_path: Path, metric: str, segmentation: bool, lower: bool
) -> None:
    kind = "segmentation" if segmentation else "classification"
    changes: Any = {f"{kind}__monitor": f"val_{metric}", f"{kind}__max_epochs": "6", f"{kind}__lr": "3e-3"}
    trainer, _ = fakes.trainer(top, tmp_path, segmentation=segmentation, **changes)
    scores = [line[f"val_{metric}"] for _, line in fit(trainer)]
    assert len(set(scores)) > 1
    assert trainer.fit.best_epoch == int(np.argmin(scores) if lower else np.argmax(scores))
    assert trainer.fit.best == (min(scores) if lower else max(scores))
    val, test = trainer.test()
    assert val.scores[metric] == pytest.approx(trainer.fit.best)
    assert metric in test.scores or f"native_{metric}" in test.scores


def test_without_it_no_other_metric_is_kept_of_an_epoch(top: Path, tmp_path: Path) -> None:
    trainer, _ = fakes.trainer(top, tmp_path, classification__max_epochs="1")
    assert {name for name in fit(trainer)[0][1] if name.startswith("val_")} == {
        "val_auc", "val_auc.Tuberculosis", "val_average_precision", "val_loss",
    }  # fmt: skip


def test_the_plateau_lowers_the_rate_where_a_lower_is_better_score_does_not_fall(top: Path, tmp_path: Path) -> None:
    trainer, _ = fakes.trainer(
        top, tmp_path, classification__lr="3e-3", classification__schedule="plateau",
        classification__plateau_patience="0",
        classification__monitor="val_brier", classification__max_epochs="8",
    )  # fmt: skip
    history = [line for _, line in fit(trainer)]
    best = history[0]["val_brier"]
    for here, after in itertools.pairwise(history[1:]):
        stays = here["val_brier"] >= best * (1 - 1e-4)  # torch's own threshold
        assert after["lr"] == (here["lr"] / 2 if stays else here["lr"])
        best = min(best, here["val_brier"])


@pytest.mark.parametrize(
    ("segmentation", "monitor", "words"),
    [
        (False, "val_dice", r"must be one of val_loss, val_auc, .*'val_dice': it is a score of masks, which a binary"),
        (True, "val_ece", r"must be one of val_loss, val_dice, .*: it is a score of labels, which a segmentation task"),
        (False, "val_sensitivity", r"val fixes its threshold"),
        (False, "val_kappa", r"it is a score of classes"),
        (False, "val_exam_auc", r"it is a score of exams"),
        (True, "val_hd95_px", r"a network that answers nothing there does better"),
        (False, "val_acu", r"got 'val_acu'$"),
    ],
)
def test_a_monitor_that_the_kind_cannot_have_is_refused(
    top: Path, segmentation: bool, monitor: str, words: str
) -> None:
    task, kind = (
        TASKS["montgomery" if segmentation else "shenzhen"],
        "segmentation" if segmentation else "classification",
    )
    params = fakes.load_params(top, **{f"{kind}__monitor": monitor})
    spec = NetworkSpec(backbone=fakes.BACKBONE, image_size=32, decoder="auto")
    with pytest.raises(UserError, match=words):
        fitting.check(task, parameters.protocol(params, task.name, segmentation), spec)


def test_the_plateau_halves_the_rate(top: Path, tmp_path: Path) -> None:
    trainer, _ = fakes.trainer(
        top, tmp_path, classification__lr="3e-3", classification__schedule="plateau",
        classification__plateau_patience="0",
        classification__monitor="val_auc", classification__max_epochs="8",
    )  # fmt: skip
    history = [m for _, m in fit(trainer)]
    for before, here, after in zip(history, history[1:], history[2:], strict=False):
        assert after["lr"] in (here["lr"], here["lr"] / 2)
        if here["val_auc"] <= before["val_auc"]:
            assert after["lr"] == here["lr"] / 2
    assert history[-1]["lr"] < 3e-3


def test_warm_up_and_cosine(top: Path, tmp_path: Path) -> None:
    trainer, _ = fakes.trainer(
        top, tmp_path, classification__schedule="cosine", classification__warmup_epochs="2",
        classification__max_epochs="6", classification__lr="1e-3",
    )  # fmt: skip
    rates = [m["lr"] for _, m in fit(trainer)]
    np.testing.assert_allclose(rates, [1e-4, 5.5e-4, 1e-3, 8.535534e-4, 5e-4, 1.464466e-4], rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"engine__precision": "bf16"},
        {"engine__channels_last": "false"},
        {"classification__optimizer": "sgd"},
        {"classification__optimizer": "adamw", "classification__class_weights": "balanced"},
        {"classification__test_views": "1"},
    ],
)
def test_parameters_of_classification_train(top: Path, tmp_path: Path, change: Any) -> None:
    trainer, _ = fakes.trainer(top, tmp_path, **change)
    logged = fit(trainer)
    assert logged[-1][1]["train_loss"] < 1.5
    assert np.isfinite(trainer.test()[1].scores["auc"])


@pytest.mark.parametrize("change", [{"segmentation__loss": "bce", "segmentation__class_weights": "balanced"},
                                    {"segmentation__loss": "both"}])  # fmt: skip
def test_parameters_of_segmentation_train(top: Path, tmp_path: Path, change: Any) -> None:
    trainer, _ = fakes.trainer(top, tmp_path, segmentation=True, **change)
    logged = fit(trainer)
    assert logged[-1][1]["train_loss"] < logged[0][1]["train_loss"]


def test_an_undefined_monitor_and_a_diverging_loss_are_refused(top: Path, tmp_path: Path) -> None:
    trainer, data = fakes.trainer(top, tmp_path, classification__monitor="val_auc")
    trainer.rows = {**trainer.rows, "val": data.rows("val")[::2]}  # one class only
    with pytest.raises(UserError, match="val_auc is undefined on val"):
        fit(trainer)
    wild, _ = fakes.trainer(top, tmp_path, classification__lr="1e30", classification__optimizer="sgd")
    with pytest.raises(UserError, match="lower lr"):
        fit(wild)


def test_a_checkpoint_that_cannot_be_written_keeps_the_former(top: Path, tmp_path: Path) -> None:
    """A limit on file size makes the operating system refuse the write, as a full disk does."""
    import resource
    import signal

    trainer, _ = fakes.trainer(top, tmp_path)

    def limit(progress: Progress) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(UserError, match="start the same run again"):
            trainer.run(lambda m, s: None, limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, former)
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))
    resumed, _ = fakes.trainer(top, tmp_path)
    assert resumed.resume() == 1
    logged = numbers(fit(resumed))
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    whole, _ = fakes.trainer(top, tmp_path)
    assert numbers(fit(whole))[1:] == logged


def test_head_and_decoder_do_not_depend_on_the_initialization(top: Path) -> None:
    from medtransfer.training import networks
    from medtransfer.weights import backbones

    drawn: list[Any] = []
    for seed in (1, 2):
        tensors = backbones.bare_state(fakes.BACKBONE, seed, "one")
        spec = fitting.NetworkSpec(backbone=fakes.BACKBONE, image_size=32, decoder="auto")
        head: Any = networks.classifier(spec, 3, tensors, 9)
        unet: Any = networks.segmenter(spec, 1, tensors, 9)
        drawn.append((head.head.weight, [p for n, p in unet.named_parameters() if not n.startswith("encoder")]))
        assert torch.equal(next(head.backbone.parameters()), tensors[next(iter(tensors))])
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert all(torch.equal(a, b) for a, b in zip(drawn[0][1], drawn[1][1], strict=True))


def test_uncertain_labels_follow_the_policy_and_never_move_in_val() -> None:
    labels = torch.tensor([[1.0, -1.0], [-1.0, 0.0]])
    uniform = torch.tensor([[0.9, 0.5], [0.0, 0.2]])
    wanted = {"ones": (1.0, 1.0), "zeros": (0.0, 0.0), "lsr-ones": (0.7, 0.55), "lsr-zeros": (0.15, 0.0)}
    for policy, (first, second) in wanted.items():
        found = certain(labels, policy, uniform)
        torch.testing.assert_close(found, torch.tensor([[1.0, first], [second, 0.0]]))
        mean = {"ones": 1.0, "zeros": 0.0, "lsr-ones": 0.7, "lsr-zeros": 0.15}[policy]
        torch.testing.assert_close(certain(labels, policy), torch.tensor([[1.0, mean], [mean, 0.0]]))
    assert certain(labels, "ignore", uniform) is labels


def uncertain_trainer(top: Path, tmp_path: Path, policy: str, seed: int = 0) -> Any:
    """Builds the chest X-ray trainer of `fakes`, with every fourth label uncertain."""
    built, data = fakes.trainer(top, tmp_path, seed=seed)
    table = data.samples.copy()
    table.loc[::4, "Tuberculosis"] = -1
    task = replace(TASKS["shenzhen"], uncertain=True)
    marked = replace(data, read_samples=lambda: table)
    params = fakes.load_params(top)
    protocol = parameters.protocol(params, "shenzhen", False)
    built.objective = objectives.objective(task, marked, protocol, fakes.CPU)
    built.loader = fakes.loader(marked, task, protocol, params, uncertain=policy)
    return built


def test_uncertain_targets_are_drawn_anew_in_training_and_equal_for_equal_seeds(top: Path, tmp_path: Path) -> None:
    built = uncertain_trainer(top, tmp_path, "lsr-ones")

    def targets(epoch: int, seed: int = 0) -> dict[int, float]:
        batches = built.loader.train(built.rows["train"], built.protocol.augmentation, seed, epoch, 1)
        return {int(r): float(t) for b in batches for r, t in zip(b.rows, b.targets[:, 0], strict=True)}

    first, again, next_epoch = targets(0), targets(0), targets(1)
    assert first == again
    drawn = [row for row in first if row % 4 == 0]
    assert all(0.55 <= first[row] <= 0.85 for row in drawn)
    assert all(first[row] in (0, 1) for row in first if row not in drawn)
    assert all(first[row] != next_epoch[row] for row in drawn)
    seen = [t for batch in built.loader.evaluate(built.rows["val"], 1) for t in batch.targets[:, 0].tolist()]
    assert {round(t, 6) for t in seen} <= {0.0, 0.7, 1.0}


def test_ignored_targets_have_no_gradient_and_no_score(top: Path, tmp_path: Path) -> None:
    built = uncertain_trainer(top, tmp_path, "ignore")
    logits = torch.tensor([[2.0], [-1.0], [0.5]], requires_grad=True)
    loss = built.objective.loss(logits, torch.tensor([[1.0], [-1.0], [0.0]]))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[1] == 0
    torch.testing.assert_close(
        loss.detach(),
        torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor([2.0, 0.5]), torch.tensor([1.0, 0.0])),
    )
    prediction = built.objective.finish(np.full((8, 1), 0.5), built.rows["val"], None)
    assert prediction.scores["prevalence.Tuberculosis"] == pytest.approx(4 / 6)


def test_classes_are_learned(top: Path, tmp_path: Path) -> None:
    data = fakes.prepared(tmp_path, segmentation=False)
    there = data.samples["Tuberculosis"].to_numpy()
    table = data.samples[["id", "patient", "split"]].assign(No=1 - there, Yes=there)
    task = replace(TASKS["shenzhen"], kind="multiclass", labels=("No", "Yes"), metric="balanced_accuracy")
    params = fakes.load_params(top, classification__max_epochs="8", classification__class_weights="balanced")
    built, prepared = fakes.assemble(params, task, replace(data, read_samples=lambda: table), tmp_path)
    built.run(lambda *_: None, lambda _: None)
    _, test = built.test()
    assert test.scores["balanced_accuracy"] > 0.8
    probabilities = test.table[["probability.No", "probability.Yes"]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert prepared is not None


@pytest.mark.slow
def test_several_regions_are_learned_and_scored_at_native_size_with_extras(top: Path, tmp_path: Path) -> None:
    data = fakes.prepared(tmp_path, segmentation=True)
    assert data.masks is not None
    second = (np.arange(fakes.SIDE) < 20).astype(np.uint8)[None, :, None] * np.uint8(2)
    for row in data.rows("test"):
        planes = data.native_mask(int(row))
        half = (np.arange(len(planes)) < len(planes) // 2).astype(np.uint8)[:, None]
        view = np.ones_like(planes) << 2
        Image.fromarray(planes | half << 1 | view).save(tmp_path / "native_masks" / f"{row}.png")
    task = replace(TASKS["montgomery"], labels=("Disc", "Top"), extras=("field_of_view", "second_observer"))
    params = fakes.load_params(top, segmentation__max_epochs="25", segmentation__lr="0.01", segmentation__loss="both")
    built, _ = fakes.assemble(params, task, replace(data, masks=data.masks | second), tmp_path)
    built.run(lambda *_: None, lambda _: None)
    _, test = built.test()
    scores = test.scores
    assert scores["dice.Top"] > 0.85
    assert scores["dice"] == pytest.approx((scores["dice.Top"] + scores["dice.Disc"]) / 2)
    assert scores["fov_dice.Top"] == pytest.approx(scores["native_dice.Top"])  # the whole image is in view
    assert not any(name.startswith("observer2_") for name in scores)  # no second observer on disk
    assert test.table["native_target.Top"].gt(0).all()


def again(built: Trainer, **changes: Any) -> TaskTrainer:
    """Builds a trainer as another one, with changes."""
    return TaskTrainer(
        built.model, built.objective, built.loader, built.rows,
        protocol=built.protocol, engine=built.engine, seed=built.seed, device=built.device, folder=built.folder,
        **changes,
    )  # fmt: skip


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_accumulated_gradients_are_those_of_the_whole_batch(
    top: Path, tmp_path: Path, micro_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network has no batch norm; in 64 bits, because Adam's first steps are as large for a tiny gradient."""
    monkeypatch.setattr(fakes, "BACKBONE", "test_vit")
    found: list[Any] = []
    for changes in ({}, {"micro_batch": micro_batch}):
        built, _ = fakes.trainer(top, tmp_path, classification__max_epochs="1", classification__batch_size="7")
        built = again(built, **changes)
        built.model.double()
        built.forward = lambda inputs, model=built.model: model(inputs.double())
        found.append((fit(built)[0][1], weights_of(built)))
    (whole, first), (parts, second) = found
    assert parts["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-6)
    assert max(float((first[key] - second[key]).abs().max()) for key in first) < 1e-5  # found: 4e-7


def test_micro_batches_hold_the_images_of_the_batch_in_order(top: Path, tmp_path: Path) -> None:
    built, _ = fakes.trainer(top, tmp_path)

    def batches(micro_batch: int) -> list[Any]:
        made = again(built, micro_batch=micro_batch)
        return list(made.loader.train(made.rows["train"], made.protocol.augmentation, 0, 0, 1))

    whole, parts = batches(0), batches(3)
    assert [len(part.rows) for part in parts] == [2, 3, 3] * 4
    for place, batch in enumerate(whole):
        three = parts[3 * place : 3 * place + 3]
        assert torch.equal(torch.cat([part.inputs for part in three]), batch.inputs)
        assert torch.equal(torch.cat([part.targets for part in three]), batch.targets)
        assert [part.place.last for part in three] == [False, False, True]


def test_val_and_the_best_file_see_the_average_of_the_weights_over_steps(top: Path, tmp_path: Path) -> None:
    decay = 0.9
    plain, _ = fakes.trainer(top, tmp_path, classification__max_epochs="1")
    hand = weights_of(plain)
    step = plain.step

    def followed(*parts: Any) -> torch.Tensor:
        loss = step(*parts)
        for key, live in plain.model.state_dict().items():
            hand[key] = decay * hand[key] + (1 - decay) * live if live.is_floating_point() else live.clone()
        return loss

    plain.step = followed  # type: ignore[method-assign]  # looked at from outside
    fit(plain)
    averaging, _ = fakes.trainer(top, tmp_path, classification__max_epochs="1")
    averaging = again(averaging, ema=decay)
    [(_, scores)] = fit(averaging)
    trained = weights_of(plain)
    assert all(torch.equal(tensor, trained[key]) for key, tensor in weights_of(averaging).items())
    saved = load_file(averaging.best_file)
    assert saved.keys() == hand.keys()
    for key, tensor in hand.items():
        torch.testing.assert_close(saved[key], tensor)
    assert any(not torch.equal(saved[key], trained[key]) for key in hand)
    plain.model.load_state_dict(saved)
    assert scores["val_loss"] == plain.predict("val", views=1)[1]


def test_a_resumed_run_with_an_average_gives_the_numbers_of_an_uninterrupted_one(top: Path, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = again(fakes.trainer(top, tmp_path / "whole")[0], ema=0.9, micro_batch=4)
    logged = numbers(fit(whole))

    def die(progress: Progress) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        again(fakes.trainer(top, tmp_path / "killed")[0], ema=0.9, micro_batch=4).run(lambda m, s: None, die)
    resumed = again(fakes.trainer(top, tmp_path / "killed")[0], ema=0.9, micro_batch=4)
    assert resumed.resume() == 1
    assert numbers(fit(resumed)) == logged[1:]
    assert resumed.best_file.read_bytes() == whole.best_file.read_bytes()


@pytest.mark.parametrize(("precision", "rounded"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_fp32_means_one_thing_for_convolutions_and_matrix_products(top: Path, precision: str, rounded: bool) -> None:
    engine = fakes.load_params(top).engine
    try:
        trainer_module.choose_kernels(fakes.load_params(top, engine__precision=precision).engine)
        assert torch.backends.cudnn.allow_tf32 is rounded
        assert torch.backends.cuda.matmul.allow_tf32 is rounded
    finally:
        trainer_module.choose_kernels(engine)


def test_tf32_is_refused_on_a_cpu(top: Path) -> None:
    with pytest.raises(UserError, match=r"engine\.precision is tf32, which is an arithmetic of GPUs"):
        check_engine(fakes.load_params(top, engine__precision="tf32"), "cpu")
