"""Compared runs that this study as it stands did not make: of MLflow's server, or of other parameters."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtransfer.core.errors import UserError, quantity, some
from medtransfer.params import STILL, Params, training

if TYPE_CHECKING:
    from medtransfer.results.result import Result
    from medtransfer.tracking.remote import RemoteRun

log = logging.getLogger("medtransfer")


def bring(params: Params, root: Path) -> None:
    """Brings what the benchmark lacks here and MLflow has as finished into `data/results/remote`, a cache.

    A run is taken if all parameters that it read have the study's values today, and those of its task and seed the
    same conditions (`comparison.unbalanced` allows others). What is not taken is named.
    """
    from medtransfer.tracking.address import untouched

    if untouched(root):
        return
    from medtransfer.data import catalog
    from medtransfer.results.result import REMOTE, read_result
    from medtransfer.tracking import remote
    from medtransfer.tracking.store import Away, masked
    from medtransfer.weights.names import expected

    folder, benchmark = root / "data/results" / REMOTE, expected(params)
    here = [read_result(path) for path in sorted((root / "data/results/cells").glob("*/*/cell.json"))]
    known = catalog.names(root)
    tasks, unknown = ([name for name in benchmark.tasks if (name in known) == there] for there in (True, False))
    if unknown:
        log.warning(
            "runs of %s that MLflow may have are not brought: the task is not described here, so that nothing says "
            "which parameters its runs must have; put its %s into data/raw/%s",
            ", ".join(unknown), catalog.FILE, unknown[0],
        )  # fmt: skip
    try:
        found = remote.finished(root, tasks)
    except Away as away:
        log.warning("runs of other machines are those that were brought before: %s", masked(away))
        return
    values = {task: _values(params, task, root) for task in tasks}
    digests, keys = {one.digest for one in here}, {_key(one) for one in here}
    pairs = _controls(params, here)
    others = [run for run in found if run.digest not in digests and run.key not in keys]
    wanted = [run for run in others if _belongs(run, benchmark, pairs)]
    fitting = [run for run in wanted if not _differs(run, values[run.task])]
    _say("other parameters than the study has", [run for run in wanted if run not in fitting], values)
    chosen = _one_each(fitting, here)
    remote.bring(root, chosen, folder)
    kept = _balanced(params.comparison.unbalanced, here, chosen, folder)
    _forget(folder, {run.digest for run in kept})
    if kept:
        words = "%s in the table that MLflow has and data/results/cells has not: data/results/%s"
        log.info(words, quantity(len(kept), "run"), REMOTE)


def say_changed(params: Params, root: Path) -> None:
    """Warns of runs that stand in the tables though the study has other parameters since they were trained."""
    from medtransfer.data import catalog
    from medtransfer.results.result import read_result
    from medtransfer.weights.names import expected

    benchmark, known = expected(params), catalog.names(root)
    values = {task: _values(params, task, root) for task in benchmark.tasks if task in known}
    here = [read_result(path) for path in sorted((root / "data/results/cells").glob("*/*/cell.json"))]
    pairs = {(init, protocol) for init in benchmark.inits for protocol in benchmark.protocols} | _controls(params, here)
    mine = [one for one in here if one.task in values and one.seed in benchmark.seeds]
    asked = [(one, _changed(one, values[one.task])) for one in mine if (one.init, one.protocol) in pairs]
    others = [(one, names) for one, names in asked if names]
    if others:
        first, names = others[0]
        said = f"{names[0]} {first.params[names[0]]} then, {values[first.task][names[0]]} now"
        log.warning(
            "%s in the tables under other parameters than the study has now (%s): `benchmark` trains those of now",
            quantity(len(others), "run"), said,
        )  # fmt: skip


def _changed(result: Result, values: Mapping[str, Any]) -> list[str]:
    """Names the parameters that a run read and of which the study has another value today."""
    own, values = result.recipe == "tuned", _as_control(values, result.protocol)
    names = [name for name in values if name in result.params and (name.startswith(("engine.", "tasks.")) or not own)]
    return [name for name in names if json.dumps(result.params[name]) != json.dumps(values[name])]


def _as_control(values: Mapping[str, Any], protocol: str) -> Mapping[str, Any]:
    """Changes what a study says of a task to what it says of its control `permuted`, whose masks are not moved."""
    still = {f"segmentation.{name}": value for name, value in STILL.items()} if protocol == "permuted" else {}
    return {**values, **{name: value for name, value in still.items() if name in values}}


def _values(params: Params, task: str, root: Path) -> dict[str, Any]:
    """Lists what the study says today of a task, by dotted name."""
    from medtransfer.core import schema
    from medtransfer.data import catalog
    from medtransfer.params import protocol, task_params

    segmentation = catalog.lookup(task, root).segmentation
    kind = "segmentation" if segmentation else "classification"
    trained = schema.flatten(protocol(params, task, segmentation), kind)
    sizes = {f"tasks.{task}.image_size": task_params(params, task).image_size}
    return {**trained, **schema.flatten(params.engine, "engine"), **sizes}


def _controls(params: Params, here: Sequence[Result]) -> set[tuple[str, str]]:
    """Lists by which init and protocol the runs of the benchmark's controls are known."""
    from medtransfer.comparison.controls import known_by

    return {known_by(control, here, params) for control in params.benchmark.controls}


