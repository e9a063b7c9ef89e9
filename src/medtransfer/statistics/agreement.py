"""Whether a cheap protocol ranks initializations as fine-tuning does, beside how well that ranking itself is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medtransfer.core.errors import UserError
from medtransfer.statistics.bootstrap import Array
from medtransfer.statistics.seeds_and_patients import joint_interval

MIN_INITS = 3
"""initializations below which there is no ranking to speak of"""
CHUNK = 2_000_000
"""weights of patients that are drawn at once"""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Kendall's tau-b between two rankings of the same initializations, or the reason why there is none."""

    inits: int
    tasks: int = 1
    tau: float | None = None
    """mean over tasks"""
    low: float | None = None
    high: float | None = None
    ceiling: float | None = None
    """tau to be expected of the fine-tuning ranking with the true one"""
    level: float
    seeds: int = 0
    patients: int = 0
    """0: seeds alone were drawn"""
    draws: int
    note: str = ""
    method: str = "Kendall tau-b, bootstrap of seeds and patients"


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The agreement on one task, with what is needed to average it over tasks."""

    found: Agreement
    taus: Array
    """per draw; empty where there is no tau"""


def agree(cheap: Any, tuned: Any, *, rng: np.random.Generator, level: float = 0.95, draws: int = 1000) -> Drawn:
    """Compares two rankings of initializations on one task.

    The interval holds the percentiles of tau over draws of the seeds (one draw per protocol, the same for all
    initializations) and of the patients (one draw for both protocols, whose test images are the same). It is for tau at
    this number of seeds and patients: noise in either ranking draws tau towards 0, in the draws once more.

    Ceiling: the true means are taken as normally distributed around a common one (empirical Bayes: Efron and Morris,
    JASA 1973; their variance is that of the observed means less the mean squared standard error, at least 0). True
    means are drawn given the observed ones, and the tau of the observed fine-tuning means with each is averaged.
    Standard errors are those of an initialization's deviation from the mean of all, over seeds and patients: what all
    have in common moves no rank. Where nothing but noise is left between initializations the ceiling is 0.

    Args:
        cheap: inits x seeds x patients: what each patient adds to a score; inits x seeds x 1: scores alone.
        tuned: of fine-tuning, the same inits and patients in the same order; seeds may be others.
        rng: draws.
        level: of the interval.
        draws: of the bootstrap, and of the true means.

    Raises:
        UserError: shapes do not fit, or a number is not finite.
    """
    one, two = (np.asarray(values, dtype=np.float64) for values in (cheap, tuned))
    if one.ndim != 3 or two.ndim != 3 or len(one) != len(two) or one.shape[2] != two.shape[2]:
        raise UserError(
            f"inits x seeds x patients must be given twice, of equal inits and patients; got {one.shape}, {two.shape}"
        )
    if not (np.isfinite(one).all() and np.isfinite(two).all()):
        raise UserError("scores must be finite numbers")
    inits, seeds, patients = len(one), min(one.shape[1], two.shape[1]), one.shape[2]
    known: dict[str, Any] = {"inits": inits, "level": level, "draws": draws, "seeds": seeds}
    known["patients"] = 0 if patients == 1 else patients
    if inits < MIN_INITS:
        words = f"{inits} initialization{'' if inits == 1 else 's'}, and a ranking needs {MIN_INITS}"
        return Drawn(found=Agreement(note=words, **known), taus=np.empty(0))
    observed = two.mean(axis=(1, 2))
    tau = kendall(one.mean(axis=(1, 2))[None], observed[None])[0]
    if np.isnan(tau):
        return Drawn(found=Agreement(note="all of one protocol are equal", **known), taus=np.empty(0))
    taus = _resampled(one, two, rng, draws)
    low, high = _percentiles(taus, level)
    found = Agreement(tau=float(tau), low=low, high=high, ceiling=ceiling(two, rng=rng, draws=draws), **known)
    return Drawn(found=found, taus=taus)


def over_tasks(parts: Sequence[Drawn]) -> Agreement | None:
    """Averages tau, its draws and its ceiling over tasks; None where fewer than two tasks have a tau."""
    known = [part for part in parts if part.found.tau is not None]
    if len(known) < 2:
        return None
    first = known[0].found
    low, high = _percentiles(np.mean([part.taus for part in known], axis=0), first.level)
    ceilings = [part.found.ceiling for part in known if part.found.ceiling is not None]
    return Agreement(
        inits=min(part.found.inits for part in known), tasks=len(known),
        tau=float(np.mean([part.found.tau for part in known if part.found.tau is not None])), low=low, high=high,
        ceiling=float(np.mean(ceilings)) if len(ceilings) == len(known) else None, level=first.level,
        seeds=min(part.found.seeds for part in known), patients=min(part.found.patients for part in known),
        draws=first.draws,
    )  # fmt: skip


def kendall(one: Array, two: Array) -> Array:
    """Computes tau-b of every row of `one` with the same row of `two`; nan where a row is all ties.

    Args:
        one: draws x inits.
        two: draws x inits.
    """
    first, second = np.triu_indices(one.shape[1], 1)
    signs = [np.sign(values[:, first] - values[:, second]) for values in (one, two)]
    untied = [np.abs(sign).sum(axis=1) for sign in signs]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((signs[0] * signs[1]).sum(axis=1) / np.sqrt(untied[0] * untied[1]))


def ceiling(tuned: Any, *, rng: np.random.Generator, draws: int = 1000) -> float | None:
    """Estimates the tau of a ranking with the true one, see `agree`.

    Args:
        tuned: inits x seeds x patients, or inits x seeds x 1.
        rng: draws the true means.
        draws: of them.

    Returns:
        None where the standard errors are unknown: a single seed.
    """
    values = np.asarray(tuned, dtype=np.float64)
    inits, seeds = values.shape[:2]
    if seeds < 2:
        return None
    observed = values.mean(axis=(1, 2))
    own = (values - values.mean(axis=0)) * np.sqrt(inits / (inits - 1))
    variance = np.array([_squared_error(table) for table in own])
    between = max(float(observed.var(ddof=1) - variance.mean()), 0.0)
    if between == 0:
        return 0.0
    kept = between / (between + variance)
    true = observed.mean() + kept * (observed - observed.mean())
    drawn = true + np.sqrt(kept * variance) * rng.standard_normal((draws, inits))
    taus = kendall(drawn, np.broadcast_to(observed, drawn.shape))
    return float(np.nanmean(taus))


def _squared_error(table: Array) -> float:
    """Estimates the variance of a mean over seeds and patients; patients are in it where there are any."""
    if table.shape[1] == 1:
        return float(table[:, 0].var(ddof=1) / len(table))
    found = joint_interval(table)
    return found.patient_error**2 + (found.seed_error or 0.0) ** 2


def _resampled(one: Array, two: Array, rng: np.random.Generator, draws: int) -> Array:
    """Draws seeds and patients with replacement and computes tau each time."""
    patients, taus = one.shape[2], []
    size = max(1, min(draws, CHUNK // patients))
    for start in range(0, draws, size):
        number = min(size, draws - start)
        weights = (
            np.ones((number, 1)) if patients == 1
            else rng.multinomial(patients, np.full(patients, 1 / patients), size=number) / patients
        )  # fmt: skip
        means = []
        for values in (one, two):
            seeds = values.shape[1]
            taken = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=number) / seeds
            means.append(np.einsum("bs,isb->bi", taken, values @ weights.T))
        taus.append(kendall(*means))
    return np.asarray(np.nan_to_num(np.concatenate(taus)))  # all ties: no agreement either way


def _percentiles(taus: Array, level: float) -> tuple[float, float]:
    low, high = np.quantile(taus, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
