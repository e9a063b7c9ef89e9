"""A race of candidates over rounds: who is dropped, who is level with the leader, how sure the pick is.

Candidates are known by their places, a higher score is better. In every round the candidates that are left are scored
under the same seeds (and on the same val patients), so that differences are paired.

**Error.** The candidate that is truly best by a margin is dropped with a probability of at most `Rules.error`, however
often one looks. Each difference to the leader is tested at `error / rounds / (candidates - 1)`: Bonferroni's inequality
over the rounds that are planned (a group-sequential test with equal spending, after Pocock, Biometrika 1977, and
Lan and DeMets, Biometrika 1983) and over all who may lead. It holds whatever joins the rounds: the same seeds trained
for longer, the same patients, rivals that are left because they were lucky. A confidence sequence (Howard et al.,
Annals of Statistics 2021) needs seeds that are scored once; and with six rounds or fewer it is wider than this, even
where the variance is known (`benchmarks/race.py` prints both). A sequential t-test of one pair would have to learn the
variance from 2 to 10 seeds; here it is moderated over candidates (`all_pairs.moderated`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from medtransfer.core.errors import UserError
from medtransfer.statistics.all_pairs import Pairs, over_seeds, over_seeds_and_patients

Array = npt.NDArray[Any]
Status = Literal["leads", "races", "level", "dropped"]
Reason = Literal["worse", "out of reach", "withdrawn"]

TWO_SEEDS = 2.0
"""times the half width with two seeds, which cannot show that one candidate's seeds vary more than all others'"""
SCALES = 40
"""values that the scale of the errors is taken at"""
SPREADS = 81
"""values that the std of the true scores is taken at"""
WIDEST = 2.0
"""times the scores' own std, or their error where that is larger: the largest of these"""
NEAR = 0.002
"""chance of each end below which a candidate that is not within a margin of the pick counts as far behind"""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a race is run by; all of it is fixed before the first round."""

    rounds: int
    """looks, at most"""
    margin: float
    """the smallest difference that matters, in the unit of the scores"""
    error: float
    """chance, at most, that the candidate which is truly best by a margin is dropped"""

    def __post_init__(self) -> None:
        if not (self.rounds >= 1 and 0 < self.margin < np.inf and 0 < self.error < 0.5):
            raise UserError(
                "`rounds >= 1`, `margin > 0` (finite) and `0 < error < 0.5` must hold, "
                f"got {self.rounds}, {self.margin}, {self.error}"
            )

    def share(self, candidates: int) -> float:
        """Gives the error of one difference in one round."""
        return self.error / self.rounds / max(candidates - 1, 1)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a candidate stands after a round, or stood when it was dropped."""

    place: int
    status: Status
    difference: float | None = None
    """its score minus the leader's; None before the first round"""
    low: float | None = None
    high: float | None = None
    """ends of the difference, each missed with the error of one difference; None where nothing measures it"""
    seeds: int = 0
    dropped_in: int | None = None
    """round, from 1"""
    reason: Reason | None = None
    words: str = ""
    """why it was dropped, for people"""


@dataclass(frozen=True, kw_only=True)
class Round:
    """What was seen in a round."""

    places: tuple[int, ...]
    """who was scored"""
    pairs: Pairs | None
    """None with one seed, which says nothing of the others, or one candidate"""


