"""What a run's network is read on after its own test: other tasks' test images, and its own made worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtransfer.core.errors import UserError
from medtransfer.data import away as shared
from medtransfer.data import catalog, prepare
from medtransfer.data.cache import Prepared, load
from medtransfer.data.tasks import contaminated, origins
from medtransfer.params import Params, task_params
from medtransfer.results.away import CORRUPTED, Away, file_of
from medtransfer.weights.names import seen

if TYPE_CHECKING:
    from medtransfer.runs.run import Run
    from medtransfer.training.trainer import TaskTrainer


@dataclass(frozen=True, kw_only=True)
class AwayCache:
    """Another task whose test images a run's network is read on."""

    task: str
    labels: Mapping[str, str]
    """label of the run's task -> that of the other"""
    prepared: Path
    """folder of its cache"""
    manifest_digest: str
    marks: tuple[str, ...]

    @property
    def identity(self) -> dict[str, Any]:
        """Lists what of it decides numbers."""
        return {"task": self.task, "labels": dict(self.labels), "manifest": self.manifest_digest}


@dataclass(frozen=True, kw_only=True)
class FurtherTests:
    """What a finished training was read on besides: scores by name, tables by file, notes for the result."""

    scores: dict[str, float] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def paired(name: str, params: Params, root: Path) -> dict[str, dict[str, str]]:
    """Pairs the labels of a task with those of each task that it names as external, by their records alone.

    Raises:
        UserError: a task is unknown or the same, kinds differ, or no label is shared.
    """
    home, found = catalog.lookup(name, root), {}
    for one in task_params(params, name).external:
        if one.task == name:
            raise UserError(f"tasks.{name}.external names {name} itself, on which its runs are tested anyway")
        found[one.task] = shared.shared_labels(home, catalog.lookup(one.task, root), one.labels)
    return found


def resolve(name: str, cache: Prepared, params: Params, root: Path) -> tuple[AwayCache, ...]:
    """Resolves and checks the tasks that a task names as external.

    Args:
        name: of the task.
        cache: its own.
        params: of the study.
        root: the study's folder.

    Raises:
        UserError: as `paired`; or one is not prepared, has no test of its own, or shares patients or images with what
            this one is trained on.
    """
    home, found = catalog.lookup(name, root), []
    derived = catalog.derivations(root)
    for other, labels in sorted(paired(name, params, root).items()):
        task = catalog.lookup(other, root)
        prepared = prepare.current(task, params, root)
        if prepared is None:
            raise UserError(
                f"tasks.{name}.external: {other} is not prepared, or not as its raw files and `tasks.{other}` are now: "
                f"`medtransfer prepare --task {other}`"
            )
        related = origins(home.dataset, derived) & origins(task.dataset, derived)
        shared.check(cache, prepared, bool(related))
        shared.seen_as(home, task, prepared, labels)
        found.append(
            AwayCache(
                task=other, labels=labels, prepared=prepared.folder.resolve(), manifest_digest=prepared.digest,
                marks=prepared.marks,
            )
        )  # fmt: skip
    return tuple(found)


def files_of(run: Run) -> list[str]:
    """Names the files with predictions that a finished run has besides those of its own test."""
    return [*(file_of(one.task) for one in run.away), *([CORRUPTED] if run.corrupted else [])]


def read(run: Run, built: TaskTrainer, prepared: Prepared) -> FurtherTests:
    """Reads the best epoch's network on all that the run asks for.

    Args:
        run: whose training was tested.
        built: what was tested.
        prepared: its cache, with its split.

    Raises:
        UserError: a cache was replaced since the run was planned.
    """
    found = FurtherTests()
    for one in run.away:
        _read_away(run, built, one, found)
    if run.corrupted:
        _read_corrupted(run, built, prepared, found)
    return found


def _read_away(run: Run, built: TaskTrainer, where: AwayCache, found: FurtherTests) -> None:
    from medtransfer.training import reading

    whole = load(where.prepared)
    if whole.digest != where.manifest_digest:
        raise UserError(f"the prepared cache {where.prepared} was replaced since this run was planned; start it again")
    other = catalog.lookup(where.task, run.root)
    task, images = shared.seen_as(run.record, other, whole, where.labels)
    answered = reading.away(built, run.record.labels, task, images)
    before = seen(run.init.canonical)
    known = other.dataset in before or contaminated(before, other.dataset, catalog.derivations(run.root))
    found.scores.update({f"away_{where.task}_{name}": value for name, value in answered.scores.items()})
    found.tables[file_of(where.task)] = answered.table
    note = Away(
        task=where.task, labels=where.labels, manifest_digest=where.manifest_digest, marks=where.marks, unit=task.unit,
        images=len(answered.table), seen=known,
    )  # fmt: skip
    found.notes.setdefault("away", []).append(asdict(note))


def _read_corrupted(run: Run, built: TaskTrainer, prepared: Prepared, found: FurtherTests) -> None:
    import pandas as pd

    from medtransfer.training import reading

    metric, tables, seed = run.record.metric, list[Any](), run.corrupted["corruptions.seed"]
    for kind in run.corrupted["corruptions.kinds"]:
        for severity in run.corrupted["corruptions.severities"]:
            answered = reading.corrupted(built, run.record, prepared, kind, severity, seed)
            if metric in answered.scores:
                found.scores[f"corrupted_{kind}_{severity}_{metric}"] = answered.scores[metric]
            tables.append(answered.table.assign(kind=kind, severity=severity))
    whole = pd.concat(tables, ignore_index=True)
    found.tables[CORRUPTED] = whole.astype({"id": "category", "patient": "category", "kind": "category"})


def names_of(caches: Sequence[AwayCache]) -> list[dict[str, Any]]:
    """Lists them as parameters are shown: task and pairs of labels."""
    return [{"task": one.task, "labels": dict(one.labels)} for one in caches]
