"""Would a ranking come out again? What a repetition with other seeds and test patients would share with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from medtransfer.statistics.all_pairs import Pairs

ENOUGH = 0.95
"""expected tau of a repetition from which on a ranking is called settled"""
MOST = 1000
"""seeds that `needed` looks at"""
FEWEST = 3
"""initializations that a ranking has"""


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """What is expected of the same comparison done again: Kendall's tau is 1 for equal, 0 for unrelated rankings."""

    inits: int
    reliability: float
    """share of the variance of the means that is of the initializations, not of seeds and patients; below 0: chance
    alone would show more (an intraclass correlation of means: Shrout and Fleiss, Psychological Bulletin 1979)"""
    tau: float
    """expected between this ranking and that of a repetition"""
    ceiling: float
    """expected between this ranking and the true one: nothing that predicts the truth correlates higher with these
    means, but by luck"""
    seeds: int | None
    """in total, from which on `tau` would be `ENOUGH`; None: no number up to `MOST` is, for want of patients"""


def repetition(pairs: Pairs) -> Repetition | None:
    """Predicts how alike a repetition's ranking of the means would be; None for fewer than three inits or no spread.

    A difference d with standard error s can be split by added noise into two independent ones of twice its variance
    (data thinning: Neufeld et al., JMLR 2024). Those agree in sign as often as two repetitions with half the seeds and
    patients do, and the expected agreement has a closed form: tau of halves is the mean of 4 Phi(|d| / s) - 3 over the
    pairs, without a word on how the initializations are distributed. From halves to the whole goes the formula of
    Spearman and Brown, on the correlation that tau stands for among normal ones, sin(pi tau / 2) (Greiner).

    Simulated, 3 to 20 inits, mean predicted minus mean realised: normal effects at 10 seeds -.06 to .01, at 3 seeds, of
    which the error is overestimated, -.10 to .00; equals -.07 to .08; one that stands out, or two groups of equals,
    -.12 to .10.

    Args:
        pairs: all differences of a task, or of all tasks.
    """
    if pairs.inits < FEWEST:
        return None
    upper = np.triu_indices(pairs.inits, 1)
    gap = np.abs(pairs.estimate[upper])
    of_seeds, of_patients = pairs.seed_error[upper] ** 2, pairs.patient_error[upper] ** 2
    variance = of_seeds + of_patients
    if not pairs.tested[upper].all():
        return None
    half = float(np.mean(4 * stats.norm.cdf(gap / np.sqrt(variance)) - 3))
    of_half = math.sin(math.pi / 2 * half)
    whole = _lengthened(of_half, 2.0)
    counts = np.arange(pairs.seeds, MOST + 1)
    shrunk = (1 / counts + pairs.ratio) / (1 / pairs.seeds + pairs.ratio)
    growth = variance.mean() / (of_seeds.mean() * shrunk + of_patients.mean())
    enough = np.array([_tau(_lengthened(of_half, 2 * factor)) >= ENOUGH for factor in growth])
    return Repetition(
        inits=pairs.inits, reliability=1 - float(variance.mean() / np.mean(gap**2)) if gap.any() else -math.inf,
        tau=_tau(whole), ceiling=_tau(math.copysign(math.sqrt(abs(whole)), whole)),
        seeds=int(counts[enough.argmax()]) if enough.any() else None,
    )  # fmt: skip


def _lengthened(correlation: float, factor: float) -> float:
    """Applies the formula of Spearman and Brown, odd about 0: chance below 0 is as likely as above."""
    return factor * correlation / (1 + (factor - 1) * abs(correlation))


def _tau(correlation: float) -> float:
    return 2 / math.pi * math.asin(max(-1.0, min(1.0, correlation)))
