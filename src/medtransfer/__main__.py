"""Verbs to functions; the only reader of the command line. Imports nothing heavy before the verb is known.

A verb's signature names its identity arguments, its decorator the sections of `params.yaml` that it reads. Every
other option is a dotted parameter: `--classification.lr 3e-4`.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medtransfer import params as parameters
from medtransfer.errors import UserError
from medtransfer.params import Params

if TYPE_CHECKING:
    from medtransfer.findings import Findings

log = logging.getLogger("medtransfer")


@dataclass(frozen=True)
class Verb:
    """One command: what it does, which options name its work, which sections it reads."""

    function: Callable[..., None]
    sections: tuple[str, ...]

    @property
    def identity(self) -> dict[str, str | None]:
        """Lists the identity arguments with their defaults, None for one that must be given."""
        given = list(inspect.signature(self.function).parameters.values())[2:]
        return {p.name: None if p.default is inspect.Parameter.empty else str(p.default) for p in given}


VERBS: dict[str, Verb] = {}


def verb(*sections: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a function as the verb of its name."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        VERBS[function.__name__] = Verb(function, sections)
        return function

    return register


@verb("phantoms")
def phantoms(params: Params, root: Path) -> None:
    """Write synthetic images in the official layouts under data/phantoms."""
    from medtransfer import phantoms as generator

    for dataset, images in params.phantoms.images.items():
        folder = root / "data/phantoms" / dataset
        p = params.phantoms
        generator.write(dataset, folder, images=images, size=p.size, seed=p.seed, contrast=p.contrast)
        log.info("phantoms: %d images of %s under %s", images, dataset, folder)


@verb()
def sources(params: Params, root: Path) -> None:
    """Note which real files are under data/raw, for DVC to see what changed."""
    from medtransfer import sources as raw

    raw.write(root)


@verb("data", "tasks")
def prepare(params: Params, root: Path, task: str = "all") -> None:
    """Check a task's raw files and decode them once into data/prepared."""
    from medtransfer import catalog, preparation

    for name in _tasks(params, task):
        prepared = preparation.prepare(catalog.lookup(name, root), params, root)
        marks = f" ({', '.join(prepared.marks)})" if prepared.marks else ""
        counts, folds = prepared.manifest["counts"], prepared.manifest["folds"]
        log.info("prepared %s%s: %s%s", name, marks, counts, f", {folds} folds" if folds else "")
        log.info("look at %s", prepared.folder / "samples.png")


@verb("tasks", "data")
def tasks(params: Params, root: Path) -> None:
    """List the tasks: kind, images, metric, licence, source, and whether they are on disk and prepared."""
    from rich.console import Console

    from medtransfer import listing

    Console().print(listing.tasks(params, root))


@verb("data", "tasks")
def audit(params: Params, root: Path, task: str = "all", against: str = "none") -> None:
    """Show what prepare found of a task's data, and look-alikes in another task's images."""
    from medtransfer import inspection

    for name in _tasks(params, task):
        inspection.report(name, "none" if name == against else against, params, root)


@verb()
def fetch(params: Params, root: Path, dataset: str, size: str = "224") -> None:
    """Download an open dataset into data/raw, or say how to get one that is not open."""
    from medtransfer import fetching

    if not size.isdigit():
        raise UserError(f"size is the side of the images in pixels, got {size!r}")
    fetching.fetch(dataset, root, int(size))


@verb("model", "inits", "benchmark")
def inits(params: Params, root: Path) -> None:
    """List the initializations: backbones, pre-training, licence, and what is on disk or where to get it."""
    from rich.console import Console

    from medtransfer import listing

    Console().print(listing.inits(params, root))


@verb("model", "inits", "benchmark")
def weights(params: Params, root: Path, init: str = "all") -> None:
    """Fetch, verify and convert the weights of one init, or of all of the benchmark."""
    from medtransfer import weights as store
    from medtransfer.initializations import check_backbone, parse

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


@verb(*PRETRAINING)
def pretrain(params: Params, root: Path, init: str = "all", dataset: str = "none") -> None:
    """Train an init further on a dataset: imagenet and chestxray14 make imagenet+chestxray14; all: the benchmark's."""
    from medtransfer import lineage, pretraining
    from medtransfer.tracking.launcher import Launcher

    if (init == "all") != (dataset == "none"):
        raise UserError("pretrain needs --init and --dataset, as in --init imagenet --dataset chestxray14, or neither")
    launcher = Launcher(root)
    with launcher:
        launcher.start(f"pretrain {init} {dataset}", {"verb": "pretrain"})
        names = params.benchmark.inits if init == "all" else (f"{init}+{dataset}",)
        (root / lineage.FOLDER).mkdir(parents=True, exist_ok=True)
        made = pretraining.make_all(names, params, root, params.benchmark.tasks, launcher.run_id)
        words = [f"- {line}" for one in made for line in lineage.summary(one)]
        launcher.table("\n".join(words) + "\n", json.dumps([one.digest for one in made]))


