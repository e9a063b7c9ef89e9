"""Which weights to start from, in words: the set that these data cannot tell apart, and a pick among equals.

Every statement is read off the page's comparisons, which hold together whichever init is named. Val only picks among
inits of which none was shown to be better than another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medtransfer.comparison.contrasts import ALL, Column, Contrast
from medtransfer.comparison.published_form import Row
from medtransfer.comparison.wording import margin_words, names, number_word, plural
from medtransfer.statistics import all_pairs
from medtransfer.statistics.t_tests import ROUNDING

NAMED = 9
"""inits that a sentence names; the tables list all"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer for one task, or for all of them."""

    scope: str
    """a task, or `all tasks`"""
    verdict: Literal["decided", "narrowed", "undecided", "none"]
    """decided: one is better than, or equivalent to, every other. narrowed: some are out. undecided: none is. none: no
    runs to compare"""
    candidates: tuple[str, ...] = ()
    """inits of which no other was shown to be better"""
    chosen: str = ""
    """the pick among the candidates: the best on val; of several equally good ones the first, and the text says so"""
    score: float | None = None
    """of what val picks, on the seeds that did not pick it"""
    seeds: int | None = None
    """in total, with which a difference of the margin would be found with probability `all_pairs.POWER`; None: no
    number is known to be enough, or nothing is open"""
    text: str
    """sentences"""


def of_task(
    column: Column | None, rows: Sequence[Row], *, labels: Mapping[str, str], metric: str, next_share: float
) -> Answer:
    """Answers for one task.

    Args:
        column: its comparisons; None: there are none.
        rows: of the task, which are compared.
        labels: init -> its name in a sentence.
        metric: name of the primary metric, as a person reads it.
        next_share: level of a comparison at the next look, with more seeds.
    """
    if column is None:
        return _none(rows[0].task if rows else "", _why_none(rows, labels))
    val = {row.init: row.val for row in rows if row.val is not None}
    picked = picks(column.candidates, val)
    score = unpicked_score(rows)
    unit = column.unit
    words = f"{metric} {100 * score:.2f}, on the {unit}s that did not pick it" if score is not None else ""
    unseen = [labels[init] for init in column.candidates if init not in val] if val else []
    lack = f" Val picks none: {names(unseen, NAMED)} lack{'s' * (len(unseen) == 1)} a score on it." if unseen else ""
    return _answer(column, picked, words, score, next_share, labels, f"{lack} {_on_what(column, rows[0])}")


def over_tasks(
    column: Column | None, val_ranks: Mapping[str, float], *, labels: Mapping[str, str], next_share: float, why: str
) -> Answer:
    """Answers for all tasks together, by the mean difference in units of the tasks' margins.

    Args:
        column: of the mean over tasks.
        val_ranks: init -> mean rank on val, 1 the best.
        labels: init -> its name in a sentence.
        next_share: level of a comparison at the next look, with more seeds.
        why: there is no column.
    """
    if column is None:
        return _none(ALL, f"No answer over tasks: {why}.")
    picked = picks(column.candidates, {init: -rank for init, rank in val_ranks.items()})
    tail = " Over all tasks means: on average, each task counted in units of its margin."
    return _answer(column, picked, "", None, next_share, labels, tail)


def picks(candidates: Sequence[str], val: Mapping[str, float]) -> tuple[str, ...]:
    """Picks the candidates with the highest number on val: several where they tie, none where one lacks it."""
    if any(init not in val for init in candidates):
        return ()
    known = {init: val[init] for init in candidates}
    best = max(known.values(), default=0.0)
    return tuple(init for init, score in known.items() if best - score <= ROUNDING * max(1.0, abs(best)))


