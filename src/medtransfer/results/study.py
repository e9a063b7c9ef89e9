"""What a study cost and found, in a file: finetune takes the best values from it, the report its tables.

One JSON file per initialization and task under `data/results/studies/<task>`. Nothing here needs Optuna.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtransfer.core import files, schema
from medtransfer.core.errors import UserError

FOLDER = Path("data/results/studies")

COUNTED = ("complete", "pruned", "failed")
"""states that count as a trial; `lost` (its worker died; tried again) and `repeated` (a point drawn twice) do not"""
SHARES = (0.25, 0.5, 1.0)
"""parts of the budget at which the ranking is shown"""
NEAR = 0.05
"""a best value so near an end, as a part of the range, may have a better one outside"""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a study."""

    number: int
    """Optuna's"""
    state: str
    """complete, pruned, failed, lost or repeated"""
    why: str
    """of a failure"""
    params: Mapping[str, Any]
    """tuned field -> value"""
    value: float | None
    """the monitored score at the epoch that the monitor rule picks, on val; None if it failed"""
    val: float | None
    """the primary metric on val at that epoch"""
    best_epoch: int
    epochs: int
    images: int
    """training images seen, an image as often as it was seen"""
    seconds: float
    gpu_seconds: float

    @property
    def counted(self) -> bool:
        """Says whether the trial is one of the budget's."""
        return self.state in COUNTED


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """One of the best trials, trained again with other seeds."""

    number: int
    """of the trial"""
    values: Mapping[str, float | None]
    """seed -> monitored score on val, that of the trial itself included; None: it failed"""
    vals: Mapping[str, float | None]
    """seed -> primary metric on val"""
    mean: float | None
    """None if a seed failed"""
    images: int
    """of the repeats"""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The whole study of one initialization on one task."""

    init: str
    """canonical name"""
    task: str
    study: str
    """Optuna's name of it"""
    identity: Mapping[str, Any]
    """what a continued study must share: space, sampler, data, weights, fixed fields"""
    metric: str
    """the primary metric"""
    monitor: str
    maximize: bool
    budget_trials: int
    """trials of full length that the budget pays for"""
    budget_images: int
    finished: bool
    """the budget is spent and the finalists were repeated"""
    exhausted: bool
    """every point of the space was tried before the budget was spent"""
    trials: tuple[Trial, ...]
    finalists: tuple[Finalist, ...]
    winner: int | None
    """number of the trial whose values are used; None: no trial completed"""
    recipe: Mapping[str, Any]
    """tuned field -> its value in the fixed recipe"""
    flags: tuple[str, ...]
    """what a reader should doubt"""
    importances: Mapping[str, float]
    """tuned field -> its share in what decides the value (PED-ANOVA); empty: too few trials to say"""
    mlflow_run_id: str = ""

    @property
    def values(self) -> dict[str, Any]:
        """The best values: tuned field -> value.

        Raises:
            UserError: no trial completed.
        """
        found = [trial for trial in self.trials if trial.number == self.winner]
        if not found:
            raise UserError(f"no trial of the study {self.study} completed; its trials say why: {_reasons(self)}")
        return dict(found[0].params)

    @property
    def spent(self) -> int:
        """Training images that the counted trials have seen."""
        return sum(trial.images for trial in self.trials if trial.counted)

    def states(self) -> dict[str, int]:
        """Counts the trials by state."""
        found = [trial.state for trial in self.trials]
        return {state: found.count(state) for state in (*COUNTED, "lost", "repeated")}

    def better(self, one: float, two: float) -> bool:
        """Says whether the first value is the better one."""
        return one > two if self.maximize else one < two


def _reasons(ledger: Ledger) -> str:
    return "; ".join(dict.fromkeys(trial.why for trial in ledger.trials if trial.why)) or "none was started"


def path(slug: str, task: str, root: Path) -> Path:
    """Says where the ledger of an initialization, by its slug, on a task is."""
    return root / FOLDER / task / f"{slug}.json"


def write(ledger: Ledger, target: Path) -> None:
    """Writes the file, whole or not at all."""
    files.write_text(target, json.dumps(dataclasses.asdict(ledger), indent=1, default=list) + "\n")


