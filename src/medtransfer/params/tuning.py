"""Parameters of tuning: one study per initialization and task, all with the same budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from medtransfer.params.limits import require, require_names

BUDGET_FIELDS = ("max_epochs", "min_steps", "patience", "monitor", "test_views")
"""fields that say how much is trained and what is measured: the same for all trials"""


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """The range of one tuned field, in Optuna's own words: `low` and `high`, or `choices`."""

    low: float | None = None
    """least value"""
    high: float | None = None
    """greatest value"""
    log: bool = False
    """values are drawn on a logarithmic scale"""
    step: float | None = None
    """distance between values; null: any value"""
    choices: tuple[Any, ...] = ()
    """values to choose from, in place of a range"""

    def check(self, name: str) -> None:
        """Refuses what is no range, by the full name of the parameter.

        Raises:
            UserError: with the law and the values.
        """
        if self.choices:
            given = {"low": self.low, "high": self.high, "step": self.step}
            require(set(given.values()) == {None} and not self.log, f"{name}: choices stand alone", **given)
            require(len(set(map(repr, self.choices))) == len(self.choices), f"{name}: choices differ", it=self.choices)
            return
        require(self.low is not None and self.high is not None, f"{name} has low and high, or choices", it=self)
        low, high = self.low or 0.0, self.high or 0.0
        require(low < high, f"{name}: low < high", low=low, high=high)
        require(not self.log or low > 0, f"{name}: low > 0 where log is true", low=low)
        require(not self.log or self.step is None, f"{name}: no step where log is true", step=self.step)
        require(self.step is None or self.step > 0, f"{name}: step > 0", step=self.step)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Equal tuning for every initialization."""

    inits: tuple[str, ...]
    """of the studies; [] = none"""
    tasks: tuple[str, ...]
    """of the studies: one for each init and task"""
    study: str
    """name of the studies; a changed space, sampler or protocol needs another one"""
    trials: int
    """trials of full length that the budget of images pays for; pruned and stopped ones leave images for more"""
    space: Mapping[str, Dimension]
    """field of `classification` or `segmentation` -> range; a study takes those that its kind has"""
    sampler: Literal["tpe", "random", "cma-es", "grid"]
    """of Optuna: how the next values are chosen"""
    pruner: Literal["none", "median", "hyperband"]
    """of Optuna: when a trial is stopped early"""
    startup: int
    """trials before TPE learns from them, and before the median prunes"""
    warmup: int
    """epochs of a trial in which the median does not prune"""
    seed: int
    """of the sampler and of every trial's training; no seed of the benchmark"""
    finalists: int
    """best trials that are trained again with `finalist_seeds`, before the best of them by its mean is named"""
    finalist_seeds: tuple[int, ...]
    """seeds of those trainings; none of the benchmark's"""

    def __post_init__(self) -> None:
        for name in ("inits", "tasks", "finalist_seeds"):
            values = getattr(self, name)
            require(len(set(values)) == len(values), f"tuning.{name} has no duplicates", **{name: values})
        for name in ("trials", "startup", "finalists"):
            require(getattr(self, name) >= 1, f"tuning.{name} >= 1", **{name: getattr(self, name)})
        require(self.warmup >= 0, "tuning.warmup >= 0", warmup=self.warmup)
        require_names(self.tasks, "tuning.tasks")
        require_names([self.study], "tuning.study")
        require(min(self.seed, *self.finalist_seeds, 0) >= 0, "0 <= tuning's seeds", seed=self.seed)
        require(self.seed not in self.finalist_seeds, "tuning.seed is none of finalist_seeds", seed=self.seed)
        budget = [name for name in self.space if name in BUDGET_FIELDS]
        require(not budget, f"tuning.space holds none of {', '.join(BUDGET_FIELDS)}, which all trials share", it=budget)
        open_ended = [name for name, d in self.space.items() if not d.choices and d.step is None]
        chosen = [name for name, d in self.space.items() if d.choices]
        require(self.sampler != "grid" or not open_ended, "sampler grid needs choices or a step", without=open_ended)
        require(self.sampler != "cma-es" or not chosen, "sampler cma-es needs low and high, no choices", choices=chosen)