def unpicked_score(rows: Sequence[Row]) -> float | None:
    """Scores the rule "take what is best on val" on seeds that it did not see; None with a single seed.

    For each seed, what is best on val over the others is scored on test of this one; of several that tie the mean
    counts. The plain mean of the best on val is too high: the seeds' luck on val is its luck on test.
    """
    known = [row for row in rows if len(row.vals) == len(row.scores) > 1]
    if not known or len(known) < len(rows) or len({len(row.scores) for row in known}) > 1:
        return None
    val, test = (np.array([getattr(row, name) for row in known]) for name in ("vals", "scores"))
    found = []
    for seed in range(test.shape[1]):
        others = np.delete(val, seed, axis=1).mean(axis=1)
        found.append(test[others >= others.max() - ROUNDING, seed].mean())
    return float(np.mean(found))


def _none(scope: str, text: str) -> Answer:
    return Answer(scope=scope, verdict="none", text=text)


def _why_none(rows: Sequence[Row], labels: Mapping[str, str]) -> str:
    if not rows:
        return "No answer: no initialization has all its runs."
    if len(rows) == 1:
        return f"No answer: only {labels[rows[0].init]} can be compared: the others lack runs or scores."
    return f"No answer: one {rows[0].unit} shows no spread, and nothing can be tested; two or more are needed."


def _answer(
    column: Column, picked: Sequence[str], score: str, value: float | None, next_share: float,
    labels: Mapping[str, str], tail: str,
) -> Answer:  # fmt: skip
    candidates = column.candidates
    settled = [init for init in candidates if _settles(column, init)]
    pick = next((init for init in picked if init in settled or not settled), "") or (settled or [*picked, ""])[0]
    verdict: Literal["decided", "narrowed", "undecided"] = "narrowed"
    if settled or len(candidates) == len(column.inits):
        verdict = "decided" if settled else "undecided"
    sentences = _decided(column, pick, settled, labels) if settled else _open(column, picked, labels)
    if score:
        sentences.append(f"What is best on val scores {score}.")
    seeds, plan = (None, "") if settled or column.unit == "run" else plan_words(column, candidates, next_share)
    text = " ".join([*sentences, *([plan] if plan else [])]) + tail
    return Answer(
        scope=column.scope, verdict=verdict, candidates=candidates, chosen=pick, score=value, seeds=seeds, text=text
    )


def _settles(column: Column, init: str) -> bool:
    """Says whether an init is better than, or equivalent to, every other."""
    contrasts = [column.contrast(init, other) for other in column.inits if other != init]
    return all(contrast.better or contrast.word == "equivalent" for contrast in contrasts)


def _decided(column: Column, pick: str, settled: Sequence[str], labels: Mapping[str, str]) -> list[str]:
    contrasts = [column.contrast(pick, other) for other in column.inits if other != pick]
    parts = []
    for words in ("better by more than the margin", "better", "better within the margin", "equivalent"):
        some = [labels[contrast.against] for contrast in contrasts if contrast.word == words]
        if some:
            parts.append(_said(words, column, names(some, NAMED)))
    found = [f"Start from {labels[pick]}: {'; '.join(parts)}."]
    equals = [labels[init] for init in settled if init != pick]
    return [*found, f"As good by the same comparisons: {names(equals, NAMED)}."] if equals else found


def _said(words: str, column: Column, others: str) -> str:
    margin = _margin(column)
    return {
        "better by more than the margin": f"better than {others} by more than {margin}",
        "better": f"better than {others}",
        "better within the margin": f"better than {others} by less than {margin}",
        "equivalent": f"equivalent to {others}, which is within {margin}",
    }[words]


def _margin(column: Column) -> str:
    return "the tasks' margins" if column.scope == ALL else margin_words(column.margin or 0.0)


