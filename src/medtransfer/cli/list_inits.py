"""The list that `medtransfer inits` prints."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from medtransfer.core.errors import UserError
from medtransfer.params import Params
from medtransfer.weights import locate, receipts, recipes, store
from medtransfer.weights.licences import commercial
from medtransfer.weights.names import Initialization, parse
from medtransfer.weights.zoo import RECORDS

SHOWN = 4
"""backbones of an initialization that are named; the rest is counted"""
FAMILIES = ("random", "supervised", "self-supervised", "domain-adapted", "medical", "yours")


def listed(params: Params, root: Path) -> Group:
    """Lays out every initialization: what it was trained on, for which backbones, its licence, and what is here."""
    grid = Table(title="Initializations", caption="<init>[@<backbone>]; * in the benchmark of params.yaml")
    grid.add_column("init", overflow="fold", width=24)
    grid.add_column("pre-trained on, how; backbones; licence; what is here", overflow="fold")
    used = {parse(name, params.model.backbone, params.inits).record.name for name in params.benchmark.inits}
    bound = sorted((_bound(name, params) for name in (*RECORDS, *params.inits)), key=_family)
    here = store.converted(root)
    for number, init in enumerate(bound):
        if number == 0 or _family(init) != _family(bound[number - 1]):
            grid.add_section()
            grid.add_row(Text(init.record.family, style="bold"), "")
        star = " *" if init.record.name in used else ""
        licence = recipes.licence_of(init)
        said = f"{licence} (@{init.backbone})" if init.record.name == "imagenet" else licence
        status = "" if init.random else ", ".join(here.get(init.record.name, ())) or _status(init, root)
        what = init.record.method if init.random else f"{init.record.data}; {init.record.method}"
        lines = [what, _backbones(init), f"licence {said}; commercial use: {commercial(licence)}"]
        lines += [f"here: {status}"] if status else []
        grid.add_row(Text(init.record.name + star), Text("\n".join(lines)), end_section=True)
    made = receipts.made(root)
    also = "Also timm:<architecture>.<tag> for any weights of timm, file:<path or address>[@<backbone>], and "
    also += "hf:<owner>/<repo>[@<revision>][/<file>][@<backbone>] of the Hugging Face hub; each takes +<dataset>, see "
    also += "`pretrain`."
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
