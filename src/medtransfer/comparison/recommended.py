"""The answer of `recommend` in three sentences, and the pick against the reference on test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medtransfer.comparison import controls, patients, selection
from medtransfer.comparison.wording import names, plural
from medtransfer.core.errors import UserError
from medtransfer.results.recommendation import OnTest, Recommendation
from medtransfer.results.result import RESULT, Result, read_result
from medtransfer.statistics.seeds_and_patients import ends_of_mean

LEVEL = 0.95
CELLS = Path("data/results/cells")
"""of the study's own benchmark, whose controls are looked at"""


def with_test(answer: Recommendation, cells: Path, root: Path) -> Recommendation:
    """Adds the difference on test and the sentences.

    Args:
        answer: of the race.
        cells: folder of the finished runs of pick and reference, `<task>/<digest>`.
        root: the study's folder.
    """
    tested = _tested(answer, cells, root) if answer.test_runs and answer.pick else None
    return replace(answer, tested=tested, sentences=sentences(replace(answer, tested=tested)))


def _tested(answer: Recommendation, cells: Path, root: Path) -> OnTest | None:
    results = [one for one in selection.collect(cells, root) if one.digest in answer.test_runs]
    pick, reference = (_of(results, init) for init in (answer.pick or "", answer.reference))
    if not pick or any(one.score is None for one in (*pick, *reference)):
        return None
    mean, seeds, found = _mean(pick), tuple(one.seed for one in pick), _controls(pick, root)
    if answer.pick == answer.reference or not reference:
        return OnTest(
            seeds=seeds, pick=mean, reference=mean, low=None, high=None, level=LEVEL, method="", controls=found
        )
    evidence = patients.gather([*pick, *reference], cells, resamples=0, level=LEVEL, rng=np.random.default_rng(0))
    if evidence.contributions:
        values, over = [evidence.contributions[one[0].init] for one in (pick, reference)], "seeds and test patients"
        difference = values[0] - values[1]
    else:
        difference = np.array(
            [[float(a.score or 0) - float(b.score or 0)] for a, b in zip(pick, reference, strict=True)]
        )
        over = "seeds"
    try:
        ends = ends_of_mean(difference, level=LEVEL)
    except UserError:  # a single seed
        ends = None
    low, high = ends or (None, None)
    return OnTest(
        seeds=seeds, pick=mean, reference=_mean(reference), low=low, high=high, level=LEVEL, method=over, controls=found
    )  # fmt: skip


def _controls(pick: Sequence[Result], root: Path) -> dict[str, float]:
    """Reads which of the study's controls, on the same images, are on test not below the pick."""
    scores, folder = dict[str, list[float]](), root / CELLS
    paths = sorted((folder / pick[0].task).glob(f"*/{RESULT}"))
    for one in selection.look_up([read_result(path) for path in paths], folder, root):
        name = "random-frozen" if one.protocol == "linear" and one.init.startswith("random@") else one.protocol
        alike = (one.manifest_digest, one.fraction) == (pick[0].manifest_digest, pick[0].fraction)
        if name in controls.WORDS and alike and one.score is not None:
            scores.setdefault(name, []).append(one.score)
    means = {name: float(np.mean(scores[name])) for name in controls.WORDS if name in scores}
    mask = {"prior": controls.MASK} if pick[0].kind == "segmentation" else {}
    return {(controls.WORDS | mask)[name]: mean for name, mean in means.items() if mean >= _mean(pick)}


def _of(results: Sequence[Result], init: str) -> list[Result]:
    return sorted((one for one in results if one.init == init), key=lambda one: one.seed)


def _mean(results: Sequence[Result]) -> float:
    return float(np.mean([one.score for one in results if one.score is not None]))


def sentences(answer: Recommendation) -> tuple[str, str, str]:
    """Says from what to start, how sure that is, and what more time would buy."""
    return _start(answer), _sure(answer), f"More time: {answer.more}."


def _start(answer: Recommendation) -> str:
    if answer.pick is None:
        return f"Undecided: no candidate could be trained or probed on {answer.task}."
    if answer.verdict == "any of":
        others = [init for init in answer.equals if init != answer.pick]
        return (
            f"Start from any of {', '.join((answer.pick, *others))} on {answer.task}: they are equal within the margin "
            f"of {answer.margin:g} {answer.metric}, and {answer.pick} has the fewest parameters of them."
        )
    if answer.verdict == "start":
        open_ = [one.init for one in answer.candidates if one.status == "racing"]
        beside = f"; not excluded: {', '.join(open_)}" if open_ else ""
        return f"Start from {answer.pick} on {answer.task}{beside}."
    if not answer.looks:
        return (
            f"Undecided: the time did not reach for fine-tuning on {answer.task}; by results on other tasks and frozen "
            f"features {answer.pick} is the most promising, which is a weak reason."
        )
    rivals = [one.init for one in answer.candidates if one.status in ("racing", "level")]
    beside = f"; not told apart from it: {', '.join(rivals)}" if rivals else ""
    return f"Undecided on {answer.task}: {answer.pick} has the best claim so far{beside}."


def _sure(answer: Recommendation) -> str:
    if not answer.looks:
        return "How sure: not at all; nothing was fine-tuned, so there is no probability to state."
    if answer.probability is None:
        words = f"How sure: no probability can be stated, {answer.raced} candidates raced"
    else:
        words = (
            f"How sure: the probability that it is within one margin ({answer.margin:g}) of the best of the "
            f"{answer.raced} that raced is {_percent(answer.probability)}, by {answer.val_units} "
            f"{plural(answer.unit)} of val"
        )
    return f"{words}; {_on_test(answer)}."


def _percent(probability: float) -> str:
    return "more than 99 %" if probability > 0.99 else f"{100 * probability:.0f} %"


def _on_test(answer: Recommendation) -> str:
    if answer.tested is None:
        return "test was not read, because the time did not reach for whole trainings"
    found = [f"{name} ({score:.4f})" for name, score in answer.tested.controls.items()]
    but = f". But there {names(found, len(found))} score as high or higher, without these weights" if found else ""
    return _against_reference(answer, answer.tested) + but


def _against_reference(answer: Recommendation, tested: OnTest) -> str:
    seeds = f"{len(tested.seeds)} seed{'s' * (len(tested.seeds) != 1)}"
    if not answer.reference or answer.pick == answer.reference:
        same = "it is the reference itself" if answer.reference else "the reference does not take part"
        return f"on test, which chose nothing, its mean {answer.metric} is {tested.pick:.4f} over {seeds}, and {same}"
    words = (
        f"on test, which chose nothing ({seeds}), its {answer.metric} is {tested.pick:.4f}, "
        f"{tested.pick - tested.reference:+.4f} against "
        f"{answer.reference}, the reference"
    )
    if tested.low is None or tested.high is None:
        return f"{words}, without an interval, which needs two seeds"
    return (
        f"{words} ({100 * tested.level:.0f} % interval {tested.low:+.4f} to {tested.high:+.4f}, over {tested.method})"
    )