@dataclass(frozen=True, kw_only=True)
class Race:
    """The state of a race after each round; `start` makes one, `look` and `withdraw` give the next."""

    rules: Rules
    standings: tuple[Standing, ...]
    """one per candidate, by its place"""
    rounds: tuple[Round, ...] = ()

    def places(self, *statuses: Status) -> tuple[int, ...]:
        """Gives the places of the candidates that stand so."""
        return tuple(standing.place for standing in self.standings if standing.status in statuses)

    @property
    def left(self) -> tuple[int, ...]:
        """Gives the places of those that are not dropped: the rows of the next round's scores."""
        return self.places("leads", "races", "level")

    @property
    def leader(self) -> int | None:
        """Gives the leader's place; None before the first round."""
        return next(iter(self.places("leads")), None)

    @property
    def decided(self) -> bool:
        """Says whether all that are left are equal within the margin, so that more rounds tell nothing."""
        return self.leader is not None and not self.places("races")

    def pick(self, costs: Sequence[float]) -> int:
        """Gives the cheapest of those that are equal to the leader within the margin; of equal cost, the best.

        Args:
            costs: one per candidate, in any unit.

        Raises:
            UserError: there was no round yet, or the costs do not fit.
        """
        if self.leader is None or len(costs) != len(self.standings):
            raise UserError(
                f"a round and {len(self.standings)} costs must be there to pick from, "
                f"got {len(self.rounds)} and {len(costs)}"
            )
        level = [self.standings[place] for place in self.places("leads", "level")]
        return min(level, key=lambda one: (costs[one.place], -(one.difference or 0.0))).place

    def against(self, pick: int) -> tuple[Array, Array, Array]:
        """Gives each other candidate's difference to the pick when both were last scored: estimates, errors, df.

        Candidates that were never measured beside the pick are left out, as are those that were measured without any
        variance.
        """
        found: dict[int, tuple[float, float, float]] = {}
        for seen in self.rounds:
            if seen.pairs is not None and pick in seen.places:
                column = seen.places.index(pick)
                errors = np.hypot(seen.pairs.seed_error, seen.pairs.patient_error)[:, column]
                for row, place in enumerate(seen.places):
                    if place != pick and seen.pairs.tested[row, column]:
                        difference, df = seen.pairs.estimate[row, column], seen.pairs.df[row, column]
                        found[place] = (float(difference), float(errors[row]), float(df))
        numbers = np.array([found[place] for place in sorted(found)]).reshape(-1, 3)
        return numbers[:, 0], numbers[:, 1], numbers[:, 2]


def start(candidates: int, rules: Rules) -> Race:
    """Puts candidates at the start.

    Raises:
        UserError: there is no candidate.
    """
    if candidates < 1:
        raise UserError(f"`candidates >= 1` must hold, got {candidates}")
    return Race(rules=rules, standings=tuple(Standing(place=place, status="races") for place in range(candidates)))


def look(race: Race, scores: Any, *, more_seeds: int = 0, drift: float = 0.0, coarseness: float = 0.0) -> Race:
    """Looks at the scores of a round and drops who is behind.

    A rival is *level* where the interval of its difference to the leader lies within the margin. Of the others it is
    dropped as *worse* where the interval lies below 0; as *out of reach* where it is not better by a margin at the
    same error, and where what is still to come within the budget, at its best, leaves it more than a margin behind.

    Args:
        race: as the round before left it.
        scores: candidates that are left, in order of `Race.left`, x seeds, or x seeds x patients, whose mean over
            patients is the score of a seed.
        more_seeds: that the budget allows after this round.
        drift: std of what further epochs do to a difference, see `drift_of`; 0: training is complete.
        coarseness: see `all_pairs.over_seeds_and_patients`.

    Raises:
        UserError: there are more rounds than planned, nobody is left, or the scores do not fit.
    """
    values, left = np.asarray(scores, dtype=np.float64), race.left
    if len(race.rounds) >= race.rules.rounds:
        raise UserError(f"the error was shared among {race.rules.rounds} rounds, all were run: plan more at the start")
    if not left or values.ndim not in (2, 3) or len(values) != len(left) or values.size == 0:
        raise UserError(
            f"scores must be candidates that are left x seeds (x patients), {len(left)} are left, "
            f"got shape {values.shape}"
        )
    if not np.isfinite(values).all():
        rows = np.flatnonzero(~np.isfinite(values.reshape(len(left), -1)).all(axis=1))
        raise UserError(f"scores must be finite: withdraw candidates {[left[row] for row in rows]} or score them again")
    if more_seeds < 0 or not 0 <= drift < np.inf:
        raise UserError(f"`more_seeds >= 0` and `drift >= 0` (finite) must hold, got {more_seeds}, {drift}")
    pairs = None
    if len(left) > 1:
        pairs = over_seeds(values) if values.ndim == 2 else over_seeds_and_patients(values, coarseness=coarseness)
    if pairs is not None and drift:
        moved = np.hypot(pairs.patient_error, drift)
        np.fill_diagonal(moved, 0.0)
        pairs = replace(pairs, patient_error=moved)
    means = values.reshape(len(left), -1).mean(axis=1)
    behind, half, still = means - means.max(), np.full(len(left), np.nan), np.full(len(left), np.nan)
    ahead, seeds = int(means.argmax()), values.shape[1]
    if pairs is not None:
        share = race.rules.share(len(race.standings))
        half = pairs.reach(2 * share)[:, ahead] * (TWO_SEEDS if seeds == 2 else 1.0)
        to_come = np.hypot(pairs.seed_error[:, ahead] * (more_seeds / (seeds + more_seeds)) ** 0.5, drift)
        still = stats.t.isf(share, pairs.df[:, ahead]) * to_come
    standings = list(race.standings)
    for row, place in enumerate(left):
        standings[place] = _stand(
            place, race, float(behind[row]), float(half[row]), float(still[row]), seeds, row == ahead
        )
    return replace(race, standings=tuple(standings), rounds=(*race.rounds, Round(places=left, pairs=pairs)))


