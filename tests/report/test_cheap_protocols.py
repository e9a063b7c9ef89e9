"""What the report says of fewer labels, convergence and protocols; and what it leaves out where there is none."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path

import pytest

from medtransfer import params
from medtransfer.comparison import findings, record
from medtransfer.comparison.agreements import Agreed
from medtransfer.comparison.findings import Findings
from medtransfer.report import write as report
from medtransfer.report.figures import drawings, label_curves
from medtransfer.report.sections import convergence, fewer_labels, protocols
from medtransfer.report.sections.order import sections_of
from medtransfer.statistics.agreement import Agreement
from medtransfer.statistics.convergence import Times
from tests.report.figures.test_drawings import faults, shown, texts
from tests.support import results

ROOT = Path(__file__).parents[2]
BASE = params.load(ROOT / "params.yaml")
RANDOM, IMAGENET, SWAV = "random@resnet50", "imagenet@resnet50", "swav@resnet50"
EFFECTS = {RANDOM: -0.8, IMAGENET: 0.0, SWAV: 0.3}
FRACTIONS = ("0.02", "0.05", "0.1", "0.25", "1")
TASKS = ("shenzhen", "montgomery")
SEEDS = (0, 1, 2)


def compared(folder: Path, **changes: object) -> Findings:
    known: dict[str, object] = {"protocols": ("finetune", "linear"), "fractions": FRACTIONS, "seeds": SEEDS}
    benchmark = params.Benchmark(inits=tuple(EFFECTS), tasks=TASKS, recipes=("fixed",), **known | changes)  # type: ignore[arg-type]  # a plain dict of fields, checked when it is built
    settings = dataclasses.replace(
        BASE, benchmark=benchmark, comparison=dataclasses.replace(BASE.comparison, resamples=0)
    )
    return findings.find(folder, benchmark, settings, ROOT, IMAGENET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("curves") / "cells"
    levels = {"finetune": 0.0, "linear": -0.3}
    results.write_curves(path, EFFECTS, TASKS, SEEDS, levels, FRACTIONS, cases=120, seed_std=0.02)
    return path


@pytest.fixture(scope="module")
def found(folder: Path) -> Findings:
    return compared(folder)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Findings:
    return compared(folder, protocols=("finetune",), fractions=("1",))


def test_sections_stand_in_their_order_only_where_there_is_something(found: Findings, plain: Findings) -> None:
    titles = [section.title for section in sections_of(found, BASE)]
    own = [title for title in titles if re.search("labels$|Convergence|Protocols|fine-tuning", title)]
    assert own == [
        "Fewer labels", "shenzhen: AUC (synthetic) by labels", "montgomery: Dice (synthetic) by labels", "Convergence",
        "Protocols", "Agreement with fine-tuning",
    ]  # fmt: skip
    titles = [section.title for section in sections_of(plain, BASE)]
    assert "Convergence" in titles
    assert not {"Fewer labels", "Protocols", "Agreement with fine-tuning"} & set(titles)
    assert label_curves.draw(plain) is None


def test_the_table_holds_every_score_and_the_labels_at_equal_score(found: Findings) -> None:
    _, _, section = fewer_labels.fewer_labels(found)
    assert section.grid is not None
    assert section.grid.header == (
        "init", "protocol", "labels at equal score", "12 labels (2 %)", "30 labels (5 %)", "60 labels (10 %)",
        "150 labels (25 %)", "600 labels (all)",
    )  # fmt: skip
    rows = {(row[0].text, row[1].text): [entry.text for entry in row[2:]] for row in section.grid.rows}
    assert len(rows) == 6
    assert rows[IMAGENET, "linear"][0] == "reference"
    assert rows[RANDOM, "finetune"][0] == "more than 600"
    points = [p for p in found.points if (p.task, p.init, p.protocol) == ("montgomery", SWAV, "linear")]
    assert rows[SWAV, "linear"][1:] == [
        f"{100 * p.mean:.2f} ({100 * (p.low or 0):.2f} to {100 * (p.high or 0):.2f})" for p in points
    ]
    saved = next(
        one.found for one in found.savings if (one.task, one.init, one.protocol) == ("montgomery", SWAV, "linear")
    )
    assert saved.equal is not None
    assert rows[SWAV, "linear"][0].startswith(f"{saved.equal:,.0f} (")


def test_every_saving_has_its_sentence(found: Findings) -> None:
    _, _, section = fewer_labels.fewer_labels(found)
    assert len(section.notes) == 4
    assert section.bullets
    assert section.notes[0] == (
        "random, finetune: did not reach the reference's score of 600 labels with all 600 labels."
    )
    assert re.match(
        r"swav, linear: reaches the reference's score of 600 labels with about \d+ labels", section.notes[3]
    )


def test_many_sentences_are_cut_to_those_that_show_something(found: Findings) -> None:
    many = tuple(dataclasses.replace(one, protocol=f"{one.protocol}{k}") for k in range(10) for one in found.savings)
    _, section, _ = fewer_labels.fewer_labels(dataclasses.replace(found, savings=many))
    assert len(section.notes) == fewer_labels.MOST + 1
    assert section.notes[-1] == f"The other {len(many) // 2 - fewer_labels.MOST} are in the table."


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"equal": 141.4, "equal_low": 100.0, "equal_high": 190.0, "outcome": "reached"}, "141 (100 to 190)"),
        ({"equal": 141.4, "equal_high": 190.0, "outcome": "reached"}, "141 (at most 190)"),
        ({"equal": 141.4, "equal_low": 100.0, "outcome": "reached"}, "141 (at least 100)"),
        ({"equal": 141.4, "outcome": "reached"}, "not known"),
        ({"equal_high": 20.0, "outcome": "at the fewest"}, "at most 20"),
        ({"equal_high": 33.0, "outcome": "at the fewest"}, "below 20 (at most 33)"),
        ({"equal_low": 400.0, "outcome": "not reached"}, "more than 400"),
        ({"equal_low": 250.0, "outcome": "not reached"}, "above 400 (at least 250)"),
    ],
)
def test_a_cell_says_no_more_than_its_interval(found: Findings, changes: dict[str, object], words: str) -> None:
    base = dict.fromkeys(("equal", "equal_low", "equal_high")) | {"fewest": 20.0, "most": 400.0, "labels": 400.0}
    one = dataclasses.replace(found.savings[0].found, **base | changes)  # type: ignore[arg-type]  # a plain dict of fields, checked when it is built
    assert fewer_labels.equal(one) == words
    assert ("do not say" in one.sentence) == (words == "not known")


def test_the_notes_say_test_n_ddof_and_that_nothing_is_corrected(found: Findings) -> None:
    sections = [*fewer_labels.fewer_labels(found)[:1], convergence.convergence(found), *protocols.protocols(found)]
    for section in sections:
        assert section is not None
        text = " ".join(section.notes)
        assert "not corrected" in text
        assert "95 %" in text
    assert "n = 3 seeds, ddof 1" in " ".join(fewer_labels.fewer_labels(found)[0].notes)
    assert "paired difference over 3 seeds and 120 patients" in " ".join(fewer_labels.fewer_labels(found)[0].notes)
    assert "val, which chooses epoch and strength, shrinks" in fewer_labels.fewer_labels(found)[0].notes[0]
    benchmark = dataclasses.replace(found.benchmark, fractions_of="train")
    whole = fewer_labels.fewer_labels(dataclasses.replace(found, benchmark=benchmark))[0]
    assert "stays whole" in whole.notes[0]


def test_convergence_says_what_is_known_by_a_bound_alone(found: Findings) -> None:
    section = convergence.convergence(found)
    assert section is not None
    assert section.grid is not None
    rows = {(row[0].text, row[1].text): [entry.text for entry in row[2:]] for row in section.grid.rows}
    late = rows["montgomery", RANDOM]
    assert late[:3] == ["0 of 3", "at least 8.00", "at least 1,000"]
    assert re.fullmatch(r"at least \d\.\d\d \(from \d\.\d\d\)", late[4])
    assert rows["montgomery", IMAGENET][4:] == ["reference", "reference"]
    assert re.fullmatch(r"0\.\d\d \(0\.\d\d to \d\.\d\d\)", rows["montgomery", SWAV][4])
    assert any(note.startswith("At least: a run never") for note in section.notes)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (Times(estimate=2, level=0.95, seeds=3, low=1, high=3), "2.00 (1.00 to 3.00)"),
        (Times(estimate=2, level=0.95, seeds=3, late=1, low=1), "at least 2.00 (from 1.00)"),
        (Times(estimate=2, level=0.95, seeds=3, early=3, high=3), "at most 2.00 (to 3.00)"),
        (Times(estimate=2, level=0.95, seeds=3, early=1, late=1), "not known"),
        (Times(estimate=2, level=0.95, seeds=1), "2.00"),
        (None, "-"),
    ],
)
def test_a_time_is_written_with_the_ends_that_it_has(times: Times | None, words: str) -> None:
    assert convergence.words(times, ".2f") == words


def test_protocols_stand_side_by_side_with_their_agreement(found: Findings) -> None:
    head, agreed = protocols.protocols(found)
    assert head.grid is not None
    assert agreed.grid is not None
    assert head.grid.header == ("task", "init", "finetune", "linear")
    assert len(head.grid.rows) == 6
    assert [row[0].text for row in agreed.grid.rows] == ["shenzhen", "montgomery", "all tasks"]
    assert agreed.grid.rows[1][3].text == "1.00"
    first, second, *_ = found.agreements
    short = dataclasses.replace(first.found, tau=None, low=None, high=None, ceiling=None, note="too few")
    two = dataclasses.replace(found, agreements=(dataclasses.replace(first, found=short), second))
    assert protocols.protocols(two)[1].notes[-1] == "shenzhen, linear: no tau, too few."


def test_one_init_has_no_saving_and_no_ranking(found: Findings) -> None:
    points = tuple(point for point in found.points if point.init == IMAGENET)
    alone = dataclasses.replace(found, points=points, savings=(), times=())
    short = Agreement(inits=1, level=0.95, draws=10, note="1 initialization, and a ranking needs 3")
    agreed = Agreed(task="shenzhen", protocol="linear", inits=(IMAGENET,), found=short)
    alone = dataclasses.replace(alone, agreements=(agreed,))
    head, section, _ = fewer_labels.fewer_labels(alone)
    assert section.grid is not None
    assert "labels at equal score" not in section.grid.header
    assert len(head.notes) == 1
    (whole,) = protocols.protocols(alone)
    assert whole.notes[-1] == "shenzhen, linear: no tau, 1 initialization, and a ranking needs 3."
    assert convergence.convergence(alone) is None


def test_the_figure_has_a_panel_per_task_and_protocol_and_a_curve_per_init(found: Findings) -> None:
    picture = drawings.drawings(found)["label-curves"]
    titles = [panel.get_title() for panel in picture.axes]
    assert titles == [
        "shenzhen: AUC, finetune",
        "shenzhen: AUC, linear",
        "montgomery: Dice, finetune",
        "montgomery: Dice, linear",
    ]
    panel = picture.axes[0]
    curves = [line for line in panel.lines if len(line.get_xdata()) == len(FRACTIONS)]  # type: ignore[arg-type]  # the stub of get_xdata has scalars, too
    bars = [line for line in panel.lines if len(line.get_xdata()) == 2]  # type: ignore[arg-type]  # the stub of get_xdata has scalars, too
    assert (len(curves), len(bars)) == (3, 15)
    assert panel.get_xscale() == "log"
    assert picture.axes[0].get_ylim() == picture.axes[1].get_ylim() != picture.axes[2].get_ylim()
    assert [text.get_text() for text in picture.legends[0].get_texts()] == ["random", "imagenet", "swav"]
    assert "600" in texts(picture)
    assert faults(picture) == []
    assert min(float(text.get_fontsize()) for text in shown(picture)) >= 7
    caption = drawings.caption("label-curves", found)
    assert "n = 3 seeds; bar: 95 % interval over seeds and test patients" in caption
    assert "sideways" in caption
    bare = tuple(dataclasses.replace(point, low=None, high=None) for point in found.points)
    caption = drawings.caption("label-curves", dataclasses.replace(found, points=bare))
    assert "n = 3 seeds; no interval." in caption
    assert "sideways" not in caption


def test_numbers_below_the_axis_have_room() -> None:
    assert label_curves.ticks([10, 11, 100, 1000]) == [10, 100, 1000]
    assert label_curves.ticks([20, 50, 100, 250, 1000]) == [20, 50, 100, 250, 1000]


def test_runs_csv_says_protocol_and_fraction_of_every_run(found: Findings) -> None:
    rows = [row for row in record.runs((*found.results, *found.beside)) if row["metric"] == "test_dice"]
    keys = {(row["init"], row["seed"], row["protocol"], row["fraction"], row["train_images"]) for row in rows}
    assert len(keys) == len(rows) == 3 * 3 * 2 * 5
    assert (SWAV, 1, "linear", "0.05", 30) in keys


@pytest.mark.slow
def test_the_page_holds_it_all(found: Findings, folder: Path, tmp_path: Path) -> None:
    report.write(found, BASE, folder, tmp_path)
    page = (tmp_path / "report/index.html").read_text()
    for slug in ("fewer-labels", "fewer-labels-montgomery", "convergence", "protocols", "agreement"):
        assert f'id="{slug}"' in page
    assert (tmp_path / "report/figures/label-curves.png").is_file()
    with (tmp_path / "report/tables/fewer-labels-shenzhen.csv").open() as stream:
        assert len(list(csv.reader(stream))) == 7
