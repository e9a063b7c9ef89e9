"""The verb `finetune`: one run = (init, task, seed), found by its digest, skipped when finished, else resumed."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import platform
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from medtransfer import tracking
from medtransfer.core import arithmetic, files, rng
from medtransfer.core.addresses import scrub
from medtransfer.core.errors import UserError
from medtransfer.core.identity import PROTOCOL_VERSION
from medtransfer.data import catalog, permuted, pixel_sizes
from medtransfer.data.cache import Prepared, load
from medtransfer.data.tasks import Task, slug
from medtransfer.params import Classification, Segmentation, task_params
from medtransfer.results import examples
from medtransfer.results.result import PREDICTIONS, RESULT, read_result
from medtransfer.runs import further_tests, variants
from medtransfer.runs.execution import leases
from medtransfer.runs.further_tests import FurtherTests
from medtransfer.runs.run import Run
from medtransfer.statistics import metrics
from medtransfer.tracking import sync
from medtransfer.training.fitting import NetworkSpec
from medtransfer.weights import store

if TYPE_CHECKING:  # torch is loaded where a run is trained: in a worker, and not where all runs have finished
    from medtransfer.training.checkpoint import Fit
    from medtransfer.training.loader import Cache, Loader
    from medtransfer.training.objectives import Prediction
    from medtransfer.training.trainer import Progress, TaskTrainer

log = logging.getLogger("medtransfer")

RESULTS = (RESULT, PREDICTIONS)
"""what every finished run leaves in its folder, enough to compare without a server"""
FAILURE = "error.txt"
"""traceback of a run's last failure, in its folder and among its artifacts"""


def results_of(run: Run) -> list[str]:
    """Lists what a finished run leaves in its folder for a comparison."""
    return [*RESULTS, *further_tests.files_of(run)]


def finished(run: Run) -> bool:
    """Says whether MLflow holds the finished run; brings its results back if the folder lacks them.

    A run that did not measure what is the task's metric today is not finished: it is trained again.
    """
    client = tracking.connect(run.root)
    found = tracking.finished(client, run.task, run.digest)
    if found is None:
        return False
    missing = [*_damaged(run), *(["journal.jsonl"] if not (run.folder / "journal.jsonl").is_file() else [])]
    if missing:
        run.folder.mkdir(parents=True, exist_ok=True)
        tracking.download(client, found, missing, run.folder)
    return whole(run)


def execute(run: Run, report: Callable[[Progress], None]) -> dict[str, Any]:
    """Trains, tests and logs one run, or does what of that is missing; returns its result.

    Raises:
        Held: another process is at it.
        Lost: another process took it over meanwhile.
        UserError: the run failed in a way the user can mend.
    """
    database = leases.address(run.params.execution)
    with leases.claim(run.folder, run.digest, database) as check:
        if _known(run):
            return read_finished(run)
        with tracking.recorded(run.root, _identity(run), check, later=True, watch=True) as tracked:
            try:
                if not whole(run):
                    _train(run, tracked, report)
                _publish(run, tracked)
            except Exception:
                _keep_traceback(run, tracked)
                raise
        (run.folder / FAILURE).unlink(missing_ok=True)
    if not tracking.unsent(run.root, run.digest):  # MLflow answers
        sync.sync(run.root, leases.claims(database), finished=True)
    return read_finished(run)


def _known(run: Run) -> bool:
    """Asks MLflow for the finished run; where it does not answer, what is here whole and was sent is finished."""
    try:
        return finished(run)
    except tracking.Away as error:
        log.warning("run %s is looked for on disk alone: %s", run.digest[:8], error)
        return whole(run) and not tracking.unsent(run.root, run.digest)


def whole(run: Run) -> bool:
    """Says whether a run's results are here as they were written, with the metric that its task has."""
    return not _damaged(run) and run.record.metric in read_result(run.folder / "cell.json").measured