TRAINING = ("data", "tasks", "model", "inits", "classification", "segmentation", "engine", "execution", "benchmark")
"""sections that training reads; a change of one re-trains only the runs whose resolved fields change"""


@verb(*TRAINING, "pretraining")
def finetune(params: Params, root: Path, init: str, task: str = "all", seed: str = "all") -> None:
    """Fine-tune one init on a task and seed, or on all of the benchmark's; a missing pre-training is made first."""
    from medtransfer import pretraining
    from medtransfer.benchmark import digests, markdown_table, run_all
    from medtransfer.runs import plan
    from medtransfer.tracking.launcher import Launcher

    launcher = Launcher(root)
    with launcher:
        launcher.start(f"finetune {init} {task} {seed}", {"verb": "finetune"})
        inits = params.benchmark.inits if init == "all" else (init,)
        targets = dict.fromkeys((*params.benchmark.tasks, *_tasks(params, task)))
        pretraining.make_all(inits, params, root, tuple(targets), launcher.run_id)
        planned = plan(params, root, inits, _tasks(params, task), _seeds(params, seed), launcher.run_id)
        cells = run_all(planned)
        launcher.table(markdown_table(cells), digests(cells))


@verb(*TRAINING)
def benchmark(params: Params, root: Path, task: str = "all") -> None:
    """Run what is missing of the benchmark's inits and seeds on one task or all; write data/results/cells."""
    from medtransfer.benchmark import digests, markdown_table, run_all, write_cells
    from medtransfer.runs import plan
    from medtransfer.tracking.launcher import Launcher

    launcher = Launcher(root)
    with launcher:
        launcher.start(f"benchmark {task}", {"verb": "benchmark"})
        names = _tasks(params, task)
        b = params.benchmark
        planned = plan(params, root, b.inits, names, b.seeds, launcher.run_id, "benchmark")
        cells = run_all(planned)
        for name in names:
            write_cells([run for run in planned if run.task == name], root / "data/results/cells" / name)
        launcher.table(markdown_table(cells), digests(cells))


COMPARED = ("benchmark", "comparison", "claims", "model", "inits")
"""sections that the comparison reads"""


@verb(*COMPARED)
def compare(params: Params, root: Path, reference: str = "params", against: str = "params") -> None:
    """Turn the benchmark's finished runs into tables, figures and a report under data/results."""
    from medtransfer import exports, report
    from medtransfer.tracking import comparing
    from medtransfer.tracking.launcher import Launcher

    launcher, out = Launcher(root), root / "data/results"
    with launcher:
        launcher.start("compare", {"verb": "compare"})
        findings = _find(params, root, reference, against)
        missing = [(row.task, row.init, seed) for row in findings.rows for seed in row.missing if row.unit == "seed"]
        for line in comparing.differences(root, findings.cells, missing):
            log.warning("%s", line)
        report.write(findings, parameters.load(root / "presets/paper.yaml"), out / "cells", out)
        for answer in findings.answers:
            log.info("%s: %s", answer.scope, answer.text)
        comparing.record(root, out, parent=launcher.run_id, **exports.comparison_run(findings))
    log.info("wrote data/results/*.csv and data/results/report; `python -m medtransfer show` prints the table")


@verb(*COMPARED)
def show(params: Params, root: Path) -> None:
    """Print the comparison table of the benchmark's runs and say where the report is."""
    from rich.console import Console

    from medtransfer import report

    quick = dataclasses.replace(params, comparison=dataclasses.replace(params.comparison, resamples=0))
    console = Console()
    console.print(report.console_table(_find(quick, root, "params", "params")))
    console.print(f"Report: {root / 'data/results/report/index.html'}", soft_wrap=True)
    console.print(
        "Every run, with curves: `make ui` opens MLflow on this machine, http://127.0.0.1:5000", soft_wrap=True
    )


def _find(params: Params, root: Path, reference: str, against: str) -> Findings:
    """Compares; `params` stands for what the parameters say, `none` for no file of published numbers."""
    from medtransfer import findings
    from medtransfer.initializations import expected, parse

    name = params.comparison.reference if reference == "params" else reference
    if against != "params":
        files = () if against == "none" else (against,)
        params = dataclasses.replace(params, comparison=dataclasses.replace(params.comparison, against=files))
    start = parse(name, params.model.backbone, params.inits)
    return findings.find(root / "data/results/cells", expected(params), params, root, start.canonical)


