"""The list that `medtransfer tasks` prints. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from medtransfer.core.errors import UserError
from medtransfer.data import cache, catalog
from medtransfer.data.raw import holds_files
from medtransfer.data.tasks import Task
from medtransfer.params import Params


def listed(params: Params, root: Path) -> Group:
    """Lays out every task: what it is, what of it is here, where to get it and under which licence."""
    grid = Table(title="Tasks")
    for title in ("task", "code", "kind", "metric", "images", "here"):
        grid.add_column(title, overflow="fold")
    sources = []
    for name in catalog.names(root):
        try:
            task = catalog.lookup(name, root)
        except UserError as error:
            grid.add_row(name, "", "", "", "", "task.yaml is not valid, see below")
            sources.append(f"{name}: {error}")
            continue
        star = " *" if name in params.benchmark.tasks else ""
        kind = task.kind if len(task.labels) == 1 else f"{task.kind}, {len(task.labels)} labels"
        metric = f"{task.metric} of {len(task.tested)}" if task.tested else task.metric
        code = task.code if task.code != name else "your own"
        grid.add_row(name + star, code, kind, metric, _counts(task), _here(task, root), end_section=True)
        sources.append(f"{name}: {task.source}\n    {task.licence}; {task.citation}")
    words = ["* in the benchmark of params.yaml", "", "Where to get them, and their licences", *sources]
    return Group(grid, *(Text(line, overflow="fold") for line in words))


def _counts(task: Task) -> str:
    return "\n".join(f"{name} {count:,}" for name, count in task.counts.items()) or "not published"


def _here(task: Task, root: Path) -> str:
    """Says which files are on disk, and of which there is a prepared cache."""
    lines = []
    for kind, raw, folder in (("real", "raw", "real"), ("phantoms", "phantoms", "phantoms")):
        there = holds_files(root / "data" / raw / task.dataset)
        try:
            prepared = cache.load(root / "data/prepared" / task.name / folder)
        except UserError:
            lines += [f"{kind}: on disk"] if there else []
            continue
        counts = cache.counted(prepared.manifest["counts"], prepared.manifest["folds"])
        marks = [mark for mark in prepared.marks if mark != "synthetic"]
        lines.append(f"{kind}: {'on disk, ' if there else ''}prepared ({counts}{''.join(f'; {m}' for m in marks)})")
    return "\n".join(lines) or "no"
