"""Two initializations on one task: difference, interval over seeds and patients, effect, equivalence, power."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from medtransfer import effects, multiplicity, statistics
from medtransfer.comparison import Row
from medtransfer.evidence import Evidence
from medtransfer.joint import JointInterval, joint_interval

Family = Literal["reference", "chosen", "overall"]
"""what every other initialization is compared with: the reference, the best on val of the task, or that of all tasks"""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The difference of two initializations on one task, and what can be said of it."""

    task: str
    init: str
    against: str
    family: Family
    unit: Literal["seed", "fold"]
    estimate: float
    """mean test score of `init` minus that of `against`"""
    seeds: statistics.TTest
    """over seeds alone: paired t-test, of folds the corrected one"""
    joint: JointInterval | None
    """over seeds and test patients; None where the predictions cannot say"""
    p: float | None
    """of no difference: over seeds and patients, else over seeds alone"""
    p_adjusted: float | None = None
    """within the task's family (Holm)"""
    low: float | None
    """of the interval that belongs to `p`, not adjusted"""
    high: float | None
    effect: effects.Effect | None
    """over seeds"""
    superiority: effects.Superiority | None
    """over seeds"""
    margin: float | None
    equivalent: bool | None
    """two one-sided tests: the difference is within the margin; None where no test is possible"""
    seeds_needed: int | None
    """pairs with which a paired t-test finds a difference of the margin with power 0.8; None: over 1,000"""
    note: str = ""

    def separated(self, alpha: float) -> bool | None:
        """Says whether the adjusted p <= alpha; None where no test is possible."""
        return None if self.p_adjusted is None else self.p_adjusted <= alpha

    @property
    def basis(self) -> str:
        """Says what the interval is over."""
        return f"{self.unit}s" if self.joint is None else f"{self.unit}s and patients"


def family(
    rows: Sequence[Row], base: Row, kind: Family, evidence: Evidence, *, alpha: float, margin: float | None
) -> list[Contrast]:
    """Compares every complete row of a task with the base; p-values are adjusted by Holm's method.

    The difference is always the other's score minus the base's. Holm, Scandinavian Journal of Statistics 1979.
    """
    others = [row for row in rows if row.init != base.init and row.summary is not None]
    found = [_contrast(row, base, kind, evidence, alpha, margin) for row in others]
    adjusted = multiplicity.holm([contrast.p for contrast in found])
    return [replace(contrast, p_adjusted=p) for contrast, p in zip(found, adjusted, strict=True)]


def _contrast(row: Row, base: Row, kind: Family, evidence: Evidence, alpha: float, margin: float | None) -> Contrast:
    seeds = _over_seeds(row, base, alpha)
    joint = _joint(row, base, evidence, 1 - alpha, margin)
    known = seeds if joint is None or joint.seed_error is None else joint
    several = row.unit == "seed" and len(row.scores) > 1
    return Contrast(
        task=row.task,
        init=row.init,
        against=base.init,
        family=kind,
        unit=row.unit,
        estimate=seeds.difference,
        seeds=seeds,
        joint=joint,
        p=known.p,
        low=known.low,
        high=known.high,
        effect=effects.standardized(row.scores, base.scores, paired=True) if several else None,
        superiority=effects.superiority(row.scores, base.scores, paired=True) if several else None,
        margin=margin,
        equivalent=_equivalent(row, base, evidence, alpha, margin),
        seeds_needed=_seeds_needed(row, base, alpha, margin) if several else None,
        note=known.note,
    )


def _over_seeds(row: Row, base: Row, alpha: float) -> statistics.TTest:
    if row.unit == "fold":
        return statistics.corrected_t_test(row.scores, base.scores, ratio=row.ratio, alpha=alpha)
    return statistics.t_test(row.scores, base.scores, test="paired", alpha=alpha)


def _joint(row: Row, base: Row, evidence: Evidence, level: float, margin: float | None) -> JointInterval | None:
    if row.init not in evidence.contributions or base.init not in evidence.contributions:
        return None
    difference = evidence.contributions[row.init] - evidence.contributions[base.init]
    return joint_interval(difference, level=level, margin=margin) if difference.shape[1] > 1 else None


def _equivalent(row: Row, base: Row, evidence: Evidence, alpha: float, margin: float | None) -> bool | None:
    """Runs two one-sided tests at alpha each: the interval at 1 - 2 alpha lies within the margin.

    Where nothing varies there is no interval and no verdict: two perfect scores on few patients prove nothing.
    """
    if margin is None:
        return None
    known: statistics.TTest | JointInterval | None = _joint(row, base, evidence, 1 - 2 * alpha, None)
    if known is None or known.p is None:
        known = _over_seeds(row, base, 2 * alpha)
    if known.low is None or known.high is None:
        return None
    return -margin < known.low and known.high < margin


def _seeds_needed(row: Row, base: Row, alpha: float, margin: float | None) -> int | None:
    """Plans with the upper bound of the std of the differences: the std of a few seeds is itself uncertain."""
    spread = statistics.summary([a - b for a, b in zip(row.scores, base.scores, strict=True)])
    if margin is None or not spread.std:
        return None
    return effects.seeds_needed(effects.upper_std(spread.std, spread.n), margin=margin, alpha=alpha)