def _open(column: Column, picked: Sequence[str], labels: Mapping[str, str]) -> list[str]:
    kept = [labels[init] for init in column.candidates]
    out = [labels[init] for init in column.inits if init not in column.candidates]
    if out:
        any_ = "Either of these two" if len(kept) == 2 else f"Any of these {number_word(len(kept))}"
        found = [f"{any_} will do, as far as these data tell: {names(kept, NAMED)}. Not {names(out, NAMED, 'nor')}."]
    else:
        found = [f"These data do not choose between the {number_word(len(kept))}: {names(kept, NAMED)}."]
    best = [labels[init] for init in picked]
    if len(best) > 1:
        return [*found, f"On val {names(best, NAMED)} tie as the best of them."]
    return [*found, f"If one must be taken: {best[0]}, the best of them on val."] if best else found


def plan_words(column: Column, candidates: Sequence[str], next_share: float) -> tuple[int | None, str]:
    """Says how many seeds in total would find a difference of the margin between the candidates.

    The number holds for one more look with all of these seeds, at that look's level, in `all_pairs.POWER` of all cases
    or more; with less luck the difference is there and is not found.
    """
    if column.margin is None or len(candidates) < 2:
        return None, ""
    places = [column.inits.index(init) for init in candidates]
    open_ = [(i, j) for i in places for j in places if i < j and not _within(column, i, j)]
    if not open_:
        return None, ""
    unit = plural(column.unit)
    if any(column.contrast(column.inits[i], column.inits[j]).word == "no test" for i, j in open_):
        return (
            None,
            f"A difference that is the same in all {unit} has no spread and is not tested: more {unit} show one.",
        )
    open_ = _hardest(column, open_)
    needed = [all_pairs.seeds_needed(column.pairs, i, j, margin=column.margin, share=next_share) for i, j in open_]
    margin = "one margin" if column.scope == ALL else margin_words(column.margin)
    if any(count is None for count in needed):
        if not column.pairs.patients:
            return None, f"No number of {unit} up to {all_pairs.MOST_SEEDS:,} finds a difference of {margin} reliably."
        text = f"More {unit} alone will not find a difference of {margin} reliably: that takes more test patients."
        return None, text
    total = max(max(count or 0 for count in needed), column.pairs.seeds)
    if total <= column.pairs.seeds:
        return None, f"A difference of {margin} would have been found in four of five cases or more."
    return total, (
        f"{total} {unit} in total, all run before the next look, would find a difference of {margin} in four of five "
        "cases or more."
    )


def _hardest(column: Column, open_: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Takes the pairs that vary most over seeds or over patients: none of the others varies more in both."""
    found: list[tuple[int, int]] = []
    most = -1.0
    for place in sorted(open_, key=lambda place: -column.pairs.seed_error[place]):
        if column.pairs.patient_error[place] > most:
            found.append(place)
            most = float(column.pairs.patient_error[place])
    return found


def _within(column: Column, row: int, other: int) -> bool:
    contrast: Contrast = column.contrast(column.inits[row], column.inits[other])
    return contrast.within


def _on_what(column: Column, row: Row) -> str:
    """Says what an answer rests on, and what else could change it.

    Splits with one test for all share most of their training images: with 40 of those and 1,000 test images, equals
    are told apart in .09 to .17 of simulations, with 400 in .05. With test drawn anew it is .02 to .06.
    """
    patients = column.pairs.patients
    tested = f" and {patients:,} test patients" if patients else ""
    if row.printed:
        runs = f"{column.pairs.seeds} runs or more each, taken as independent"
        return f"This rests on printed means of {runs}; other test patients may say otherwise."
    if column.unit != "split":
        alone = "" if patients else "; other test patients may say otherwise"
        return f"This rests on {column.pairs.seeds} {plural(column.unit)}{tested}, for these training images{alone}."
    count = f"{column.pairs.seeds} drawn splits of these images"
    seeds = f"{row.each} seed{'s' if row.each > 1 else ''} each"
    if row.redrawn:
        return f"This rests on {count} into train, val and test, {seeds}."
    others = "training images" if patients else "training images or test patients"
    tested = f",{tested}" if tested else ""
    return f"This rests on {count} into train and val, {seeds}{tested}; other {others} may say otherwise."
