"""The lists that `medtransfer tasks` and `medtransfer inits` print."""

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
from medtransfer.weights import convert, locate, receipts, store
from medtransfer.weights.names import Initialization, parse
from medtransfer.weights.zoo import RECORDS, commercial


def tasks(params: Params, root: Path) -> Group:
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
        counts = ", ".join(f"{split} {count:,}" for split, count in prepared.manifest["counts"].items())
        marks = [mark for mark in prepared.marks if mark != "synthetic"]
        lines.append(f"{kind}: {'on disk, ' if there else ''}prepared ({counts}{''.join(f'; {m}' for m in marks)})")
    return "\n".join(lines) or "no"


SHOWN = 4
"""backbones of an initialization that are named; the rest is counted"""
FAMILIES = ("random", "supervised", "self-supervised", "domain-adapted", "medical", "yours")


def inits(params: Params, root: Path) -> Group:
    """Lays out every initialization: what it was trained on, for which backbones, its licence, and what is here."""
    grid = Table(title="Initializations", caption="<init>[@<backbone>]; * in the benchmark of params.yaml")
    for title in ("init", "backbone", "pre-trained on, how", "licence", "commercial use", "here"):
        grid.add_column(title, overflow="fold")
    used = {parse(name, params.model.backbone, params.inits).record.name for name in params.benchmark.inits}
    bound = sorted((_bound(name, params) for name in (*RECORDS, *params.inits)), key=_family)
    here = store.converted(root)
    for number, init in enumerate(bound):
        if number == 0 or _family(init) != _family(bound[number - 1]):
            grid.add_section()
            grid.add_row(Text(init.record.family, style="bold"))
        star = " *" if init.record.name in used else ""
        licence = convert.licence_of(init)
        said = f"{licence} (@{init.backbone})" if init.record.name == "imagenet" else licence
        status = "" if init.random else ", ".join(here.get(init.record.name, ())) or _status(init, root)
        what = init.record.method if init.random else f"{init.record.data}; {init.record.method}"
        grid.add_row(init.record.name + star, _backbones(init), what, said, commercial(licence), status)
    made = receipts.made(root)
    also = "Also timm:<architecture>.<tag> for any weights of timm, and file:<path or address>[@<backbone>]; each takes"
    also += " +<dataset>, see `pretrain`."
    words = ["", also, *(["", "Pre-trained further here", *made] if made else [])]
    words += ["", "Where they are from", *map(_origin, bound)]
    return Group(grid, *(Text(line, overflow="fold") for line in words))


def _family(init: Initialization) -> int:
    return FAMILIES.index(init.record.family)


def _bound(name: str, params: Params) -> Initialization:
    """Binds a record to the default backbone where it exists for it, else to its first."""
    try:
        init = parse(name, params.model.backbone, params.inits)
        if not init.random:
            locate.resolve(init)
        return init
    except UserError:
        first = locate.backbones(Initialization(record=RECORDS[name], backbone=""))[0]
        return parse(f"{name}@{first}", params.model.backbone)


def _backbones(init: Initialization) -> str:
    listed = locate.backbones(init)
    if not listed:
        return "any of timm" if init.random else "any with ImageNet-1k weights in timm"
    more = len(listed) - SHOWN
    return ", ".join(listed[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _status(init: Initialization, root: Path) -> str:
    if locate.packaged(init):
        return f"{init.backbone}: installed"
    return "no" if locate.on_disk(init, root) is None else f"{init.backbone}: downloaded"


def _origin(init: Initialization) -> str:
    name, note, paper = init.record.name, init.record.note, init.record.paper
    if init.random:
        where = "drawn from the seed, as timm does"
    elif name == "imagenet":
        where = "timm's tags that were trained on ImageNet-1k alone"
    else:
        where = locate.resolve(init).url or f"by hand, `medtransfer weights {name}` prints how"
        where += f" ({init.backbone})" if len(locate.backbones(init)) > 1 else ""
    return "\n    ".join(filter(None, (f"{name}: {where}", note, paper)))
