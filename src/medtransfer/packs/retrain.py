"""Trains runs of a pack again, in a folder and a process of their own: nothing of the study here is changed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtransfer.core import arithmetic, schema
from medtransfer.core.addresses import Scrubbed
from medtransfer.core.errors import UserError
from medtransfer.packs.private import name_of
from medtransfer.packs.records import Contribution
from medtransfer.params import Params
from medtransfer.results import study
from medtransfer.results.result import Result, read_result
from medtransfer.weights.names import parse

LINKED = ("raw", "phantoms", "downloads")
"""folders below `data` that are only read, or hold what comes from elsewhere"""
COPIED = ("weights", "prepared", "runs/raw")
"""folders that are copied, without copying bytes: what is made anew there leaves the study's as they are"""
KINDS = ("classification", "segmentation")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run to train again, with the parameters that its pack says it had."""

    claimed: Result
    init: str
    """as it is called here"""
    params: Params


def jobs(drawn: Sequence[Result], contribution: Contribution, params: Params) -> list[Job]:
    """Gives runs the parameters of their pack; where they are executed, and where own weights lie, is said here.

    Args:
        drawn: of the contribution.
        contribution: whose parameters are taken.
        params: of the study here.

    Raises:
        UserError: the pack's parameters are not those of this version of the program.
    """
    here = {name_of(parse(one, params.model.backbone, params.inits).canonical): one for one in params.benchmark.inits}
    return [
        Job(claimed=one, init=here.get(one.init, one.init), params=_params(one, contribution, params)) for one in drawn
    ]


def workspace(root: Path, folder: Path, work: Sequence[Job], contribution: Contribution) -> None:
    """Makes the folder that runs are trained in: raw files are linked, caches and weights copied, studies the pack's.

    Args:
        root: the study's folder here.
        folder: to make, or to go on in.
        work: the runs.
        contribution: whose they are; its studies are written, which tuned runs take their values from.
    """
    for name in LINKED:
        source, target = root / "data" / name, folder / "data" / name
        if source.is_dir() and not target.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source.resolve())
    for name in COPIED:
        if (root / "data" / name).is_dir():
            shutil.copytree(root / "data" / name, folder / "data" / name, copy_function=_link, dirs_exist_ok=True)
    if (root / "downloads.lock.json").is_file():
        shutil.copyfile(root / "downloads.lock.json", folder / "downloads.lock.json")
    ledgers = {(one.init, one.task): one for one in contribution.ledgers}
    for job in work:
        if ledger := ledgers.get((job.claimed.init, job.claimed.task)):
            slug = parse(job.init, job.params.model.backbone, job.params.inits).slug
            study.write(ledger, study.path(slug, ledger.task, folder))


def train(work: Sequence[Job], folder: Path, variables: Mapping[str, str] | None = None) -> dict[str, Result | str]:
    """Trains runs in a process of its own; returns digest of the pack's run -> what came out, or why nothing did.

    Args:
        work: the runs, for which `check` said nothing.
        folder: a workspace.
        variables: of the environment, which libraries read when they are loaded.
    """
    found: dict[str, Result | str] = _apart(_train, work, folder, variables or {})
    return found


def check(work: Sequence[Job], folder: Path) -> dict[str, str]:
    """Finds, before anything is trained, what runs cannot be trained again here: digest -> why, and what to do.

    Data are prepared and weights fetched meanwhile, where they can be had.

    Args:
        work: the runs.
        folder: a workspace.
    """
    found: dict[str, str] = _apart(_check, work, folder, {})
    return found


def _apart(function: Any, work: Sequence[Job], folder: Path, variables: Mapping[str, str]) -> Any:
    pinned = arithmetic.PINNED if any(job.params.engine.portable for job in work) else {}
    own = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder.resolve()}/mlflow.db", "MLFLOW_RUN_ID": ""}
    context = multiprocessing.get_context("spawn")
    try:
        with _environment({**variables, **pinned, **own}), ProcessPoolExecutor(1, context, _begin) as pool:
            return pool.submit(function, list(work), folder.resolve()).result()
    except BrokenProcessPool as error:
        raise UserError(
            "the process that trains died; was memory short? See dmesg. The same command with the same --draw goes on"
        ) from error


def _begin() -> None:
    """Lets a process say what its parent would."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=Scrubbed(sys.stderr))
    logging.getLogger("medtransfer").setLevel(logging.INFO)
    logging.getLogger("mlflow.store.db").setLevel(logging.WARNING)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables that a process started in the block inherits."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _check(work: Sequence[Job], folder: Path) -> dict[str, str]:
    found = {}
    for job in work:
        try:
            _planned(job, folder)
        except UserError as error:
            found[job.claimed.digest] = str(error)
    return found