def _belongs(run: RemoteRun, benchmark: Any, controls: Collection[tuple[str, str]]) -> bool:
    """Says whether a run is one of the benchmark's, or of a control, which is of the fixed recipe on all labels."""
    from medtransfer.core.identity import PROTOCOL_VERSION

    tags = run.tags
    init, protocol, fraction = tags.get("init", ""), tags.get("protocol", "finetune"), tags.get("fraction", "1")
    named = init in benchmark.inits and protocol in benchmark.protocols and fraction in benchmark.fractions
    own = named and tags.get("recipe") in benchmark.recipes
    control = (init, protocol) in controls and (tags.get("recipe"), fraction) == ("fixed", "1")
    seeded = tags.get("seed", "") in map(str, benchmark.seeds)
    split = "split" not in tags or tags["split"] in map(str, benchmark.splits)
    return (own or control) and seeded and split and tags.get("protocol_version") == str(PROTOCOL_VERSION)


def _differs(run: RemoteRun, values: Mapping[str, Any]) -> list[str]:
    """Names the parameters that a run read and of which the study has another value today."""
    values = _as_control(values, run.tags.get("protocol", ""))
    absent = dict.fromkeys(training.LATER, "False")  # logged only where they are true
    said = absent | dict(run.params)
    own = run.tags.get("recipe") == "tuned"  # its study found the values of training
    names = [name for name in values if name in said and (name.startswith(("engine.", "tasks.")) or not own)]
    return [name for name in names if said[name] != str(values[name])]


def _key(result: Result) -> tuple[str, ...]:
    part = "" if result.fold is None else str(result.fold)
    fold, split = ("", part) if result.drawn else (part, "")
    return (
        result.task, result.init, str(result.seed), fold, split, result.recipe, result.protocol, result.fraction
    )  # fmt: skip


def _one_each(runs: Sequence[RemoteRun], here: Sequence[Result]) -> list[RemoteRun]:
    """Takes one run of each place in the table: of the data and weights of the runs here, or the only one."""
    manifests = {(one.task, one.fold): one.manifest_digest for one in here}
    weights = {one.init: one.weights_sha256 or "random" for one in here}
    places: dict[tuple[str, ...], list[RemoteRun]] = {}
    for run in runs:
        part = run.tags.get("fold", run.tags.get("split"))
        manifest = manifests.get((run.task, None if part is None else int(part)), run.tags["manifest_digest"])
        own = weights.get(run.tags["init"], run.tags["weights_sha256"])
        if (run.tags["manifest_digest"], run.tags["weights_sha256"]) == (manifest, own):
            places.setdefault(run.key, []).append(run)
    several = [" ".join(filter(None, key)) for key, found in places.items() if len(found) > 1]
    if several:
        log.warning(
            "MLflow has several runs of one place with the study's parameters, of other data, weights or machines; "
            "none of them is taken %s", some(several),
        )  # fmt: skip
    return [found[0] for found in places.values() if len(found) == 1]


def _balanced(
    allowed: Sequence[str], here: Sequence[Result], runs: Sequence[RemoteRun], folder: Path
) -> list[RemoteRun]:
    """Leaves out runs whose conditions are not those of their task and seed."""
    from medtransfer.comparison.selection import CONDITIONS
    from medtransfer.results.result import RESULT, read_result

    first = {(one.task, one.seed, one.fold): one for one in reversed(here)}
    kept, odd = [], list[str]()
    for run in runs:
        result = read_result(folder / run.task / run.digest / RESULT)
        other = first.setdefault((result.task, result.seed, result.fold), result)
        differing = [name for name, value in CONDITIONS.items() if value(result) != value(other)]
        if refused := [name for name in differing if name not in allowed]:
            odd.append(f"{result.label}: {', '.join(refused)}")
        else:
            kept.append(run)
    if odd:
        log.warning(
            "left out: %s in MLflow trained in other conditions than those of the same task and seed %s; "
            "comparison.unbalanced allows them", quantity(len(odd), "run"), some(odd),
        )  # fmt: skip
    return kept


def _say(why: str, runs: Sequence[RemoteRun], values: Mapping[str, Mapping[str, Any]]) -> None:
    if runs:
        names = dict.fromkeys(name for run in runs for name in _differs(run, values[run.task]))
        log.warning("%d finished runs in MLflow have %s and are left out %s", len(runs), why, some(list(names)))


def _forget(folder: Path, digests: set[str]) -> None:
    """Clears from the cache what is not compared today; the server has it."""
    for path in folder.glob("*/*"):
        if path.is_dir() and path.name not in digests:
            shutil.rmtree(path)


def refuse_none(root: Path) -> None:
    """Refuses to compare nothing.

    Raises:
        UserError: no run has finished, here or in MLflow.
    """
    from medtransfer.results.result import find_results

    try:
        find_results(root / "data/results/cells")
    except UserError as error:
        raise UserError(f"{error}; nor has MLflow a finished run of this benchmark") from error