def _damaged(run: Run) -> list[str]:
    """Lists the results that are absent, or are not what was written."""
    names = results_of(run)
    absent = [name for name in names if not (run.folder / name).is_file()]
    if absent:
        return absent
    try:
        parts = read_result(run.folder / "cell.json").parts
    except UserError as error:
        log.warning("%s", error)
        return names
    return [name for name in names if name in parts and not files.checked(run.folder / name, parts[name])]


def _keep_traceback(run: Run, tracked: tracking.TrackedRun) -> None:
    """Leaves the traceback in the run's folder and for MLflow; what goes wrong in that hides not the failure itself."""
    try:
        files.write_text(run.folder / FAILURE, scrub(traceback.format_exc()))
        tracked.artifacts(run.folder, [FAILURE])
    except Exception as second:  # the disk may be full, the run another's by now
        log.warning("the traceback of run %s could not be kept: %s", run.digest[:8], second)


def read_finished(run: Run) -> dict[str, Any]:
    """Reads the results of a finished run."""
    result: dict[str, Any] = json.loads((run.folder / "cell.json").read_text())
    return result


def _identity(run: Run) -> tracking.Identity:
    tags = {
        "init": run.init.canonical,
        "task": run.task,
        "seed": str(run.seed),
        "verb": "finetune",
        "device": run.device,
        "arithmetic": arithmetic.kind(arithmetic.in_force(run.device)),
        "manifest_digest": run.manifest_digest,
        "weights_sha256": run.weights_sha256,
        "protocol_version": str(PROTOCOL_VERSION),
        "marks": ", ".join(run.marked),
        "recipe": run.recipe,
        "protocol": run.protocol,
        "fraction": str(run.fraction),
        "mlflow.note.content": store.description(run.init, run.root) if run.network else "a control without a network",
        "dvc_prepared": files.dvc_hash(run.root, f"data/prepared/{run.task}"),
        "dvc_weights": files.dvc_hash(run.root, "data/weights/benchmark"),
    }
    tags |= {"training_list": run.listed.words} if run.listed else {}
    params = {"from": run.init.label, "init": run.init.canonical, "task": run.task, "seed": run.seed, **run.shown}
    params |= {"protocol": run.protocol, "fraction": str(run.fraction)}
    params |= {f"tuning.{name}": value for name, value in run.study.items()}
    params |= run.part
    tags |= {name: str(number) for name, number in run.part.items()}
    return tracking.Identity(
        name=run.title, task=run.task, digest=run.digest, tags=tags, params=params, folder=run.folder, parent=run.parent
    )


@functools.lru_cache(maxsize=2)
def _prepared(folder: Path, digest: str) -> Prepared:
    prepared = load(folder)
    if digest not in (prepared.digest, *prepared.parts.values()):
        raise UserError(f"the prepared cache {folder} was replaced since this run was planned; start it again")
    return prepared


@functools.lru_cache(maxsize=2)
def _cache(folder: Path, digest: str, device: str, task: str, root: Path) -> Cache:
    """Keeps the caches of a worker's last tasks, so that its next run reads nothing again."""
    import torch

    from medtransfer.training import objectives
    from medtransfer.training.loader import Cache

    prepared, record = _prepared(folder, digest), catalog.lookup(task, root)
    return Cache(prepared.images, objectives.targets(record, prepared), torch.device(device), len(record.labels))


def labelled(run: Run) -> Prepared:
    """Opens the cache with the run's fold or drawn split, and the labels that a fraction or a permutation leaves."""
    found = variants.labelled(_prepared(run.prepared, run.manifest_digest).of_fold(run.fold), run)
    return permuted.permute(found, run.record, run.seed) if run.protocol == "permuted" else found


