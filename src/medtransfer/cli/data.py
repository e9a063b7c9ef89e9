"""Verbs of the data: phantoms, sources, prepare, tasks, audit, fetch."""

from __future__ import annotations

import logging
from pathlib import Path

from medtransfer.cli.verb import tasks_of, verb
from medtransfer.core import schema
from medtransfer.core.errors import UserError
from medtransfer.params import Params

log = logging.getLogger("medtransfer")


@verb("phantoms", "tasks", "benchmark", "model", "inits", extra="train")
def phantoms(params: Params, root: Path, dataset: str = "benchmark") -> None:
    """Write synthetic images in a dataset's official layout under data/phantoms, each core a dataset at a time.

    Args:
        params: of the study.
        root: the study's folder.
        dataset: dataset, or benchmark: those of its tasks, sites that these name and chains of pre-training, or all.
    """
    import multiprocessing
    import os
    from concurrent.futures import ProcessPoolExecutor, as_completed

    from medtransfer.data.phantoms import write as generator

    p, waiting = params.phantoms, {}
    chosen = _datasets(params, root, dataset)
    if not chosen:
        log.info("phantoms: none are needed, the benchmark's datasets have none")
        (root / "data/phantoms").mkdir(parents=True, exist_ok=True)
        (root / "data/phantoms/none.txt").write_text(
            "the benchmark's datasets have no phantoms\n"
        )  # DVC warns of no file
        return
    (root / "data/phantoms/none.txt").unlink(missing_ok=True)
    cores = min(len(os.sched_getaffinity(0)), len(chosen))
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        for name, images in sorted(chosen.items(), key=lambda pair: -pair[1]):
            folder = root / "data/phantoms" / name
            done = pool.submit(
                generator.write,
                name,
                folder,
                images=images,
                size=p.size,
                seed=p.seed,
                contrast=p.contrast,
                misleading=p.misleading,
            )
            waiting[done] = (images, name, folder)
        for done in as_completed(waiting):
            done.result()
            log.info("phantoms: %d images of %s under %s", *waiting[done])


def _datasets(params: Params, root: Path, dataset: str) -> dict[str, int]:
    """Lists the datasets that phantoms are written of, and how many images.

    Raises:
        UserError: there are no phantoms of the named one.
    """
    counts = params.phantoms.images
    if dataset == "all":
        return dict(counts)
    if dataset != "benchmark":
        if dataset not in counts:
            raise UserError(f"no phantoms of {dataset}{schema.nearest(dataset, counts)}")
        return {dataset: counts[dataset]}
    from medtransfer.data import catalog
    from medtransfer.weights.names import parse

    b = params.benchmark
    read_on = {one.task for task in b.tasks if task in params.tasks for one in params.tasks[task].external}
    of_tasks = {catalog.lookup(task, root).dataset for task in {*b.tasks, *read_on}}
    chains = {name for init in b.inits for name in parse(init, params.model.backbone, params.inits).chain}
    return {name: counts[name] for name in counts if name in of_tasks | chains}


@verb()
def sources(params: Params, root: Path) -> None:
    """Note which real files are under data/raw, for DVC to see what changed."""
    from medtransfer.data import raw

    _check_sections(root)
    raw.write(root, {name: [one.task for one in sizes.external] for name, sizes in params.tasks.items()})


def _check_sections(root: Path) -> None:
    """Refuses, before DVC does hours later, a parameter file of before a section that the stages depend on.

    Raises:
        UserError: with what to add.
    """
    import yaml

    stages, ours = root / "dvc.yaml", root / "params.yaml"
    if not (stages.is_file() and ours.is_file()):
        return
    each = (stage.get("do", stage) for stage in yaml.safe_load(stages.read_text()).get("stages", {}).values())
    names = [name for stage in each for name in stage.get("params", ()) if isinstance(name, str)]
    held = yaml.safe_load(ours.read_text()) or {}
    missing = dict.fromkeys(name.partition(".")[0] for name in names if name.partition(".")[0] not in held)
    if missing:
        lines = ", ".join(f"`{name}: {{}}`" for name in missing)
        raise UserError(
            f"{ours} is of before there was {' and '.join(missing)}, which stages of dvc.yaml depend on, and DVC stops "
            f"where a section is not there: add {lines} at its end, and its defaults hold"
        )


@verb("data", "tasks", "benchmark", extra="train")
def prepare(params: Params, root: Path, task: str = "all", check: str = "no") -> None:
    """Check a task's raw files and decode them once into data/prepared; --check hashes all raw files again.

    Args:
        params: of the study.
        root: the study's folder.
        task: task, or all: the benchmark's.
        check: hash all raw files again, even unchanged ones.
    """
    from medtransfer.data import catalog, prepare

    if check not in ("yes", "no"):
        raise UserError(f"--check must be yes or no, got {check!r}")
    for name in tasks_of(params, task):
        prepared = prepare.prepare(catalog.lookup(name, root), params, root, check=check == "yes")
        marks = f" ({', '.join(prepared.marks)})" if prepared.marks else ""
        number, drawn = len(prepared.parts), "splits" in prepared.manifest
        first = prepared.of_fold(next(iter(prepared.parts)))
        counts = ", ".join(f"{split} {len(first.rows(split)):,}" for split in ("train", "val", "test"))
        words = f"{number} {'drawn splits' if drawn else 'folds'}, the first with {counts}" if number > 1 else counts
        log.info("prepared %s%s: %s", name, marks, words)
        log.info("look at %s", prepared.folder / "samples.png")


@verb("tasks", "data")
def tasks(params: Params, root: Path) -> None:
    """List the tasks: kind, images, metric, licence, source, and whether they are on disk and prepared."""
    from rich.console import Console

    from medtransfer.cli import list_tasks

    Console().print(list_tasks.listed(params, root))


@verb("data", "tasks", "benchmark", extra="train")
def audit(params: Params, root: Path, task: str = "all", against: str = "none") -> None:
    """Show what prepare found of a task's data, and look-alikes in another task's images.

    Args:
        params: of the study.
        root: the study's folder.
        task: task, or all: the benchmark's.
        against: task or dataset in whose images look-alikes are searched.
    """
    from medtransfer.data import audit

    for name in tasks_of(params, task):
        audit.report(name, "none" if name == against else against, params, root)


@verb(extra="train")
def fetch(params: Params, root: Path, dataset: str, size: str = "224") -> None:
    """Download an open dataset into data/raw, or say how to get one that is not open.

    Args:
        params: of the study.
        root: the study's folder.
        dataset: dataset, as `tasks` lists them, or one of MedMNIST.
        size: side of MedMNIST's images in pixels: 28, 64, 128 or 224.
    """
    from medtransfer.data import fetch

    if not size.isdigit():
        raise UserError(f"size is the side of the images in pixels, got {size!r}")
    fetch.fetch(dataset, root, int(size))
