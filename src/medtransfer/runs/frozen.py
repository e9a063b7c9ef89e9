"""A run on frozen features: linear, knn or the control texture, whose one choice is made on val; test is read once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medtransfer.core import arithmetic
from medtransfer.core.errors import UserError
from medtransfer.core.identity import digest
from medtransfer.data.cache import Prepared, load
from medtransfer.params import FROZEN
from medtransfer.runs import feature_cache, variants
from medtransfer.runs.run import Run
from medtransfer.training import objectives, probes, texture
from medtransfer.training.checkpoint import Fit
from medtransfer.training.features import Features, LinearSegmenter
from medtransfer.training.loader import Loader, certain
from medtransfer.training.objectives import Prediction, TaskObjective, on_host

MOST_PIXELS = 100_000
"""pixels of train that a linear layer is fitted to; of more, each image gives its first ones"""
EDGE = 1e-6
"""probabilities of votes stay this far from 0 and 1 where their log is taken"""

Log = Callable[[dict[str, float], int], None]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What one value of the grid comes to on val."""

    value: float
    loss: float
    scores: dict[str, float]
    logits: Mapping[str, NDArray[np.float64]]
    """split -> logits of its images, (images, L); none of a segmentation task"""
    layer: probes.Linear | None = None


def run_frozen(run: Run, prepared: Prepared, loader: Loader, log: Log) -> tuple[Fit, Prediction, Prediction, float]:
    """Fits every value of the protocol's grid, chooses by the log loss on val, and reads test once.

    Args:
        run: of the protocol linear or knn, or the control texture.
        prepared: the cache with the run's split and fraction.
        loader: of its images, for the test masks of a segmentation task.
        log: gets what each value of the grid came to on val.

    Returns:
        What was tried as the history of a fit, val, test, and the seconds that the features took.

    Raises:
        UserError: train or val cannot carry the protocol.
    """
    features, start = feature_cache.ready(run), time.perf_counter()
    device = torch.device(run.device)
    goal = objectives.objective(run.record, prepared, run.training, device)
    segmentation = run.record.segmentation
    grid = _grid(run, prepared, features, goal)
    fit = Fit(epoch=len(grid), images=len(prepared.rows("train")), arithmetic=arithmetic.in_force(run.device))
    for number, choice in enumerate(grid):
        name = "neighbours" if run.protocol == "knn" else "strength"
        entry = {"val_loss": choice.loss, name: choice.value, **{f"val_{k}": v for k, v in choice.scores.items()}}
        fit.history.append(entry)
        log(entry, number)
        if fit.best_epoch < 0 or choice.loss < fit.best:
            fit.best, fit.best_epoch = choice.loss, number
    best = grid[fit.best_epoch]
    val, test = (_test_masks if segmentation else _test)(run, prepared, loader, goal, best)
    fit.seconds = time.perf_counter() - start
    return fit, val, test, features.seconds


def on_val(run: Run, prepared: Prepared, features: Features) -> dict[str, float | None]:
    """Scores frozen features by linear and knn, each with the choice that val makes; None where a task cannot have it.

    Returns:
        The task's metric on val; of linear on masks minus its log loss on val's pixels.
    """
    goal = objectives.objective(run.record, prepared, run.training, torch.device(run.device))
    found = dict[str, float | None]()
    for protocol in FROZEN:
        own = dataclasses.replace(run, protocol=protocol)
        if variants.misfit(own, load(run.prepared)):
            found[protocol] = None
            continue
        best = min(_grid(own, prepared, features, goal), key=lambda choice: choice.loss)
        found[protocol] = -best.loss if run.record.segmentation else best.scores.get(run.record.metric)
    return found


_LAST: dict[str, list[Choice]] = {}
"""the grid of the last run: with all labels every seed sees the same images, so it comes to the same"""


def _grid(run: Run, prepared: Prepared, features: Features, goal: TaskObjective) -> list[Choice]:
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

    rows = [prepared.rows(split).tolist() for split in ("train", "val", "test")]
    key = digest([feature_cache.identity(run), run.protocol, run.fields, rows])
    if key not in _LAST:
        _LAST.clear()
        with threadpool_limits(run.params.execution.threads_per_run):
            fit = _dense if run.record.segmentation else _whole
            _LAST[key] = fit(run, prepared, features, goal)
    return _LAST[key]