def protocol_of(run: Run) -> Classification | Segmentation:
    """Gives what it is trained under; with a fraction of the labels an epoch has as many steps as with all.

    Fewer labels would else be less training too, and a score would not say which of the two it is short of.
    """
    protocol = run.training
    if run.fraction.whole:
        return protocol
    images = len(_prepared(run.prepared, run.manifest_digest).of_fold(run.fold).rows("train"))
    return dataclasses.replace(protocol, min_steps=max(protocol.min_steps, -(-images // protocol.batch_size)))


def loader(run: Run) -> Loader:
    """Builds what makes batches of the run's images."""
    from medtransfer.training import objectives
    from medtransfer.training.loader import Cache, Loader

    task, protocol = run.record, run.training
    whole = _prepared(run.prepared, run.manifest_digest)
    mean, std = run.normalization
    cache = _cache(run.prepared, whole.digest, run.device, run.task, run.root)
    if run.protocol == "permuted":
        truth = objectives.targets(task, labelled(run))
        cache = Cache(whole.images, truth, cache.device, len(task.labels))
    return Loader(
        cache,
        whole.samples["id"].tolist(),
        size=task_params(run.params, run.task).image_size,
        batch_size=protocol.batch_size,
        crop_fraction=protocol.crop_fraction,
        mean=mean,
        std=std,
        channels_last=run.params.engine.channels_last,
        uncertain=protocol.uncertain if task.uncertain and isinstance(protocol, Classification) else "",
    )


def trainer(run: Run) -> tuple[TaskTrainer, Prepared]:
    """Builds everything that training needs, from the run alone."""
    import torch

    from medtransfer.training import lora, objectives, optimizer
    from medtransfer.training.trainer import TaskTrainer, choose_kernels

    arithmetic.check(run.params.engine.portable, run.device)  # this may be a worker on another machine
    choose_kernels(run.params.engine)
    task, device = run.record, torch.device(run.device)
    prepared, protocol = labelled(run), protocol_of(run)
    goal = objectives.objective(task, prepared, protocol, device)
    tensors = store.state(run.init, run.root, rng.seed_of(run.seed, "backbone"), run.params.model.random_last_bn)
    size = task_params(run.params, run.task).image_size
    model = goal.build(NetworkSpec.of(run.init, run.params.model, size), tensors, rng.seed_of(run.seed, "head"))
    if run.protocol == "partial":
        optimizer.freeze_but_last(model, run.params.protocols.partial_blocks)
    if run.protocol == "lora":
        settings = run.params.protocols
        lora.adapt(model, settings.lora_rank, settings.lora_alpha, rng.seed_of(run.seed, "lora"))
    rows = {split: prepared.rows(split) for split in ("train", "val", "test")}
    built = TaskTrainer(
        model, goal, loader(run), rows,
        protocol=protocol, engine=run.params.engine, seed=run.seed, device=device, folder=run.folder,
        checkpoint_seconds=run.params.execution.checkpoint_seconds,
    )  # fmt: skip
    return built, prepared


def _train(run: Run, tracked: tracking.TrackedRun, report: Callable[[Progress], None]) -> None:
    """Fits, reads test once and writes the results."""
    prepared = labelled(run)
    tracked.dataset(run.task, run.manifest_digest, str(prepared.folder.relative_to(run.root)), _counts(prepared))
    (_finish_trained if run.trains else _finish_untrained)(run, prepared, tracked, report)


def _finish_trained(
    run: Run, prepared: Prepared, tracked: tracking.TrackedRun, report: Callable[[Progress], None]
) -> None:
    from medtransfer.training.examples import collect

    built, _ = trainer(run)
    tracked.resumed(built.resume())
    fit = built.run(tracked.log, report, kept=tracked.kept)
    tracked.tag(arithmetic=arithmetic.kind(fit.arithmetic))
    val, test = built.test()
    if (shown := collect(built, run.record, test.table)) is not None:
        examples.save(run.folder / examples.FILE, shown)  # stays here: images are not for MLflow
    further = further_tests.read(run, built, prepared)
    _write(run, prepared, tracked, fit, val, test, {}, [built.best_file], further)
    built.checkpoint_file.unlink(missing_ok=True)


def advance(
    run: Run, until: int, over: Callable[[], bool], report: Callable[[Progress], None]
) -> tuple[Fit, Prediction, bool]:
    """Trains a run up to an epoch and leaves it there, for this or any other command to go on; test is not read.

    Args:
        run: of a protocol that trains.
        until: epochs that it is to have.
        over: asked before each epoch whether it pauses here.
        report: gets how far it is.

    Returns:
        What was trained, val with the model of its best epoch, and whether the training is complete.

    Raises:
        Held: another process is at it.
        UserError: as `execute`; or time was over before the first epoch.
    """
    database = leases.address(run.params.execution)
    with leases.claim(run.folder, run.digest, database) as check:
        built, prepared = trainer(run)
        epochs = built.resume()
        if not epochs and built.best_file.is_file() and whole(run):  # it is finished, and its checkpoint gone
            built.fit = _finished_fit(run)
        if not built.complete and built.fit.epoch < until and not over():
            tracked = tracking.open_run(run.root, _identity(run), check, later=True)
            tracked.dataset(
                run.task, run.manifest_digest, str(prepared.folder.relative_to(run.root)), _counts(prepared)
            )
            try:
                tracked.resumed(epochs)
                built.run(tracked.log, report, until, over, tracked.kept)
                tracked.tag(arithmetic=arithmetic.kind(built.fit.arithmetic))
            except BaseException as error:
                _keep_traceback(run, tracked)
                tracked.fail(error)
                raise
            tracked.outbox.whole = True  # a resume trains nothing of it again
            tracked.end("KILLED", f"paused after epoch {built.fit.epoch} of {built.protocol.max_epochs}")
        if not built.fit.epoch:
            raise UserError("the time was over before its first epoch")
        return built.fit, built.val(), built.complete


def _finished_fit(run: Run) -> Fit:
    """Reads from its results how a finished run was trained."""
    from medtransfer.training.checkpoint import Fit

    result = read_finished(run)
    return Fit(
        epoch=result["cost"]["epochs"], images=result["cost"]["images"], seconds=result["cost"]["seconds"],
        best=result["best"]["monitor"], best_epoch=result["best"]["epoch"], history=result["history"],
        arithmetic=result["arithmetic"],
    )  # fmt: skip


def _finish_untrained(
    run: Run, prepared: Prepared, tracked: tracking.TrackedRun, report: Callable[[Progress], None]
) -> None:
    from medtransfer.runs import frozen, prior
    from medtransfer.training.trainer import choose_kernels

    arithmetic.check(run.params.engine.portable, run.device)
    choose_kernels(run.params.engine)
    tracked.journal.cut(0)
    more = dict[str, float]()
    if run.frozen:
        fit, val, test, more["features_seconds"] = frozen.run_frozen(run, prepared, loader(run), tracked.log)
    else:
        fit, val, test = prior.run_prior(run, prepared, loader(run), tracked.log)
    tracked.tag(arithmetic=arithmetic.kind(fit.arithmetic))
    _write(run, prepared, tracked, fit, val, test, more, [], FurtherTests())


def _write(
    run: Run, prepared: Prepared, tracked: tracking.TrackedRun, fit: Fit, val: Prediction, test: Prediction,
    more: Mapping[str, float], kept: Sequence[Path], further: FurtherTests,
) -> None:  # fmt: skip
    """Writes the results of a run; `cell.json` last, because it says that they are whole."""
    scores = {f"test_{name}": value for name, value in test.scores.items()}
    scores |= {f"best_val_{name}": value for name, value in val.scores.items() if "." not in name}
    scores |= {} if run.record.segmentation else _calibration(run.record, val, test)
    scores |= further.scores
    cost = {"epochs": fit.epoch, "images": fit.images, "seconds": fit.seconds, **more}
    cost["gpu_seconds"] = fit.seconds if run.device == "cuda" else 0.0
    told = {f"cost_{name}": float(value) for name, value in cost.items() if name != "gpu_seconds" or value}
    primary = f"test_{run.record.metric}"
    told |= {"score": scores[primary]} if primary in scores else {}  # one column for all tasks
    tracked.journal.append({**scores, **told, "best_epoch": fit.best_epoch}, fit.epoch)
    tables = {PREDICTIONS: test.table, **further.tables}
    for name, table in tables.items():
        with files.replacing(run.folder / name) as temporary:
            table.to_parquet(temporary, index=False)
    result = _result(run, prepared, fit, scores, cost) | further.notes
    result["parts"] = {path.name: files.sha256(path) for path in (*(run.folder / name for name in tables), *kept)}
    result["mlflow_run_id"] = tracked.run_id
    files.write_text(run.folder / "cell.json", json.dumps(result, indent=1))


def _calibration(task: Task, val: Prediction, test: Prediction) -> dict[str, float]:
    """Scores how the probabilities of test are calibrated, with temperatures that val alone decides."""
    from medtransfer.statistics import calibration

    slugs = [slug(label) for label in task.labels]

    def read(one: Prediction) -> tuple[Any, Any]:
        target, probability = ([f"{column}.{name}" for name in slugs] for column in ("target", "probability"))
        return one.table[target].to_numpy(), one.table[probability].to_numpy()

    tested = [slug(label) for label in task.tested]
    return calibration.scores_of_run(read(val), read(test), slugs, tested, task.kind == "multiclass")


def _result(run: Run, prepared: Prepared, fit: Fit, scores: dict[str, float], cost: dict[str, float]) -> dict[str, Any]:
    import timm
    import torch

    task, test = run.record, prepared.samples[prepared.samples["split"] == "test"]
    ruler = pixel_sizes.ruler(task, prepared) if task.segmentation else None
    tested = [] if task.segmentation else list(task.tested or task.labels)
    return {
        "digest": run.digest,
        "verb": "finetune",
        "init": run.init.canonical,
        "task": run.task,
        "seed": run.seed,
        "recipe": run.recipe,
        "protocol": run.protocol,
        "fraction": str(run.fraction),
        "study": dict(run.study),
        "fold": run.fold,
        "folds": prepared.manifest["folds"],
        "kind": task.kind,
        "measured": list(task.measured),
        **({"tolerance": ruler.words} if ruler else {}),
        "unit": task.unit,
        "dataset": task.dataset,
        "marks": list(run.marks),
        "spared": list(run.spared),
        **({"listed": dataclasses.asdict(run.listed)} if run.listed else {}),
        "labels": len(tested or task.labels),
        "undefined": metrics.undefined_labels(test[tested].to_numpy(), tested),
        "tested": [slug(label) for label in tested or task.labels],
        "scores": scores,
        "best": {"epoch": fit.best_epoch, "monitor": fit.best},
        "history": fit.history,
        "cost": cost,
        "params": run.shown,
        "counts": _counts(prepared),
        "split": f"{prepared.manifest['split_recipe']}; hash {prepared.manifest['split_hash'][:12]}",
        "protocol_version": PROTOCOL_VERSION,
        "manifest_digest": run.manifest_digest,
        "weights_sha256": run.weights_sha256,
        "device": run.device,
        "arithmetic": fit.arithmetic,
        "commit": files.git_commit(run.root),
        "finished": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__},
    }


def _counts(prepared: Prepared) -> dict[str, int]:
    """Counts the images of each split, in a fold or a drawn split those of its own."""
    return {split: len(prepared.rows(split)) for split in ("train", "val", "test")}


def _publish(run: Run, tracked: tracking.TrackedRun) -> None:
    """Names everything that a finished run has for MLflow."""
    from medtransfer.runs import curves

    result = read_finished(run)
    files.write_text(run.folder / "params.yaml", yaml.safe_dump(result["params"]))
    names = [*results_of(run), "journal.jsonl", "params.yaml", *([curves.FILE] if run.trains else [])]
    title = f"{run.init.canonical}, {run.task}, seed {run.seed}"
    if run.trains:
        path, metric = run.folder / curves.FILE, f"val_{run.record.metric}"
        curves.draw(result["history"], metric, result["best"]["epoch"], title, path)
    receipt = store.receipt_file(run.init, run.root)
    if receipt is not None:
        shutil.copyfile(receipt, run.folder / "receipt.json")
        names.append("receipt.json")
    tracked.artifacts(run.folder, names)
