"""What a study's trials came to: Optuna's records -> the ledger's."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from medtransfer.params import Tuning
from medtransfer.results.study import Finalist, Trial

STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
"""Optuna's word -> the ledger's, where the trial has no kind of its own"""
LIMITS = {"layer_decay": (0.0, 1.0), "backbone_lr": (0.0, float("inf")), "weight_decay": (0.0, float("inf"))} | {
    f"augmentation.{name}": (0.0, 1.0) for name in ("crop", "flip", "distortion", "intensity", "crop_scale_min")
}
"""field -> the least and greatest value that the parameters allow"""


def trial_of(one: FrozenTrial) -> Trial:
    """Reads an ended trial."""
    book = one.user_attrs.get("outcome", {})
    return Trial(
        number=one.number,
        state=one.user_attrs.get("kind", STATES[one.state]),
        why=one.user_attrs.get("why", ""),
        params=dict(one.params),
        value=one.value if one.state == TrialState.COMPLETE else None,
        val=book.get("val"),
        best_epoch=book.get("best_epoch", -1),
        epochs=book.get("epochs", 0),
        images=book.get("images", 0),
        seconds=book.get("seconds", 0.0),
        gpu_seconds=book.get("gpu_seconds", 0.0),
    )


def finalists_of(best: Sequence[Trial], repeats: Mapping[int, Mapping[str, Any]], settings: Tuning) -> list[Finalist]:
    """Puts the seeds of each finalist together.

    Args:
        best: the trials that are repeated.
        repeats: number of the trial -> seed -> what its training came to.
        settings: whose seeds they are.
    """
    found = []
    for trial in best:
        mine = repeats.get(trial.number, {})
        runs = {str(s): mine[str(s)] for s in settings.finalist_seeds if str(s) in mine}
        values = {str(settings.seed): trial.value} | {s: entry["best"] for s, entry in runs.items()}
        vals = {str(settings.seed): trial.val} | {s: entry["val"] for s, entry in runs.items()}
        known = [value for value in values.values() if value is not None]
        found.append(
            Finalist(
                number=trial.number,
                values=values,
                vals=vals,
                mean=sum(known) / len(known) if len(known) == len(values) else None,
                images=sum(entry["images"] for entry in runs.values()),
                seconds=sum(entry["seconds"] for entry in runs.values()),
            )
        )
    return found


def winner_of(finalists: Sequence[Finalist], *, maximize: bool) -> int | None:
    """Names the trial with the best mean over all its seeds; of equal ones the earlier."""
    sign = -1 if maximize else 1
    whole = [finalist for finalist in finalists if finalist.mean is not None]
    chosen = min(whole, key=lambda f: (sign * (f.mean or 0.0), f.number), default=None)
    return chosen.number if chosen else None


def importances_of(study: optuna.Study) -> dict[str, float]:
    """Weighs the tuned fields (PED-ANOVA, Optuna's default); empty where one field or too few values say nothing."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in done}) < 2 or len(done[0].params) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few trials make it say so each time
        return dict(optuna.importance.get_param_importances(study))
