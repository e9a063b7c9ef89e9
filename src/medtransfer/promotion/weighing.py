"""What val selected against the present champion on test: better, non-inferior and cheaper, or neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medtransfer import multiplicity, params
from medtransfer.cells import Cell
from medtransfer.contrasts import Contrast
from medtransfer.findings import Findings
from medtransfer.tables import interval, margin_words, p_value, points

ALL = "all tasks"
"""scope of a backbone"""


@dataclass(frozen=True, kw_only=True)
class Selected:
    """What val selected, for all tasks or for one."""

    scope: str
    """`all tasks`, or a task"""
    init: str
    """canonical name"""
    tasks: tuple[str, ...]
    """that it was selected on"""
    marks: tuple[str, ...]
    """of its runs on these tasks"""
    gaps: tuple[str, ...]
    """runs of the benchmark that are missing or have no score, in words"""

    @property
    def prefix(self) -> str:
        """Begins the aliases: phantoms have aliases of their own."""
        return "demo-" if "synthetic" in self.marks else ""


@dataclass(frozen=True, kw_only=True)
class Material:
    """What would be registered."""

    model: str
    """name of the registered model"""
    key: str
    """equal keys are equal tensors: the sha256 of a backbone's, the digest of a fine-tuned model's run"""
    parameters: int
    """of the backbone"""
    licences: tuple[str, ...] = ()
    """of the weights and of the images they saw"""
    hindrance: str = ""
    """why there is nothing to register"""
    demoted: str = ""
    """why a person took the alias from the same tensors"""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The version that has the alias."""

    version: str
    init: str
    key: str
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The selected minus the present champion, on the test of a task."""

    task: str
    estimate: float
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None
    """Holm over the tasks of the decision"""
    bound: float | None
    """how much worse still counts as non-inferior; None: the task states no margin"""

    @property
    def inferior(self) -> bool:
        """Says whether it could be worse by more than the margin."""
        return self.low is None or self.bound is None or self.low <= -self.bound

    @property
    def words(self) -> str:
        """Says it in a line."""
        tested = f"{p_value(self.p_adjusted)} after Holm" if self.p is not None else "no test possible"
        return f"{self.task}: {points(self.estimate)} points ({interval(self.low, self.high)}), p {tested}"


def weigh(
    selected: Selected, material: Material, holder: Holder, findings: Findings, settings: params.Promotion
) -> tuple[bool, str, tuple[Compared, ...]]:
    """Compares with the champion: whether the gate lets it through, why, and the numbers."""
    rival = _rival(selected, holder, findings.cells)
    name = f"the champion {holder.init} (version {holder.version})"
    if rival is None:
        why = f"{name} is not in this comparison, so nothing says which is better; add it to benchmark.inits"
        return False, why, ()
    if rival == selected.init:
        return False, f"{name} is another seed of the same initialization", ()
    found = compare(selected, rival, findings, settings)
    if len(found) < len(selected.tasks):
        absent = [task for task in selected.tasks if task not in {each.task for each in found}]
        return False, f"{name} is not compared on {', '.join(absent)}", found
    if words := _better(found, settings.alpha):
        return True, f"better than {name}: {words}", found
    inferior = [each.task for each in found if each.inferior]
    if inferior:
        return False, f"neither better than {name} nor shown to be non-inferior on {', '.join(inferior)}", found
    saved = _saved(selected, rival, material, holder, findings.cells, settings.cheaper)
    tie = f"non-inferior to {name} within {_bounds(found)}"
    return bool(saved), f"{tie}, and cheaper: {saved}" if saved else f"{tie}, but not cheaper, so it stays", found


def _rival(selected: Selected, holder: Holder, cells: Sequence[Cell]) -> str | None:
    """Finds the champion among the compared inits, by its tensors; its own name first where several have them."""
    if selected.scope == ALL:
        names = [cell.init for cell in cells if cell.weights_sha256 == holder.key and cell.task in selected.tasks]
    else:
        names = [cell.init for cell in cells if cell.digest == holder.key]
    return holder.init if holder.init in names else next(iter(names), None)


def compare(selected: Selected, rival: str, findings: Findings, settings: params.Promotion) -> tuple[Compared, ...]:
    """Compares what was selected with another init on each of its tasks; p-values are adjusted over the tasks.

    Holm, Scandinavian Journal of Statistics 1979.
    """
    family = "overall" if selected.scope == ALL else "chosen"
    contrasts: Mapping[str, Contrast] = {
        c.task: c for c in findings.contrasts if c.family == family and c.init == rival and c.task in selected.tasks
    }
    adjusted = multiplicity.holm([contrast.p for contrast in contrasts.values()])
    return tuple(
        Compared(
            task=contrast.task,
            estimate=-contrast.estimate,
            low=None if contrast.high is None else -contrast.high,
            high=None if contrast.low is None else -contrast.low,
            p=contrast.p,
            p_adjusted=p,
            bound=None if contrast.margin is None else contrast.margin * settings.margin,
        )
        for contrast, p in zip(contrasts.values(), adjusted, strict=True)
    )


def _better(found: Sequence[Compared], alpha: float) -> str:
    """Words where it is better, if it is anywhere and nowhere worse; worse needs no correction: it is the safe side."""
    better = [each for each in found if each.p_adjusted is not None and each.p_adjusted <= alpha and each.estimate > 0]
    worse = [each for each in found if each.p is not None and each.p <= alpha and each.estimate < 0]
    return "" if worse else "; ".join(each.words for each in better)


def _bounds(found: Sequence[Compared]) -> str:
    """Words the margins; intersection-union, so that none needs a correction (Berger, Technometrics 1982)."""
    return ", ".join(f"{margin_words(each.bound or 0.0)} on {each.task}" for each in found)


def runs(cells: Sequence[Cell], init: str, tasks: Sequence[str]) -> list[Cell]:
    """Takes the runs of an init on some tasks."""
    return [cell for cell in cells if cell.init == init and cell.task in tasks]


def _saved(
    selected: Selected, rival: str, material: Material, holder: Holder, cells: Sequence[Cell], share: float
) -> str:
    """Words what is saved: parameters of the backbone or, of two alike in them, seconds of training; empty: too little.

    Alike: neither is cheaper by the share.
    """
    own, its = material.parameters, holder.parameters
    if own <= (1 - share) * its and own < its:
        return f"{own:,} parameters of the backbone, not {its:,}"
    if its <= (1 - share) * own and its < own:
        return ""
    mine, theirs = (_seconds(cells, name, selected.tasks) for name in (selected.init, rival))
    if mine <= (1 - share) * theirs and mine < theirs:
        return f"{mine:.1f} s of training in the mean, not {theirs:.1f} s"
    return ""


def _seconds(cells: Sequence[Cell], init: str, tasks: Sequence[str]) -> float:
    found = [cell.cost["seconds"] for cell in runs(cells, init, tasks)]
    return sum(found) / len(found)
