"""Who takes part: every init that fits the task and can be had; who does not, with the reason."""

from __future__ import annotations

import dataclasses
import logging
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medtransfer.core.errors import UserError
from medtransfer.data import catalog, prepare, raw, training_lists
from medtransfer.data.tasks import Task, contaminated
from medtransfer.data.tasks import applicable as fits
from medtransfer.params import Params, protocol, task_params
from medtransfer.training import fitting
from medtransfer.training.fitting import NetworkSpec
from medtransfer.weights import architectures, locate, receipts, recipes, store
from medtransfer.weights.licences import commercial, parts, strictest
from medtransfer.weights.names import Initialization, all_records, check_backbone, parse, seen

log = logging.getLogger("medtransfer")


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """An init that does not take part."""

    init: str
    why: str


def choose(params: Params, root: Path, task: Task) -> tuple[list[Initialization], list[LeftOut]]:
    """Lists who takes part, weights ready, and who does not.

    The reference of the comparison takes part wherever it can.

    Raises:
        UserError: fewer than two can take part; the message says why the others cannot.
    """
    settings = params.recommend
    names = settings.candidates or (*_all(params, root), *params.benchmark.inits)
    found, left_out, away = dict[str, Initialization](), dict[str, LeftOut](), dict[str, str]()
    for name in (params.comparison.reference, *names):
        init = _named(name, params)
        try:
            key = init.canonical
            if key in found or key in left_out:
                continue
            if reason := _unfit(init, params, root, task) or _away(init, root, away):
                left_out[key] = LeftOut(key, reason)
                continue
            store.ready(init, root)
        except UserError as error:
            reason = " ".join(str(error).split())
            if (host := _host(name, params)) and "no network" in reason:
                reason = away[host] = f"{host} does not answer; `medtransfer weights <init>` says where to put a file"
            left_out[name] = LeftOut(name, reason)
            continue
        found[key] = init
    if len(found) < 2:
        words = "".join(f"\n  {one.init}: {one.why}" for one in left_out.values())
        raise UserError(f"recommend compares two candidates or more on {task.name}, found {len(found)}:{words}")
    return list(found.values()), list(left_out.values())


def _named(name: str, params: Params) -> Initialization:
    """Finds the init of a name; a misspelt name, or a file that is not there, ends the race before it begins.

    Raises:
        UserError: says which and what to do.
    """
    init = parse(name, params.model.backbone, params.inits)
    if init.local and not Path(init.local).is_file():
        raise UserError(f"candidate {name}: looked for the file {Path(init.local).resolve()}, found none")
    return init


def _all(params: Params, root: Path) -> list[str]:
    """Names every init that has a name of its own, bound to the default backbone where it exists for it."""
    names = []
    for name, record in all_records(params.inits).items():
        try:
            init = parse(name, params.model.backbone, params.inits)
            if not init.random:
                locate.resolve(init)
            names.append(name)
        except UserError:
            options = locate.backbones(Initialization(record=record, backbone=""))
            names += [f"{name}@{option}" for option in options[:1]]
    return names


def _unfit(init: Initialization, params: Params, root: Path, task: Task) -> str:
    """Says why an init does not fit the task or the use; empty: it does."""
    settings, name = params.recommend, init.canonical
    if init.registered:
        return "it comes from the model registry: name it in benchmark.inits"
    if not fits(seen(name), task.dataset):
        return "pre-trained on the task's own dataset, so its score says nothing"
    if contaminated(seen(name), task.dataset, catalog.derivations(root)):
        return "pre-trained on images that the task's are taken from"
    if held := _held(init, params, root, task):
        return held
    licence = strictest_licence(init, root)
    if settings.use == "commercial" and licence and (allowed := commercial(licence)) != "yes":
        return f"licence of {licence}: commercial use {'is not permitted' if allowed == 'no' else 'is unclear'}"
    check_backbone(init.backbone)
    size = architectures.parameters(init.backbone)
    if settings.max_parameters and size > settings.max_parameters:
        return f"{size / 1e6:.1f} million parameters, at most {settings.max_parameters / 1e6:g} are wanted"
    side = task_params(params, task.name).image_size
    own = protocol(params, task.name, task.segmentation)
    fitting.check(task, own, NetworkSpec.of(init, params.model, side))
    return ""


def _held(init: Initialization, params: Params, root: Path, task: Task) -> str:
    """Says how many images that a choice rests on are in the list of an init's training images; empty: none."""
    if not init.record.images:
        return ""
    listed = training_lists.read(training_lists.place(init.record.images, root))
    cache = prepare.prepare(task, params, root)
    rows = np.concatenate([cache.rows(split) for split in ("val", "test")])
    count = int(training_lists.match(listed, task, cache, raw.source(task, params.data, root)).rows[rows].sum())
    return f"{count:,} of {len(rows):,} images of val and test are in its training list {listed.name}" if count else ""


def strictest_licence(init: Initialization, root: Path) -> str:
    """Names the strictest licence of an init's chain, of weights or of images; empty: it is made of neither."""
    made = receipts.read(init, root) if init.chain else None
    start = dataclasses.replace(init, chain=())
    own = () if start.random else parts(start.record.name, recipes.licence_of(start))
    images = (f"images of {name}: {catalog.lookup(name, root).licence}" for name in init.chain)
    chain = made.licences if made else (*own, *images)
    return strictest(chain).part if chain else ""


def _away(init: Initialization, root: Path, away: dict[str, str]) -> str:
    """Says why the weights of an init cannot be had without asking anybody; empty: they can, as far as is known."""
    if init.chain:
        if receipts.read(init, root) is None:
            command = f"pretrain --init {init.parent.canonical} --dataset {init.chain[-1]}"
            return f"it is not made yet: `medtransfer {command}` makes it"
        return ""
    if init.random or init.local or locate.packaged(init) or store.receipt_file(init, root):
        return ""
    source = locate.resolve(init)
    if locate.on_disk(init, root) is None:
        if not source.url:
            return "no program may fetch its weights; `medtransfer weights <init>` says how to get them"
        if said := away.get(urllib.parse.urlsplit(source.url).netloc):
            return said
    return ""


def _host(name: str, params: Params) -> str:
    """Names the host that an init's file comes from; empty: none is known."""
    try:
        init = parse(name, params.model.backbone, params.inits)
        return "" if init.random or init.chain or init.local else urllib.parse.urlsplit(locate.resolve(init).url).netloc
    except UserError:
        return ""


def canonical(params: Params, name: str) -> str:
    """Gives the canonical name of an init."""
    return parse(name, params.model.backbone, params.inits).canonical


def sizes(inits: Sequence[Initialization]) -> dict[str, int]:
    """Counts the parameters of each backbone."""
    return {init.canonical: architectures.parameters(init.backbone) for init in inits}