def _tasks(params: Params, task: str) -> tuple[str, ...]:
    return params.benchmark.tasks if task == "all" else (task,)


def _seeds(params: Params, seed: str) -> tuple[int, ...]:
    if seed == "all":
        return params.benchmark.seeds
    if not seed.isdigit():
        raise UserError(f"seed must be a whole number >= 0 or `all`, got {seed!r}")
    return (int(seed),)


def build_parser() -> argparse.ArgumentParser:
    """Builds the command line from the verbs' signatures."""
    parser = argparse.ArgumentParser(
        prog="medtransfer",
        description="Which pre-trained weights should a medical imaging model start from?",
        epilog="Every parameter of params.yaml is an option too, by its dotted name: --classification.lr 3e-4",
    )
    parser.add_argument("--verbose", action="store_true", help="log details and tracebacks")
    commands = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, entry in VERBS.items():
        text = inspect.getdoc(entry.function) or ""
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument("--params", default="params.yaml", help="parameter file (default: params.yaml)")
        command.add_argument("--partial", action="store_true", help="short for --data.partial true")
        command.add_argument("--skip-bad", metavar="N", help="short for --data.skip_bad N: samples that may be bad")
        for option, default in entry.identity.items():
            words = f"default: {default}" if default is not None else "required"
            command.add_argument(f"--{option}", default=default, help=words)
    return parser


def read_overrides(rest: Sequence[str], verb_name: str) -> dict[str, str]:
    """Reads `--dotted.name value` and `--dotted.name=value` pairs.

    Raises:
        UserError: something else stands there; a misspelt identity argument is named.
    """
    overrides: dict[str, str] = {}
    words = list(rest)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or "." not in name:
            valid = [*VERBS[verb_name].identity, "params", "partial", "skip-bad"]
            near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
            hint = f"the nearest option is --{near[0]}" if near else f"options: {', '.join(f'--{v}' for v in valid)}"
            raise UserError(f"unknown option {word} of {verb_name}; {hint}, or a dotted parameter")
        if not equals:
            if not words:
                raise UserError(f"option {word} needs a value")
            value = words.pop(0)
        overrides[name] = value
    return overrides


def name_first(arguments: Sequence[str]) -> list[str]:
    """Lets the word behind a verb stand for the verb's first identity argument: `fetch pneumoniamnist`.

    Raises:
        UserError: that argument is given by its name, too.
    """
    words = list(arguments)
    place = next((number for number, word in enumerate(words) if word in VERBS), None)
    if place is None or place + 1 >= len(words) or words[place + 1].startswith("-"):
        return words
    option = next((f"--{name}" for name in VERBS[words[place]].identity), "")
    if not option:
        return words
    if any(word.partition("=")[0] == option for word in words):
        raise UserError(
            f"{words[place]} {words[place + 1]} means {option} {words[place + 1]}, but {option} stands there too"
        )
    return [*words[: place + 1], option, *words[place + 1 :]]


def run(arguments: Sequence[str], root: Path) -> None:
    """Reads a command line and does its verb.

    Raises:
        UserError: whatever the user can mend.
    """
    options, rest = build_parser().parse_known_args(name_first(arguments))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.DEBUG if options.verbose else logging.INFO)
    entry = VERBS[options.verb]
    overrides = read_overrides(rest, options.verb)
    if options.partial:
        overrides["data.partial"] = "true"
    if options.skip_bad is not None:
        overrides["data.skip_bad"] = options.skip_bad
    identity = {name: getattr(options, name) for name in entry.identity}
    absent = [name for name, value in identity.items() if value is None]
    if absent:
        raise UserError(f"{options.verb} needs --{absent[0]}: which {absent[0]}?")
    from medtransfer import catalog

    params = parameters.load(root / options.params, overrides, catalog.sizes(root))
    parameters.refuse_shadowed(params, overrides, identity.get("task"))
    entry.function(params, root, **identity)


def main() -> None:
    """Does what the command line says; what the user can mend is said in one message, without a traceback."""
    root = Path.cwd()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        run(sys.argv[1:], root)
    except UserError as error:
        sys.stderr.write(f"medtransfer: {error}\n")
        if os.environ.get("MLFLOW_RUN_ID"):
            from medtransfer.tracking.launcher import Launcher

            Launcher(root).fail(f"{' '.join(sys.argv[1:2])}: refused", str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("medtransfer: stopped; the same command goes on from there\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
