"""What is believed over tasks, on runs whose effects are known."""

from __future__ import annotations

import dataclasses

import pytest
from scipy import stats

from medtransfer.comparison import bayesian, findings, record
from medtransfer.comparison.contrasts import ALL
from medtransfer.report.sections import bayesian as section
from medtransfer.statistics.hierarchical import hierarchical
from tests.comparison.test_findings import IMAGENET, RANDOM, SWAV, compared

EFFECTS = {RANDOM: 0.0, IMAGENET: 0.5, SWAV: 0.5}
TASKS = ("shenzhen", "montgomery", "rsna_pe")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> findings.Findings:
    folder = tmp_path_factory.mktemp("runs")
    one = compared(folder, EFFECTS, tasks=TASKS, seeds=range(3), cases=150, resamples=0)
    settings = dataclasses.replace(one.settings, bayesian=True)
    return findings.compare(one.results, one.rows, one.evidence, one.benchmark, settings, IMAGENET)


def test_errors_are_those_of_the_comparisons_own_intervals(found: findings.Findings) -> None:
    worse = next(one for one in found.bayesian if one.init == RANDOM)
    assert worse.tasks == TASKS
    own = [found.columns[task] for task in TASKS]
    margins = [column.margin or 0.0 for column in own]
    seen = [column.contrast(RANDOM, IMAGENET).estimate / margin for column, margin in zip(own, margins, strict=True)]
    assert worse.seen == pytest.approx(seen)
    place = [(column.inits.index(RANDOM), column.inits.index(IMAGENET)) for column in own]
    errors = [
        column.pairs.reach(0.05)[where] / margin / stats.norm.isf(0.025)
        for column, where, margin in zip(own, place, margins, strict=True)
    ]
    again = hierarchical(seen, errors)
    assert again is not None
    assert worse.found is not None
    assert worse.found.mean.estimate == pytest.approx(again.mean.estimate)
    assert worse.found.of_mean.worse == pytest.approx(again.of_mean.worse)
    assert worse.found.of_mean.worse > 0.8


def test_tasks_of_one_group_are_one_and_one_task_is_not_enough(found: findings.Findings) -> None:
    one = bayesian.believe(found.columns, IMAGENET, lambda task: "lungs" if task != "rsna_pe" else task)[0]
    assert one.tasks == ("shenzhen+montgomery", "rsna_pe")
    assert one.found is not None
    alone = bayesian.believe(found.columns, IMAGENET, lambda task: "lungs")[0]
    assert alone.found is None
    assert alone.note.startswith("1 of the 2 tasks that it needs")


def test_off_by_default_and_nothing_more_is_written(found: findings.Findings) -> None:
    off = dataclasses.replace(found, settings=dataclasses.replace(found.settings, bayesian=False), bayesian=())
    assert section.bayesian(off) == []
    assert "believed" not in record.contrasts(off)[0]
    assert "bayesian" not in record.metrics(off)


def test_the_records_hold_the_numbers_of_the_mean_and_of_each_task(found: findings.Findings) -> None:
    one = next(one for one in found.bayesian if one.init == SWAV)
    assert one.found is not None
    rows = {row["task"]: row for row in record.contrasts(found) if (row["init"], row["against"]) == (SWAV, IMAGENET)}
    assert rows[ALL]["p_equivalent_mean"] == one.found.of_mean.equivalent
    assert rows[ALL]["p_better_next"] == one.found.of_next.better
    assert rows["montgomery"]["believed_low"] == one.found.each[1].low
    assert rows["montgomery"]["p_better_mean"] is None
    assert record.metrics(found)["bayesian"][SWAV]["mean"]["better"] == one.found.of_mean.better


def test_the_section_says_what_is_probable_and_what_the_prior_does(found: findings.Findings) -> None:
    head, tasks = section.bayesian(found)
    assert head.grid is not None
    assert {row[0].text for row in head.grid.rows} == {RANDOM, SWAV}
    one = next(one for one in found.bayesian if one.init == RANDOM)
    assert one.found is not None
    line = next(row for row in head.grid.rows if row[0].text == RANDOM)
    assert line[5].text == section._chance(one.found.of_mean.worse)
    half, twice = one.found.other
    assert line[9].text == f"{section._chance(half[1].better)} to {section._chance(twice[1].better)}"
    words = {init for inits in section.sure(list(found.bayesian)).values() for init in inits}
    assert ("random" in head.notes[0].split("Open")[0]) == (RANDOM in words)
    assert "standard deviation 10 margins" in head.notes[2]
    moved = max(
        abs(getattr(other[0], word) - getattr(one.found.of_mean, word))
        for one in found.bayesian
        if one.found
        for other in one.found.other
        for word in ("better", "equivalent", "worse")
    )
    assert head.notes[2].endswith(f"none moves by more than {moved:.2f}.")
    assert tasks.grid is not None
    assert tasks.grid.header == ("init", *TASKS)