def read(source: Path) -> Ledger:
    """Reads one file.

    Raises:
        UserError: it is no ledger.
    """
    try:
        return schema.convert(json.loads(source.read_text()), Ledger)
    except (ValueError, UserError) as error:
        raise UserError(f"{source} is no ledger of a study ({error}); remove it and run `tune` again") from error


def collect(folder: Path, task: str = "*") -> list[Ledger]:
    """Reads every ledger below a folder, or those of a task, by task and initialization."""
    return [read(source) for source in sorted(folder.glob(f"{task}/*.json"))]


def summary(ledger: Ledger) -> str:
    """Describes a study, as Markdown."""
    counts = ", ".join(f"{count} {state}" for state, count in ledger.states().items() if count)
    lines = [
        f"**{ledger.init} on {ledger.task}**: {counts or 'no trials'}; {ledger.spent:,} of {ledger.budget_images:,} "
        f"images spent; {ledger.monitor}, on val.",
    ]
    if ledger.winner is not None:
        values = ", ".join(f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}"
                           for name, value in ledger.values.items())  # fmt: skip
        lines.append(f"Best: trial {ledger.winner}, {values}.")
    return "\n\n".join([*lines, *(f"{flag[0].upper()}{flag[1:]}." for flag in ledger.flags)])


def find(init: str, slug: str, task: str, root: Path) -> Ledger:
    """Reads the finished study of an initialization, by its canonical name and its slug, on a task.

    Raises:
        UserError: there is none, or it is not finished.
    """
    source = path(slug, task, root)
    if not source.is_file():
        raise UserError(
            f"looked for the study of {init} on {task} in {source}, found none; "
            f"run `tune --init {init} --task {task}`, or take `tuned` out of benchmark.recipes"
        )
    found = read(source)
    if not found.finished:
        raise UserError(f"the study of {init} on {task} is not finished ({source}); run `tune` again")
    return found


def refuse_unequal(ledgers: Sequence[Ledger]) -> None:
    """Refuses to compare studies of one task that had unequal chances.

    Raises:
        UserError: with the budgets, or with the part of the space, sampler or protocol that differs.
    """
    first: dict[str, Ledger] = {}
    for ledger in ledgers:
        other = first.setdefault(ledger.task, ledger)
        if ledger.budget_images != other.budget_images:
            raise UserError(
                f"all studies of {ledger.task} must have one budget, got {other.budget_images:,} images for "
                f"{other.init} and {ledger.budget_images:,} for {ledger.init}; run `tune` for all inits"
            )
        for name in ("space", "sampler", "pruner", "seed", "manifest"):
            if ledger.identity.get(name) != other.identity.get(name):
                raise UserError(
                    f"all studies of {ledger.task} must have one {name}, got {other.identity.get(name)} for "
                    f"{other.init} and {ledger.identity.get(name)} for {ledger.init}; run `tune` for all inits"
                )


def best_so_far(ledger: Ledger) -> list[tuple[int, float]]:
    """Lists (images spent, best value of the completed trials until then), trial by trial."""
    spent, best, line = 0, None, []
    for trial in ledger.trials:
        if not trial.counted:
            continue
        spent += trial.images
        if trial.state == "complete" and trial.value is not None and (best is None or ledger.better(trial.value, best)):
            best = trial.value
        if best is not None:
            line.append((spent, best))
    return line


def best_at(ledger: Ledger, share: float) -> float | None:
    """Returns the best value that a part of the budget had found; None: no trial had completed."""
    reached = [value for spent, value in best_so_far(ledger) if spent <= share * ledger.budget_images]
    return reached[-1] if reached else None


def ranking(ledgers: Sequence[Ledger], share: float) -> dict[str, float]:
    """Ranks the initializations of one task by the best value so far, 1 the best, equal values sharing a mean rank."""
    found = {ledger.init: best_at(ledger, share) for ledger in ledgers}
    known = {init: value for init, value in found.items() if value is not None}
    better = ledgers[0].better if ledgers else None
    ranks = {}
    for init, value in known.items():
        ahead = sum(better(other, value) for other in known.values()) if better else 0
        equal = sum(other == value for other in known.values())
        ranks[init] = 1 + ahead + (equal - 1) / 2
    return ranks