def _stand(place: int, race: Race, behind: float, half: float, still: float, seeds: int, leads: bool) -> Standing:
    """Judges one candidate of a round; `half` and `still` are nan where nothing measures them."""
    margin = race.rules.margin
    if leads:
        return Standing(place=place, status="leads", difference=0.0, low=0.0, high=0.0, seeds=seeds)
    if np.isnan(half):
        return Standing(place=place, status="races", difference=behind, seeds=seeds)
    low, high = behind - half, behind + half
    stands = Standing(place=place, status="races", difference=behind, low=low, high=high, seeds=seeds)
    if -margin < low and high < margin:
        return replace(stands, status="level")
    reason: Reason
    if high < 0:
        reason = "worse"
        words = f"worse than the leader by {-behind:.3g}, at least by {-high:.3g}"
    elif high < margin and behind + still < -margin:
        reason = "out of reach"
        words = (
            f"{-behind:.3g} behind the leader and not better by the margin of {margin:.3g}: "
            f"what is left of the budget can make it {max(-behind - still, 0.0):.3g} behind at best"
        )
    else:
        return stands
    words += f" ({seeds} seeds, round {len(race.rounds) + 1} of {race.rules.rounds})"
    return replace(stands, status="dropped", dropped_in=len(race.rounds) + 1, reason=reason, words=words)


def withdraw(race: Race, place: int, why: str) -> Race:
    """Takes a candidate out that cannot be scored: weights that cannot be read, a training that diverges.

    Raises:
        UserError: the candidate is not there, or out already.
    """
    if place not in race.left:
        raise UserError(f"candidate {place} is not in the race, there are {list(race.left)}")
    gone = replace(
        race.standings[place], status="dropped", reason="withdrawn", words=why, dropped_in=len(race.rounds) + 1
    )
    standings = list(race.standings)
    standings[place] = gone
    if race.leader == place and (rest := [standings[other] for other in race.left if other != place]):
        first = max(rest, key=lambda one: one.difference or 0.0)  # until the next round
        standings[first.place] = replace(first, status="leads")
    return replace(race, standings=tuple(standings))


def drift_of(before: Any, after: Any) -> float:
    """Estimates the std of what more epochs do to a difference of two candidates, from trainings that had them.

    What the seeds add is not taken off, so that it is rather too large.

    Args:
        before: candidates x seeds, at the epochs of a round.
        after: the same at full length, under the same seeds.

    Raises:
        UserError: the shapes do not fit, a score is not finite, or there are fewer than two candidates.
    """
    first, last = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.ndim != 2 or first.shape != last.shape or len(first) < 2 or not np.isfinite(first + last).all():
        raise UserError(
            "scores before and after must be finite, at least 2 candidates x the same seeds, "
            f"got shapes {first.shape} and {last.shape}"
        )
    return float(((last - first).mean(axis=1)).std(ddof=1) * 2**0.5)


def drift_with(believed: float, before: Any, after: Any) -> float:
    """Joins what is believed of a drift with what a step of a race showed: it counts as two candidates do.

    Args:
        believed: std of what is still to come to a difference.
        before: candidates x seeds, at the epochs of the step before; see `drift_of`.
        after: the same candidates and seeds now.

    Raises:
        UserError: as `drift_of`, or the belief is negative.
    """
    if not 0 <= believed < np.inf:
        raise UserError(f"`believed >= 0` (finite) must hold, got {believed}")
    seen, weight = drift_of(before, after), len(before) - 1
    return float(((2 * believed**2 + weight * seen**2) / (2 + weight)) ** 0.5)


