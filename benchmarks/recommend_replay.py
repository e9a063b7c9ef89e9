"""How good the strategy of `recommend` is at a share of the grid's time, replayed on a grid that was trained.

    PYTHONPATH=src python benchmarks/recommend_replay.py --out FOLDER [--shares 0.1 0.2 0.4]

FOLDER is the study that `benchmarks/recommend.py prepare` and `grid` made. The verb's own code runs, on a clock of its
own: a probe takes the seconds that it took here, and a stretch of a training what its epochs took in the grid, whose
scores on val it gets. What a process start, a busy machine and MLflow cost is left out, so that the table says what the
choices of the race are worth. The results of the other tasks are the prior. True is the grid's mean test score.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest import mock

import numpy as np
from scipy import stats

from medtransfer import params as parameters
from medtransfer.comparison import prior
from medtransfer.core.errors import UserError
from medtransfer.data import catalog
from medtransfer.results.recommendation import Recommendation
from medtransfer.runs.recommend import jobs, recommend
from medtransfer.runs.recommend.field import field_of
from medtransfer.runs.recommend.rates import Rates


class Replay:
    """The worker and the clock of one race."""

    def __init__(
        self, cells: dict[str, dict[str, Any]], metric: str, monitor: str, probes: dict[str, jobs.Probed]
    ) -> None:
        self.cells, self.metric, self.monitor, self.probes, self.now = cells, metric, monitor, probes, 0.0
        self.done: dict[str, int] = {}

    def time(self) -> float:
        """Gives the seconds of the clock."""
        return self.now

    def work(self, job: jobs.Job, report: Any) -> Any:
        """Takes what the grid knows, and the time that it took."""
        if isinstance(job, jobs.Probe):
            if job.init not in self.probes:
                self.probes[job.init] = jobs.probe(job)
            found = self.probes[job.init]
            self.now += max(found.seconds, found.pass_seconds)
            return found
        cell = self.cells[job.run.digest]
        history, each = cell["history"], cell["cost"]["seconds"] / len(cell["history"])
        if isinstance(job, jobs.Test):
            self.now += each / 2
            return {}
        begun, epochs = self.now, self.done.get(job.run.digest, 0)
        while epochs < min(job.epochs, len(history)) and self.now < job.until:
            self.now += each
            epochs += 1
        self.done[job.run.digest] = epochs
        if not epochs:
            raise UserError("the time was over before its first epoch")
        best = (min if self.monitor == "val_loss" else max)(history[:epochs], key=lambda line: line[self.monitor])
        return jobs.Trained(
            epochs=epochs, score=best[f"val_{self.metric}"], seconds=each * epochs, wall=self.now - begun,
            complete=epochs == len(history),
        )  # fmt: skip


@contextlib.contextmanager
def replaced(replay: Replay) -> Iterator[None]:
    """Lets the verb's code use the replay's worker and clock, and know no rate beforehand."""
    with (
        mock.patch.object(recommend, "work", replay.work),
        mock.patch.object(recommend, "time", replay),
        mock.patch.object(Rates, "know", return_value=None),  # nothing of this kind was timed yet
    ):
        yield


def race(
    root: Path, params: parameters.Params, task: str, minutes: float, cells: Any, probes: Any
) -> tuple[Any, float]:
    """Asks for a task within minutes of one worker; gives the answer and the seconds of its clock."""
    settings = dataclasses.replace(params.recommend, minutes=minutes, candidates=params.benchmark.inits)
    execution = dataclasses.replace(params.execution, workers=1)
    asked = dataclasses.replace(params, recommend=settings, execution=execution)
    field = field_of(asked, root, task)
    run = field.any_run
    replay = Replay(cells, run.record.metric, run.training.monitor, probes)
    with replaced(replay):
        one = recommend.Recommender(field, asked, root, 0.0, partial(prior.places, asked, root, task))
        shutil.rmtree(one.folder, ignore_errors=True)
        with one.held():
            answer = one.run()
        shutil.rmtree(one.folder, ignore_errors=True)
    return answer, replay.now


def rank(values: dict[str, float]) -> list[str]:
    """Sorts inits by a score, the highest first."""
    return sorted(values, key=lambda init: -values[init])


def halving(cells: Sequence[dict[str, Any]], metric: str, inits: Sequence[str], budget: float) -> str:
    """Replays plain successive halving: all with one seed for one epoch, then the better half for twice as many."""
    seeds = sorted({cell["seed"] for cell in cells})
    of = {(cell["init"], cell["seed"]): cell for cell in cells}
    left, epochs, spent, number, paid = list(inits), 1, 0.0, 1, dict[tuple[str, int], int]()
    while True:
        for init in left:
            for seed in seeds[:number]:
                cell = of[init, seed]
                length = len(cell["history"])
                new = min(epochs, length) - paid.get((init, seed), 0)
                spent += new * cell["cost"]["seconds"] / length
                paid[init, seed] = min(epochs, length)
        means = {
            init: fmean(
                max(line[f"val_{metric}"] for line in of[init, seed]["history"][:epochs]) for seed in seeds[:number]
            )
            for init in left
        }
        left = rank(means)
        if len(left) == 1 or spent >= budget or (epochs >= len(cells[0]["history"]) and number >= len(seeds)):
            return left[0]
        left = left[: max(1, len(left) // 2)]
        epochs, number = min(2 * epochs, 10**6), min(number + 1, len(seeds))


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.1, 0.2, 0.4])
    options = parser.parse_args()
    root = options.out.resolve()
    os.chdir(root)
    logging.disable(logging.INFO)
    params = parameters.load(root / "params.yaml")
    rows = list[tuple[str, str, str, float, float, float]]()
    for task in params.benchmark.tasks:
        paths = sorted((root / "data/results/cells" / task).glob("*/cell.json"))
        if not paths:
            continue
        cells = {path.parent.name: json.loads(path.read_text()) for path in paths}
        record = catalog.lookup(task, root)
        truth = {
            init: fmean(c["scores"][f"test_{record.metric}"] for c in cells.values() if c["init"] == init)
            for init in dict.fromkeys(c["init"] for c in cells.values())
        }
        whole = sum(cell["cost"]["seconds"] for cell in cells.values())
        probes = dict[str, jobs.Probed]()
        everything, _ = race(root, params, task, 1e4, cells, probes)  # all are probed, and all are raced
        add = partial(_row, rows, task, truth, record.margin)
        for share in options.shares:
            answer, spent = race(root, params, task, share * whole / 60, cells, probes)
            add(f"recommend, {share:g} of the time", answer.pick or "", spent / whole, _places(answer))
            picked = halving(list(cells.values()), record.metric, list(truth), share * whole)
            add(f"successive halving, {share:g}", picked, share, {})
        for name in ("prior", "linear", "logme"):
            known = {one.init: one.scores.get(name) for one in everything.candidates if one.status != "left out"}
            scores = {init: value for init, value in known.items() if value is not None}
            cost = 0.0 if name == "prior" else sum(probe.seconds for probe in probes.values()) / whole
            if scores:
                add(
                    {"prior": "static mean rank", "linear": "linear probe", "logme": "LogME"}[name],
                    rank(scores)[0],
                    cost,
                    scores,
                )
        val = {
            init: fmean(c["scores"][f"best_val_{record.metric}"] for c in cells.values() if c["init"] == init)
            for init in truth
        }
        add("whole grid, by val", rank(val)[0], 1.0, val)
    _print(rows)


def _places(answer: Recommendation) -> dict[str, float]:
    """Ranks what was raced by val and stage; the probability of its pick is in the name of the row."""
    return {one.init: one.epochs + (one.val or 0.0) for one in answer.candidates if one.status != "left out"}


def _row(
    rows: list[Any], task: str, truth: dict[str, float], margin: float, method: str, pick: str, share: float,
    scores: dict[str, float],
) -> None:  # fmt: skip
    regret = (max(truth.values()) - truth.get(pick, min(truth.values()))) / margin
    both = [init for init in scores if init in truth]
    agreement = (
        float(stats.spearmanr([scores[i] for i in both], [truth[i] for i in both])[0]) if len(both) > 2 else np.nan
    )
    rows.append((task, method, pick, regret, share, agreement))


def _print(rows: Sequence[tuple[str, str, str, float, float, float]]) -> None:
    print("| task | method | pick | regret, margins | share of the grid's time | Spearman |\n|---|---|---|---|---|---|")
    for task, method, pick, regret, share, agreement in rows:
        shown = "" if np.isnan(agreement) else f"{agreement:.2f}"
        print(f"| {task} | {method} | {pick.split('@')[0]} | {regret:.1f} | {share:.2f} | {shown} |")
    print("\n| method | regret at most 1 margin | mean regret | mean share | mean Spearman |\n|---|---|---|---|---|")
    for method in dict.fromkeys(row[1] for row in rows):
        own = [row for row in rows if row[1] == method]
        agreements = [row[5] for row in own if not np.isnan(row[5])]
        shown = f"{fmean(agreements):.2f}" if agreements else ""
        within = f"{sum(row[3] <= 1 for row in own)} of {len(own)}"
        regret, share = fmean(row[3] for row in own), fmean(row[4] for row in own)
        print(f"| {method} | {within} | {regret:.2f} | {share:.2f} | {shown} |")


if __name__ == "__main__":
    main()