def _whole(run: Run, prepared: Prepared, features: Features, goal: TaskObjective) -> list[Choice]:
    """Tries the grid on features of whole images."""
    truth = objectives.targets(run.record, prepared)
    train, multiclass = prepared.rows("train"), run.record.kind == "multiclass"
    policy = getattr(run.training, "uncertain", "") if run.record.uncertain else ""
    targets = certain(torch.from_numpy(np.array(truth, dtype=np.float32)), policy)
    rows = {split: prepared.rows(split) for split in ("val", "test")}
    settings, found = run.params.protocols, list[Choice]()

    def add(value: float, logits: Mapping[str, NDArray[np.float64]]) -> None:
        device, on_val = _device(goal), torch.from_numpy(logits["val"])
        loss = goal.loss(on_val.to(device), targets[torch.from_numpy(rows["val"])].to(device))
        scores = goal.score(_probabilities(logits["val"], multiclass), rows["val"])
        shown = {name: score for name, score in scores.items() if "." not in name}
        found.append(Choice(value=value, loss=float(loss), scores=shown, logits=logits))

    if run.protocol != "knn":
        weights = getattr(goal, "weight", None)
        layers = probes.linear(
            features.values[train], targets[torch.from_numpy(train)].numpy(), settings.linear_strengths,
            multiclass=multiclass, weights=None if weights is None else weights.double().cpu().numpy(),
        )  # fmt: skip
        for strength, layer in zip(settings.linear_strengths, layers, strict=True):
            add(strength, {split: layer.logits(features.values[places]) for split, places in rows.items()})
        return found
    usable = [k for k in settings.knn_neighbours if k <= len(train)]
    both = np.concatenate([rows["val"], rows["test"]])
    shares = probes.votes(features.values[train], truth[train], features.values[both], usable)
    for k, share in zip(usable, shares, strict=True):
        of_val, of_test = np.split(_log_odds(share, multiclass), [len(rows["val"])])
        add(float(k), {"val": of_val, "test": of_test})
    return found


def _dense(run: Run, prepared: Prepared, features: Features, goal: TaskObjective) -> list[Choice]:
    """Tries the grid on features of pixels: a label is there or not at each."""
    assert features.targets is not None  # of a segmentation task
    train, val, labels = prepared.rows("train"), prepared.rows("val"), len(run.record.labels)
    each = max(1, min(features.values.shape[1], MOST_PIXELS // len(train)))

    def pixels(rows: NDArray[np.int64]) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
        bits = features.targets[rows, :each].reshape(-1, 1) >> np.arange(labels, dtype=np.uint8) & 1  # type: ignore[index]  # asserted above
        return features.values[rows, :each].reshape(len(bits), -1), bits.astype(np.float32)

    weights = getattr(goal, "weight", None)
    balance = None if weights is None else weights.double().reshape(-1).cpu().numpy()
    values, targets = pixels(train)
    lacking = [name for name, column in zip(run.record.labels, targets.T, strict=True) if column.min() == column.max()]
    if lacking:
        raise UserError(
            f"{run.protocol} on task {run.task}: {each} pixels of each of {len(train)} images hold nothing, or "
            f"nothing but, {', '.join(lacking)}: raise protocols.linear_positions"
        )
    layers = probes.linear(values, targets, run.params.protocols.linear_strengths, weights=balance)
    others, truth = pixels(val)
    found = []
    for strength, layer in zip(run.params.protocols.linear_strengths, layers, strict=True):
        logits = torch.from_numpy(layer.logits(others))
        pos_weight = None if balance is None else torch.from_numpy(balance)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, torch.from_numpy(truth).double(), pos_weight=pos_weight
        )
        found.append(Choice(value=strength, loss=float(loss), scores={}, logits={}, layer=layer))
    return found


def _test(
    run: Run, prepared: Prepared, loader: Loader, goal: TaskObjective, best: Choice
) -> tuple[Prediction, Prediction]:
    rows, multiclass = {split: prepared.rows(split) for split in ("val", "test")}, run.record.kind == "multiclass"
    found = {split: _probabilities(best.logits[split], multiclass) for split in rows}
    thresholds = goal.thresholds(found["val"])
    val, test = (goal.finish(found[split], rows[split], thresholds) for split in ("val", "test"))
    return val, test


def _test_masks(
    run: Run, prepared: Prepared, loader: Loader, goal: TaskObjective, best: Choice
) -> tuple[Prediction, Prediction]:
    """Passes val and test through backbone and layer: their dense features are never stored."""
    assert best.layer is not None  # linear has one
    layer = best.layer.weight, best.layer.bias
    if run.network:
        model: torch.nn.Module = LinearSegmenter(feature_cache.network(run)[0], *layer)
    else:
        model = texture.TextureSegmenter(*layer)
    model = model.to(torch.device(run.device)).eval()
    found = []
    with torch.inference_mode():
        for split in ("val", "test"):
            rows = prepared.rows(split)
            parts = [
                goal.collect(model(batch.inputs), batch.targets, batch.rows, split == "test")
                for batch in loader.evaluate(rows, 1)
            ]
            found.append(goal.finish(np.concatenate(on_host(parts)), rows, None))
    return found[0], found[1]


def _device(goal: TaskObjective) -> Any:
    weight = getattr(goal, "weight", None)
    return "cpu" if weight is None else weight.device


def _probabilities(logits: NDArray[np.float64], multiclass: bool) -> NDArray[np.float64]:
    from scipy.special import expit, softmax

    return np.asarray(softmax(logits, axis=1) if multiclass else expit(logits), dtype=np.float64)


def _log_odds(shares: NDArray[np.float64], multiclass: bool) -> NDArray[np.float64]:
    """Turns shares of votes into logits, which give the same shares back."""
    kept = np.clip(shares, EDGE, 1 - EDGE)
    return np.log(kept) if multiclass else np.log(kept / (1 - kept))