def probability_within(
    differences: Any, errors: Any, *, df: Any, margin: float, rng: np.random.Generator, draws: int = 4000,
    shrunk: bool = True,
) -> float:  # fmt: skip
    """Gives the probability that the pick is within a margin of the best candidate.

    The pick was chosen because its scores were high, so it is worse than they say, and taken as they are they promise
    too much. The true scores are therefore taken as normal around a common mean, which draws each towards it by as
    much as its error is large beside their spread (Efron and Morris, Journal of the American Statistical Association
    1975); mean, spread (flat priors; Gelman, Bayesian Analysis 2006) and scale of the errors (by `df`) are uncertain
    too and drawn. What a posterior says does not depend on when one stopped, so the race's rounds need no correction.
    Candidates that are surely more than a margin behind are left out of it: they cannot be the best, and one of them
    that is far away would make the spread of the others seem large.

    Args:
        differences: of every other candidate, its score minus the pick's: dropped ones as they were last seen.
        errors: standard errors of these.
        df: degrees of freedom of the errors, one or one per difference.
        margin: the smallest difference that matters.
        rng: draws the true scores.
        draws: of all true scores.
        shrunk: False: as if the true scores could be anything, for comparison.

    Raises:
        UserError: the numbers do not fit.
    """
    found, spread = np.asarray(differences, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    freedom = np.broadcast_to(np.asarray(df, dtype=np.float64), found.shape)
    fits = found.ndim == 1 and found.shape == spread.shape and np.isfinite(found).all() and np.isfinite(spread).all()
    if not fits or (spread <= 0).any() or not (freedom > 0).all() or margin <= 0 or draws < 1:
        raise UserError(
            "differences and errors must be finite and of one number, `errors > 0`, `df > 0`, `margin > 0`, "
            f"`draws >= 1` must hold, got shapes {found.shape}, {spread.shape}, {margin}, {draws}"
        )
    if not len(found):
        return 1.0
    # A difference's variance is that of both its scores; the pick's is in all of them.
    if shrunk:
        near = found + stats.t.isf(NEAR, freedom) * spread > -margin
        found, spread, freedom = found[near], spread[near], freedom[near]
        if not len(found):
            return 1.0
    values, shared = np.append(found, 0.0), float((spread**2).min()) / 2
    variances = np.append(spread**2 - shared, shared)
    freedom = np.append(freedom, freedom[spread.argmin()])
    levels = (np.arange(SCALES) + 0.5) / SCALES
    scaled = variances * freedom / stats.chi2.ppf(levels[:, None], freedom)  # scales x candidates
    scale = rng.integers(SCALES, size=draws)
    if not shrunk:
        truths = values + rng.normal(size=(draws, len(values))) * np.sqrt(scaled[scale])
        return float((truths[:, -1] >= truths.max(axis=1) - margin).mean())
    widest = WIDEST * max(values.std(ddof=1), variances.mean() ** 0.5)
    spreads = np.linspace(0, widest, SPREADS)[1:]
    weights = 1 / (scaled[:, None] + spreads[:, None] ** 2)  # scales x spreads x candidates
    precision = weights.sum(axis=2)
    center = (weights * values).sum(axis=2) / precision
    logs = (np.log(weights) - weights * (values - center[..., None]) ** 2).sum(axis=2) / 2 - np.log(precision) / 2
    likely = np.exp(logs - logs.max(axis=1, keepdims=True)).cumsum(axis=1)
    at = (likely[scale] < rng.random(draws)[:, None] * likely[scale, -1:]).sum(axis=1)
    mean = center[scale, at] + rng.normal(size=draws) / np.sqrt(precision[scale, at])
    kept = spreads[at, None] ** 2 * weights[scale, at]  # share of the score that is not drawn to the mean
    truths = mean[:, None] + kept * (values - mean[:, None])
    truths += rng.normal(size=truths.shape) * np.sqrt(kept * scaled[scale])
    return float((truths[:, -1] >= truths.max(axis=1) - margin).mean())