def _train(work: Sequence[Job], folder: Path) -> dict[str, Result | str]:
    from medtransfer.runs import finished
    from medtransfer.runs.benchmark import run_all

    planned = {job.claimed.digest: _planned(job, folder) for job in work}
    failure = ""
    for threads in sorted({run.params.execution.threads_per_run for run in planned.values()}):
        try:
            run_all([run for run in planned.values() if run.params.execution.threads_per_run == threads])
        except UserError as error:
            failure = str(error)
    return {
        digest: read_result(run.folder / "cell.json") if finished.whole(run) else failure or "it did not finish"
        for digest, run in planned.items()
    }


def _planned(job: Job, folder: Path) -> Any:
    """Plans a run, which must be the one that the pack names.

    Raises:
        UserError: data or weights are not here, or are others.
    """
    from medtransfer.runs.run import plan

    claimed = job.claimed
    runs = plan(
        job.params, folder, [job.init], [claimed.task], [claimed.seed], recipes=(claimed.recipe,),
        splits=claimed.drawn, protocols=(claimed.protocol,), fractions=(claimed.fraction,),
    )  # fmt: skip
    run = next((one for one in runs if one.fold == claimed.fold), None)
    if run is None:
        raise UserError(f"{claimed.label}: the data here have no {claimed.part}")
    if (run.device == "cpu") != (claimed.device == "cpu"):
        raise UserError(f"{claimed.label}: it was trained on a {claimed.device}, and torch finds no GPU here")
    shown = json.loads(json.dumps(run.shown))
    odd = sorted(name for name in shown.keys() | claimed.params.keys() if shown.get(name) != claimed.params.get(name))
    for name, mine, its, advice in (
        ("weights", run.weights_sha256, claimed.weights_sha256, f"get those of {job.init} that the pack's began with"),
        ("data", run.manifest_digest, claimed.manifest_digest, "they are other files, or were prepared otherwise"),
        ("parameters", ", ".join(odd), "", "the pack's cannot be had here"),
        ("identity", run.digest, claimed.digest, "another version of medtransfer trained the pack's"),
    ):  # fmt: skip
        named = name == "identity" and job.init.startswith("file:")  # whose path is in the digest
        if mine != its and not named:
            raise UserError(f"{claimed.label}: its {name} here ({mine[:12]}) are not the pack's ({its[:12]}): {advice}")
    return run


def _params(claimed: Result, contribution: Contribution, params: Params) -> Params:
    here = dataclasses.asdict(params)
    blank: dict[str, Any] = {"corruptions": {}}  # of packs of before there were any
    tree = json.loads(json.dumps({**here, **blank, **contribution.params}, default=str))
    tree["execution"] = {**here["execution"], "backend": "local", "address": "", "leases": ""}
    tree["execution"] |= {"device": "cpu"} if claimed.device == "cpu" else {}
    tree["inits"] |= {name: _placed(entry) for name, entry in here["inits"].items()}
    for name, value in claimed.params.items():
        section, _, rest = name.partition(".")
        if section in KINDS:
            tree["tasks"][claimed.task]["changes"][rest] = value
        elif section == "tasks":
            tree["tasks"][claimed.task][rest.rpartition(".")[2]] = value
        elif section in tree and rest in tree[section]:
            tree[section][rest] = value
    try:
        return schema.convert(tree, Params)
    except UserError as error:
        raise UserError(f"the parameters of the pack are not those of this version of medtransfer: {error}") from error


def _placed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Says of own weights where their list of images lies, whichever folder is asked from."""
    images = os.path.expanduser(entry["images"])
    return {**entry, "images": str(Path(images).absolute()) if images and "://" not in images else images}


def _link(source: str, target: str) -> str:
    """Gives a file a second name, or copies it where the file system cannot; what is there stays."""
    with contextlib.suppress(FileExistsError):
        try:
            os.link(source, target)
        except FileExistsError:
            raise
        except OSError:
            shutil.copy2(source, target)
    return target
