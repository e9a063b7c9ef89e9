"""The control `prior`: what can be said of a test image that nobody looked at."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from medtransfer.core import arithmetic
from medtransfer.data.cache import Prepared
from medtransfer.runs.run import Run
from medtransfer.training import objectives
from medtransfer.training.checkpoint import Fit
from medtransfer.training.loader import Loader
from medtransfer.training.objectives import Prediction, TaskObjective

THRESHOLDS = tuple(np.arange(1, 20) / 20)
"""shares of train's masks from which on a pixel of the mean mask counts, of which val chooses one"""


def run_prior(
    run: Run, prepared: Prepared, loader: Loader, log: Callable[[dict[str, float], int], None]
) -> tuple[Fit, Prediction, Prediction]:
    """Gives every test image train's share of each label, or train's mean mask.

    Args:
        run: of the control.
        prepared: the cache with the run's split.
        loader: of its masks, as a network would see them.
        log: gets what each threshold came to on val.

    Returns:
        What was tried as the history of a fit, val, and test.
    """
    start = time.perf_counter()
    goal = objectives.objective(run.record, prepared, run.training, torch.device(run.device))
    fit = Fit(images=len(prepared.rows("train")), arithmetic=arithmetic.in_force(run.device))
    val, test = (_masks if run.record.segmentation else _shares)(run, prepared, loader, goal, fit)
    for number, entry in enumerate(fit.history):
        log(entry, number)
    fit.epoch, fit.seconds = len(fit.history), time.perf_counter() - start
    return fit, val, test


def label_shares(truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Counts the share of positives among the known of each label; one half where none is known."""
    known = (truth >= 0).sum(0)
    return np.where(known > 0, (truth == 1).sum(0) / np.maximum(known, 1), 0.5)


def _shares(
    run: Run, prepared: Prepared, loader: Loader, goal: TaskObjective, fit: Fit
) -> tuple[Prediction, Prediction]:
    shares = label_shares(objectives.targets(run.record, prepared)[prepared.rows("train")])
    every = {split: np.tile(shares, (len(prepared.rows(split)), 1)) for split in ("val", "test")}
    thresholds = goal.thresholds(every["val"])
    val, test = (goal.finish(every[split], prepared.rows(split), thresholds) for split in ("val", "test"))
    _note(fit, run, goal.score(every["val"], prepared.rows("val")), {})
    return val, test


def _masks(
    run: Run, prepared: Prepared, loader: Loader, goal: TaskObjective, fit: Fit
) -> tuple[Prediction, Prediction]:
    """Lays train's mean mask on every image, from the share on that scores best on val."""
    rows = prepared.rows("train")
    sums = [batch.targets.double().sum(0) for batch in loader.evaluate(rows, 1)]
    mean = torch.stack(sums).sum(0) / len(rows)

    def collected(split: str, threshold: float) -> NDArray[np.float64]:
        logits = (mean - threshold).float()
        parts = [
            goal.collect(logits.expand(len(batch.rows), *logits.shape), batch.targets, batch.rows, split == "test")
            for batch in loader.evaluate(prepared.rows(split), 1)
        ]
        return np.concatenate(objectives.on_host(parts))

    for threshold in THRESHOLDS:
        scores = goal.score(collected("val", threshold), prepared.rows("val"))
        _note(fit, run, scores, {"threshold": threshold})
    chosen = THRESHOLDS[fit.best_epoch]
    val, test = (goal.finish(collected(split, chosen), prepared.rows(split), None) for split in ("val", "test"))
    return val, test


def _note(fit: Fit, run: Run, scores: dict[str, float], more: dict[str, float]) -> None:
    """Adds an entry to the history, and says whether it is the best one; the first of equals stays."""
    fit.history.append({**more, **{f"val_{name}": value for name, value in scores.items() if "." not in name}})
    score = scores.get(run.record.metric, 0.0)
    if fit.best_epoch < 0 or score > fit.best:
        fit.best, fit.best_epoch = score, len(fit.history) - 1
