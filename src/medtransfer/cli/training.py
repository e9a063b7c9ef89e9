"""Verbs of weights and training: inits, weights, pretrain, tune, finetune, benchmark."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from medtransfer.cli.verb import fractions_of, protocols_of, seeds_of, tasks_of, verb
from medtransfer.core.errors import UserError
from medtransfer.params import FROZEN, Params

log = logging.getLogger("medtransfer")


@verb("model", "inits", "benchmark")
def inits(
    params: Params,
    root: Path,
    init: str = "all",
    modality: str = "all",
    family: str = "all",
    commercial: str = "all",
    max_parameters: str = "none",
    open: str = "no",  # noqa: A002  # a verb's arguments are its options, and this one is --open
) -> None:
    """List the initializations by the images that they were trained on, or say all that is known of one.

    Args:
        params: of the study.
        root: the study's folder.
        init: init that all is said of, or all: the list.
        modality: of the images that it was trained on last: chest-x-ray, fundus, pathology, ...; all: any.
        family: supervised, self-supervised, domain-adapted, medical or yours; all: any.
        commercial: whether its licence permits commercial use: yes, no or unclear; all: any.
        max_parameters: of the backbone at most, as in 90M; none: any number.
        open: yes: only files that a program may fetch without conditions that a person accepts.
    """
    from rich.console import Console

    from medtransfer.cli import list_inits

    wanted = list_inits.read_filter(modality, commercial, family, max_parameters, open)
    console = Console()
    if init == "all":
        lines = list_inits.listed(params, root, wanted, console.width)
    elif wanted == list_inits.Filter():
        lines = list_inits.described(init, params, root, console.width)
    else:
        raise UserError(f"inits {init} says all of one init; --modality, --open and the like are for the list")
    console.out("\n".join(lines), highlight=False)


@verb("model", "inits", "benchmark", extra="train")
def weights(params: Params, root: Path, init: str = "all") -> None:
    """Fetch, verify and convert the weights of one init, or of all of the benchmark.

    Args:
        params: of the study.
        root: the study's folder.
        init: init, or all: the benchmark's.
    """
    from medtransfer.weights import store
    from medtransfer.weights.names import check_backbone, parse

    names = params.benchmark.inits if init == "all" else (init,)
    folder = "benchmark" if init == "all" else "adhoc"
    (root / "data/weights" / folder).mkdir(parents=True, exist_ok=True)
    starts = [parse(name, params.model.backbone, params.inits) for name in names]
    if init == "all":  # what a chain starts from; `pretrain` makes the rest
        starts = list(dict.fromkeys(dataclasses.replace(start, chain=()) for start in starts))
    for start in starts:
        check_backbone(start.backbone)
    for start in starts:
        receipt = store.ready(start, root, folder)
        if receipt:
            lines = [*store.summary(receipt), f"features as in the receipt, to {store.verify(start, root):.0e}"]
            log.info("%s", "\n  ".join(lines))


PRETRAINING = ("data", "tasks", "model", "inits", "pretraining", "engine", "execution", "benchmark")
"""sections that continual pre-training reads"""


@verb(*PRETRAINING, extra="train")
def pretrain(params: Params, root: Path, init: str = "all", dataset: str = "none") -> None:
    """Train an init further on a dataset: imagenet and chestxray14 make imagenet+chestxray14; all: the benchmark's.

    Args:
        params: of the study.
        root: the study's folder.
        init: what to start from, or all: the benchmark's.
        dataset: what to train it on.
    """
    if (init == "all") != (dataset == "none"):
        raise UserError("pretrain needs --init and --dataset, as in --init imagenet --dataset chestxray14, or neither")
    from medtransfer.runs.pretrain import pretrain
    from medtransfer.tracking.launcher import Launcher
    from medtransfer.weights import receipts

    launcher = Launcher(root)
    with launcher:
        launcher.start(f"pretrain {init} {dataset}", {"verb": "pretrain"})
        names = params.benchmark.inits if init == "all" else (f"{init}+{dataset}",)
        folder = root / receipts.FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "none.txt").unlink(missing_ok=True)
        made = pretrain.make_all(names, params, root, params.benchmark.tasks, launcher.run_id)
        if not any(folder.iterdir()):
            (folder / "none.txt").write_text("benchmark.inits has no chain of pre-training\n")  # DVC warns of no file
        words = [f"- {line}" for one in made for line in receipts.summary(one)]
        launcher.table("\n".join(words) + "\n", json.dumps([one.digest for one in made]))


TRAINING = (
    "data", "tasks", "model", "inits", "classification", "segmentation", "protocols", "engine", "execution",
    "benchmark",
)  # fmt: skip
"""sections that training reads; a change of one re-trains only the runs whose resolved fields change"""


@verb(*TRAINING, "pretraining", "tuning", extra="train")
def tune(params: Params, root: Path, init: str = "all", task: str = "all") -> None:
    """Search values of the recipe for each init on each task, all with one budget; all: those of `tuning`.

    Args:
        params: of the study.
        root: the study's folder.
        init: init, or all: those of tuning.inits.
        task: task, or all: those of tuning.tasks.
    """
    from medtransfer.results.study import FOLDER, summary
    from medtransfer.tracking.launcher import Launcher

    launcher = Launcher(root)
    with launcher:
        launcher.start(f"tune {init} {task}", {"verb": "tune"})
        (root / FOLDER).mkdir(parents=True, exist_ok=True)
        inits = params.tuning.inits if init == "all" else (init,)
        names = params.tuning.tasks if task == "all" else (task,)
        if not inits:
            log.info("tuning.inits is empty: no study to run")
            (root / FOLDER / "none.txt").write_text("tuning.inits is empty\n")  # DVC warns of an empty folder
            return
        if "finetune" not in params.benchmark.protocols:
            raise UserError(
                f"tune searches the recipe of the protocol finetune, and benchmark.protocols names "
                f"{', '.join(params.benchmark.protocols)}: add finetune there, or empty tuning.inits"
            )
        from medtransfer.runs.execution import leases
        from medtransfer.runs.pretrain import pretrain
        from medtransfer.runs.tune import tune
        from medtransfer.tracking import sync

        (root / FOLDER / "none.txt").unlink(missing_ok=True)
        sync.sweep(root, leases.claims(leases.address(params.execution)))
        pretrain.make_all(inits, params, root, tuple(dict.fromkeys((*params.benchmark.tasks, *names))), launcher.run_id)
        studies = tune.tune(params, root, inits, names, launcher.run_id)
        for study in studies:
            log.info("%s", summary(study))
        launcher.table("\n\n".join(map(summary, studies)), json.dumps([study.study for study in studies]))


@verb(*TRAINING, "corruptions", "pretraining", extra="train")
def finetune(
    params: Params,
    root: Path,
    init: str,
    task: str = "all",
    seed: str = "all",
    protocol: str = "all",
    fraction: str = "all",
) -> None:
    """Fine-tune one init on a task and seed, or on all of the benchmark's; a missing pre-training is made first.

    Args:
        params: of the study.
        root: the study's folder.
        init: init, or all: the benchmark's.
        task: task, or all: the benchmark's.
        seed: seed, or all: the benchmark's.
        protocol: finetune, linear, knn, partial or lora, or all: the benchmark's.
        fraction: of train's labels, such as 0.1 or 16-shot, or all: the benchmark's.
    """
    protocols, fractions = protocols_of(params, protocol), fractions_of(params, fraction)
    from medtransfer.runs.benchmark import digests, markdown_table, run_all
    from medtransfer.runs.run import plan
    from medtransfer.tracking.launcher import Launcher
    from medtransfer.weights.names import parse

    launcher = Launcher(root)
    with launcher:
        launcher.start(f"finetune {init} {task} {seed}", {"verb": "finetune"})
        inits = params.benchmark.inits if init == "all" else (init,)
        targets = dict.fromkeys((*params.benchmark.tasks, *tasks_of(params, task)))
        if any(parse(name, params.model.backbone, params.inits).chain for name in inits):
            from medtransfer.runs.pretrain import pretrain

            pretrain.make_all(inits, params, root, tuple(targets), launcher.run_id)
        recipes, seeds = params.benchmark.recipes, seeds_of(params, seed)
        planned = plan(
            params, root, inits, tasks_of(params, task), seeds, launcher.run_id,
            recipes=recipes, protocols=protocols, fractions=fractions,
        )  # fmt: skip
        results = run_all(planned)
        launcher.table(markdown_table(planned, results), digests(results))
        log.info(
            "`medtransfer ui --serve` shows these runs; `medtransfer benchmark` trains what is missing, `compare` then "
            "compares"
        )


@verb(*TRAINING, extra="train")
def features(params: Params, root: Path) -> None:
    """Compute the features of frozen backbones that the benchmark's runs of linear and knn read, once for all of them.

    Args:
        params: of the study.
        root: the study's folder.
    """
    b, target = params.benchmark, root / "data/features"
    frozen = [protocol for protocol in b.protocols if protocol in FROZEN]
    described = [control for control in b.controls if control in ("random-frozen", "texture")]
    target.mkdir(parents=True, exist_ok=True)
    if not frozen and not described:
        log.info("benchmark.protocols and .controls have none on frozen features: none to compute")
        for path in target.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (target / "none.txt").write_text("benchmark.protocols has none on frozen features\n")  # DVC warns of no file
        return
    from medtransfer.runs import controls, feature_cache
    from medtransfer.runs.run import plan

    planned = plan(params, root, b.inits, b.tasks, b.seeds, None, "benchmark", protocols=frozen) if frozen else []
    planned = controls.add(planned, params, root, b.tasks, None, "benchmark", described)
    feature_cache.make_all(planned)
    feature_cache.keep_only(planned, root)


@verb(*TRAINING, "corruptions", "recommend", "comparison", extra="train")
def benchmark(params: Params, root: Path, task: str = "all", dry: str = "no", race: str = "params") -> None:
    """Run what is missing of the benchmark's inits and seeds on one task or all; dry: only say what that would be.

    Args:
        params: of the study.
        root: the study's folder.
        task: task, or all: the benchmark's.
        dry: yes: only say what would be done.
        race: yes: inits that fall behind on val stop early, see `recommend`; tables name them; params: benchmark.race.
    """
    if dry not in ("yes", "no"):
        raise UserError(f"--dry must be yes or no, got {dry!r}")
    if race not in ("yes", "no", "params"):
        raise UserError(f"--race must be yes or no, got {race!r}")
    if dry == "yes":
        _say_plan(params, root, tasks_of(params, task))
    else:
        _run_benchmark(params, root, task, params.benchmark.race if race == "params" else race == "yes")


def _say_plan(params: Params, root: Path, tasks: Sequence[str]) -> None:
    from rich.console import Console

    from medtransfer.runs import dry_run

    Console().print(dry_run.shown(dry_run.survey(params, root, tasks), params, root))


def _run_benchmark(params: Params, root: Path, task: str, race: bool) -> None:
    from medtransfer.results import stopped
    from medtransfer.runs import best_networks, controls
    from medtransfer.runs.benchmark import digests, markdown_table, run_all, write_results
    from medtransfer.runs.run import plan
    from medtransfer.tracking.launcher import Launcher

    launcher = Launcher(root)
    with launcher:
        launcher.start(f"benchmark {task}", {"verb": "benchmark"})
        names = tasks_of(params, task)
        b = params.benchmark
        planned = plan(
            params, root, b.inits, names, b.seeds, launcher.run_id, "benchmark", b.recipes,
            protocols=b.protocols, fractions=b.fractions,
        )  # fmt: skip
        early = {name: _stopped_early(params, root, name, launcher.run_id) if race else {} for name in names}
        planned = [run for run in planned if run.protocol != "finetune" or run.init.canonical not in early[run.task]]
        planned = controls.add(planned, params, root, names, launcher.run_id, "benchmark")
        results = run_all(planned)
        for name in names:
            folder = root / "data/results/cells" / name
            write_results([run for run in planned if run.task == name], folder)
            stopped.write(early[name], folder)
            best_networks.write([run for run in planned if run.task == name], name, root)
        launcher.table(markdown_table(planned, results), digests(results))


def _stopped_early(params: Params, root: Path, task: str, launcher: str | None) -> dict[str, str]:
    from medtransfer.runs.recommend import grid

    return grid.stopped(params, root, task, launcher)
