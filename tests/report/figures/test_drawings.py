from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from medtransfer import params
from medtransfer.comparison import claims, findings, published_form
from medtransfer.comparison.wording import points
from medtransfer.report.figures import bars, cost, curves, drawings, style
from medtransfer.report.figures import names as words
from medtransfer.statistics import t_tests
from tests.support import results

ROOT = Path(__file__).parents[3]
BASE = params.load(ROOT / "params.yaml")
ON = "@resnet50"
RANDOM, IMAGENET, SWAV, INAT = (f"{name}{ON}" for name in ("random", "imagenet", "swav", "inat2021"))
FURTHER = f"{IMAGENET}+chestxray14"
SYNTHETIC = "Synthetic phantoms: says nothing about weights"
SEVEN = ("chestxray14", "chexpert", "shenzhen", "rsna_pe", "siim", "montgomery", "drive")
SSL = (
    "swav", "moco-v2", "simclr-v1", "byol", "barlow-twins", "deepcluster-v2", "pirl", "infomin", "pcl-v1", "sela-v2",
)  # fmt: skip
TWENTY = {
    RANDOM: -0.5, IMAGENET: 0.0, INAT: 0.1, FURTHER: 0.3, f"{RANDOM}+chexpert": 0.1,
    f"imagenet+chestxray14-published{ON}": 0.28, f"imagenet+chexpert-published{ON}": 0.2, f"inat2021-mini{ON}": -0.1,
    "timm:resnet50.a1_in1k": 0.08, f"file:/home/someone/a long folder/and a long name.pth{ON}": 0.01,
    **{f"{name}{ON}": 0.02 * number for number, name in enumerate(SSL)},
}  # fmt: skip


def find(
    folder: Path, effects: Mapping[str, float], tasks: tuple[str, ...], seeds: int, as_published: bool = False,
    **changes: Any,
) -> findings.Findings:  # fmt: skip
    """Compares what is in the folder, with runs written into it first where it is empty."""
    if not folder.exists():
        results.write(folder, effects, tasks, range(seeds), **{"cases": 80, **changes})
    benchmark = params.Benchmark(inits=tuple(effects), tasks=tasks, recipes=("fixed",), seeds=tuple(range(seeds)))
    settings = dataclasses.replace(
        BASE, comparison=dataclasses.replace(BASE.comparison, resamples=0, as_published=as_published)
    )
    return findings.find(folder, benchmark, settings, ROOT, IMAGENET)


def edit(folder: Path, **changes: Any) -> None:
    """Changes fields of every cell below a folder."""
    for path in folder.rglob("cell.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def remove(folder: Path, **which: Any) -> None:
    """Removes the runs whose fields have these values."""
    for path in list(folder.rglob("cell.json")):
        cell = json.loads(path.read_text())
        if all(cell[name] == value for name, value in which.items()):
            shutil.rmtree(path.parent)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> findings.Findings:
    effects = {RANDOM: -0.6, IMAGENET: 0.0, SWAV: 0.0, INAT: 0.6}
    folder = tmp_path_factory.mktemp("small") / "cells"
    return find(folder, effects, ("chestxray14", "montgomery"), 3, seed_std=0.01, alike={SWAV: IMAGENET})


@pytest.fixture(scope="module")
def drawn(small: findings.Findings) -> dict[str, Figure]:
    return drawings.drawings(small)


@pytest.fixture(scope="module")
def again(small: findings.Findings) -> dict[str, Figure]:
    return drawings.drawings(small)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[findings.Findings, dict[str, Figure]]:
    folder = tmp_path_factory.mktemp("large") / "cells"
    found = find(folder, TWENTY, SEVEN, 2, cases=60, seed_std=0.2, margin=0.2, as_published=True)
    return found, drawings.drawings(found)


def texts(picture: Figure) -> list[str]:
    return [text.get_text() for text in shown(picture)]


def shown(picture: Figure) -> list[Text]:
    """Lists the texts that a reader sees; ticks outside of the axis are not drawn."""
    outside = {id(text) for panel in picture.axes for text in _ticks_outside(panel)}
    found = picture.findobj(Text)
    return [t for t in found if isinstance(t, Text) and t.get_text() and t.get_visible() and id(t) not in outside]


def _ticks_outside(panel: Axes) -> Iterator[Text]:
    for axis, limits in ((panel.xaxis, panel.get_xlim()), (panel.yaxis, panel.get_ylim())):
        low, high = sorted(limits)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not panel.axison or not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                yield from (tick.label1, tick.label2)


def boxes(picture: Figure) -> list[tuple[str, Bbox]]:
    picture.draw_without_rendering()  # a legend's texts find their places when it is drawn
    # Text alone: the box of an annotation holds its line too.
    return [(text.get_text(), Text.get_window_extent(text)) for text in shown(picture)]


def faults(picture: Figure) -> list[str]:
    """Names texts that leave the figure and pairs that share more than a pixel in both directions."""
    named = boxes(picture)
    names, places = [name for name, _ in named], np.array([box.extents for _, box in named])
    low, high = places[:, :2], places[:, 2:]
    outside = (low < -1).any(axis=1) | (high > np.array(picture.bbox.size) + 1).any(axis=1)
    shared = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    pairs = np.argwhere(np.triu((shared > 1).all(axis=2), 1))
    return [names[k] for k in np.flatnonzero(outside)] + [f"{names[a]} | {names[b]}" for a, b in pairs]


def test_the_order_and_the_names_of_the_figures(drawn: dict[str, Figure]) -> None:
    assert list(drawn) == [
        "answer", "scores", "forest-chestxray14", "forest-montgomery", "ranks", "bars-chestxray14",
        "bars-montgomery", "pairs", "curves", "cost", "labels-chestxray14", "reliability", "net-benefit",
        "claims", "segmentation-classification",
    ]  # fmt: skip


def test_marks_stand_once_in_the_corner_of_every_figure_and_no_text_is_smaller_than_seven_points(
    drawn: dict[str, Figure],
) -> None:
    for slug, picture in drawn.items():
        assert [text for text in texts(picture) if "ynthetic" in text] == [SYNTHETIC], slug
        assert min(float(text.get_fontsize()) for text in shown(picture)) >= 7, slug


@pytest.mark.parametrize("slug", ["scores", "forest-montgomery", "pairs", "cost", "labels-chestxray14"])
def test_equal_findings_give_equal_bytes(drawn: dict[str, Figure], again: dict[str, Figure], slug: str) -> None:
    png, svg = drawings.to_png(drawn[slug]), drawings.to_svg(drawn[slug])
    assert png.startswith(b"\x89PNG")
    assert svg.startswith(b"<?xml")
    assert (png, svg) == (drawings.to_png(again[slug]), drawings.to_svg(again[slug]))


def test_a_figure_can_be_written_twice(drawn: dict[str, Figure]) -> None:
    picture = drawn["segmentation-classification"]
    assert drawings.to_png(picture) == drawings.to_png(picture)
    assert drawings.to_svg(picture) == drawings.to_svg(picture)


def test_svg_has_its_text_as_text_and_no_date(drawn: dict[str, Figure]) -> None:
    svg = drawings.to_svg(drawn["scores"]).decode()
    words_ = {element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {"inat2021", "none shown to be better"} <= words_
    assert not re.search(r"20\d\d-\d\d-\d\d", svg)


def test_every_figure_has_a_caption_with_n(small: findings.Findings, drawn: dict[str, Figure]) -> None:
    for slug in drawn:
        text = drawings.caption(slug, small)
        assert text.endswith("."), slug
        if slug not in ("ranks", "claims"):
            assert "n = 3" in text, slug
    assert "pooled t-test" in drawings.caption("bars-montgomery", small)
    assert "no other was shown to be better (all pairs" in drawings.caption("scores", small)
    assert "All comparisons of the page hold at once (Bonferroni, 0.03)" in drawings.caption("forest-montgomery", small)
    assert "Over seeds and patients." in drawings.caption("forest-montgomery", small)
    assert "2 of the 5 complete groups" in drawings.caption("ranks", small)
    assert "cut" in drawings.caption("bars-montgomery", small)


def test_scores_has_a_panel_per_task_and_a_row_per_init(drawn: dict[str, Figure]) -> None:
    panels = drawn["scores"].axes
    assert [panel.get_title() for panel in panels] == ["chestxray14: AUC", "montgomery: Dice"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["random", "imagenet", "swav", "inat2021"]
    assert "backbone resnet50" in drawn["scores"].get_suptitle()
    dots = [line for line in panels[0].lines if np.size(line.get_xdata()) == 3]
    assert len(dots) == 4


def test_a_forest_is_sorted_by_estimate_and_says_what_each_contrast_shows(
    small: findings.Findings, drawn: dict[str, Figure]
) -> None:
    panel = drawn["forest-montgomery"].axes[0]
    contrasts = sorted(small.against_reference("montgomery"), key=lambda c: -c.estimate)
    assert [label.get_text() for label in panel.get_yticklabels()] == ["inat2021", "swav", "random"]
    assert [text.get_text() for text in panel.texts] == [contrast.word for contrast in contrasts]
    assert contrasts[0].better
    assert contrasts[2].worse


def test_a_forest_shows_the_margin_the_estimate_and_both_intervals_in_points(
    small: findings.Findings, drawn: dict[str, Figure]
) -> None:
    panel = drawn["forest-montgomery"].axes[0]
    contrast = next(c for c in small.against_reference("montgomery") if c.init == INAT)
    band = panel.patches[0].get_extents().transformed(panel.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((-0.5, 0.5))
    own = [np.ravel(line.get_xdata()) for line in panel.lines if np.all(np.asarray(line.get_ydata()) == 0)]
    for expected in ((contrast.low, contrast.high), (contrast.equal_low, contrast.equal_high), (contrast.estimate,)):
        ends = [100 * (value or 0.0) for value in expected]
        assert any(len(line) == len(ends) and line == pytest.approx(ends) for line in own)


def test_bars_mark_what_is_worse_in_brackets(small: findings.Findings, drawn: dict[str, Figure]) -> None:
    panel = drawn["bars-montgomery"].axes[0]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["random", "swav", "inat2021"]
    marks = [text.get_text() for text in panel.texts]
    assert marks[1] == "n.s."
    assert re.fullmatch(r"\(\*+\)", marks[0])
    assert re.fullmatch(r"\*+", marks[2])
    base, row = (r for r in small.of_task("montgomery") if r.init in (IMAGENET, INAT))
    p = published_form.test_rows(row, base, small.settings).p
    assert p is not None
    assert len(marks[2]) == (p < 0.05) + (p < 0.01) + (p < 0.001)


def test_bars_begin_above_zero_and_hold_all_whiskers(small: findings.Findings, drawn: dict[str, Figure]) -> None:
    low, high = drawn["bars-montgomery"].axes[0].get_ylim()
    for row in small.of_task("montgomery"):
        assert row.summary is not None
        assert 0 < low < 100 * (row.summary.mean - (row.summary.std or 0))
        assert high > 100 * (row.summary.mean + (row.summary.std or 0))


def test_pairs_show_random_the_reference_and_other_supervised_weights_alone(drawn: dict[str, Figure]) -> None:
    picture = drawn["pairs"]
    assert [text.get_text() for text in picture.legends[0].get_texts()] == ["random", "imagenet", "inat2021"]
    for panel in picture.axes:
        assert len(panel.patches) == 3
        assert len({(patch.get_facecolor(), patch.get_hatch()) for patch in panel.patches}) == 3
        assert [text.get_text()[0] for text in panel.texts] == ["p", "p"]


def test_pairs_are_left_out_without_other_supervised_weights(tmp_path: Path) -> None:
    found = find(tmp_path / "cells", {RANDOM: -0.4, IMAGENET: 0.0, SWAV: 0.1}, ("montgomery",), 2)
    assert list(drawings.drawings(found)) == [
        "answer", "scores", "forest-montgomery", "bars-montgomery", "curves", "cost", "claims",
    ]  # fmt: skip


@pytest.mark.slow
def test_curves_have_a_thin_line_per_run_up_to_four_inits(
    drawn: dict[str, Figure], large: tuple[findings.Findings, dict[str, Figure]]
) -> None:
    panel = drawn["curves"].axes[0]
    assert sorted(line.get_linewidth() for line in panel.lines) == [0.5] * 12 + [1.5] * 4
    assert {np.size(line.get_xdata()) for line in panel.lines} == {results.EPOCHS}
    lines = large[1]["curves"].axes[2].lines
    assert len(lines) == 20
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}) == 20


def test_a_mean_curve_ends_where_the_first_run_does(small: findings.Findings) -> None:
    place = next(k for k, cell in enumerate(small.results) if (cell.task, cell.init) == ("montgomery", INAT))
    cells = list(small.results)
    cells[place] = dataclasses.replace(cells[place], history=cells[place].history[:3])
    picture = curves.draw(dataclasses.replace(small, results=tuple(cells)))
    assert picture is not None
    mean = next(
        line for line in picture.axes[1].lines if line.get_linewidth() == 1.5 and np.size(line.get_ydata()) == 3
    )
    runs = [cell.history for cell in cells if (cell.task, cell.init) == ("montgomery", INAT)]
    expected = [100 * np.mean([history[epoch]["val_dice"] for history in runs]) for epoch in range(3)]
    np.testing.assert_allclose(np.asarray(mean.get_ydata()), expected)


@pytest.mark.parametrize(("gpu", "expected"), [(0.0, 20.0), (80.0, 40.0)])
def test_time_until_val_is_close_to_its_best(small: findings.Findings, gpu: float, expected: float) -> None:
    history = tuple({"val_dice": score} for score in (0.5, 0.76, 0.8, 0.7))  # 0.76 is 95 % of 0.8: epoch 2 of 4
    cell = dataclasses.replace(
        next(cell for cell in small.results if cell.metric == "dice"),
        history=history,
        cost={"seconds": 40.0, "gpu_seconds": gpu},
    )
    assert cost.seconds(cell) == pytest.approx(expected)
    assert cost.seconds(dataclasses.replace(cell, history=({"val_loss": 1.0},))) is None


def test_cost_says_which_time_it_is_and_on_which_device(drawn: dict[str, Figure]) -> None:
    panel = drawn["cost"].axes[0]
    assert panel.get_xlabel() == "GPU seconds (cpu)"
    assert sorted(text.get_text() for text in panel.texts) == ["imagenet", "inat2021", "random", "swav"]


def test_the_best_of_each_label_is_bold(small: findings.Findings, drawn: dict[str, Figure]) -> None:
    panel = drawn["labels-chestxray14"].axes[0]
    assert len(panel.get_xticklabels()) == 14
    assert len(panel.texts) == 4 * 14
    runs = [cell for cell in small.results if cell.task == "chestxray14"]
    means = {
        init: np.mean([cell.scores["test_auc.Hernia"] for cell in runs if cell.init == init])
        for init in small.benchmark.inits
    }
    column = {text.get_position()[1]: text for text in panel.texts if text.get_position()[0] == 13}
    for place, mean in enumerate(means.values()):
        assert column[place].get_text() == f"{100 * mean:.1f}"
        assert (column[place].get_fontweight() == "bold") == (mean == max(means.values()))


@pytest.mark.slow
def test_labels_that_do_not_count_stand_in_brackets(large: tuple[findings.Findings, dict[str, Figure]]) -> None:
    labels = [label.get_text() for label in large[1]["labels-chexpert"].axes[0].get_xticklabels()]
    assert labels[:5] == ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]
    assert all(label.startswith("(") for label in labels[5:])
    assert "in brackets" in drawings.caption("labels-chexpert", large[0])


def test_claims_have_a_row_per_part_and_body_of_evidence(small: findings.Findings, drawn: dict[str, Figure]) -> None:
    for panel, (name, verdicts) in zip(drawn["claims"].axes, small.claims.items(), strict=True):
        parts = [part for verdict in verdicts for part in verdict.parts]
        assert panel.get_title(loc="left").startswith(name)
        beside = [text.get_text().replace("\n", " ").split(",")[0] for text in panel.texts]
        assert beside == [claims.said(part.verdict, verdict.paper) for verdict in verdicts for part in verdict.parts]
        hollow = sum(line.get_markerfacecolor() == "white" for line in panel.lines)
        assert hollow == sum(part.digitised for part in parts)


def test_kinds_have_a_point_per_init_but_the_reference(small: findings.Findings, drawn: dict[str, Figure]) -> None:
    panel = drawn["segmentation-classification"].axes[0]
    assert sorted(text.get_text() for text in panel.texts) == ["inat2021", "random", "swav"]
    score = {(row.task, row.init): row.summary.mean for row in small.rows if row.summary is not None}
    expected = [100 * (score[task, RANDOM] - score[task, IMAGENET]) for task in ("chestxray14", "montgomery")]
    assert np.ravel(panel.lines[0].get_xydata()) == pytest.approx(expected)


def test_ranks_without_a_test_say_so_and_show_their_spread(drawn: dict[str, Figure]) -> None:
    picture = drawn["ranks"]
    assert "no test: 2 of the 5 complete groups" in picture.get_suptitle().replace("\n", " ")
    assert "spread over seeds of these tasks" in picture.axes[0].get_xlabel()
    assert picture.axes[0].get_yticklabels()[0].get_text() == "inat2021"


@pytest.mark.slow
def test_ranks_with_a_test_are_a_critical_difference_diagram(
    large: tuple[findings.Findings, dict[str, Figure]],
) -> None:
    found, drawn = large
    panel = drawn["ranks"].axes[0]
    critical = found.nemenyi.critical_difference
    assert critical is not None
    assert any(f"critical difference {critical:.2f}" in text.get_text() for text in panel.texts)
    cliques = [line for line in panel.lines if line.get_linewidth() == 3]
    assert len(cliques) == len(found.nemenyi.cliques or ())
    names = [text.get_text() for text in panel.texts]
    assert all(any(label in name for name in names) for label in words.names(found.benchmark.inits).values())


@pytest.fixture(scope="module")
def holes(tmp_path_factory: pytest.TempPathFactory) -> tuple[findings.Findings, dict[str, Figure]]:
    """Runs that are missing, undefined, not applicable or contaminated, and a task without the reference."""
    folder = tmp_path_factory.mktemp("holes") / "cells"
    effects, tasks = (
        {RANDOM: -0.4, IMAGENET: 0.0, SWAV: 0.1, FURTHER: 0.3},
        ("chestxray14", "shenzhen", "drive", "siim"),
    )
    results.write(folder, effects, tasks, range(3), cases=60)
    remove(folder, task="chestxray14", init=FURTHER)
    remove(folder, task="shenzhen", init=SWAV, seed=1)
    remove(folder, task="drive", init=IMAGENET)
    edit(folder / "siim", marks=["synthetic", "contaminated"])  # whole task: shown, compared with nothing
    for path in (folder / "drive").rglob("cell.json"):
        cell = json.loads(path.read_text())
        if cell["init"] == SWAV:
            path.write_text(json.dumps(cell | {"scores": {}, "history": []}))
    found = find(folder, effects, tasks, 3)
    return found, drawings.drawings(found)


@pytest.mark.slow
def test_what_has_no_mean_is_said_in_words(holes: tuple[findings.Findings, dict[str, Figure]]) -> None:
    said = texts(holes[1]["scores"])
    for words_ in ("not applicable", "2 of 3 runs", "undefined", "no runs"):
        assert said.count(words_) == 1


@pytest.mark.slow
def test_figures_against_the_reference_are_left_out_where_it_has_no_runs(
    holes: tuple[findings.Findings, dict[str, Figure]],
) -> None:
    found, drawn = holes
    assert {"forest-shenzhen", "bars-shenzhen"} <= set(drawn)
    assert not {"forest-siim", "bars-siim", "forest-drive", "bars-drive", "pairs"} & set(drawn)
    assert "swav" not in texts(drawn["bars-shenzhen"])
    for slug, picture in drawn.items():
        assert drawings.to_png(picture), slug
        assert drawings.caption(slug, found), slug
    assert f"{SYNTHETIC}; Contaminated" in texts(drawn["scores"])
    assert SYNTHETIC in texts(drawn["bars-shenzhen"])
    titles = [panel.get_title() for panel in drawn["scores"].axes]  # what holds for some tasks stands with them
    assert [title.partition("(")[2] for title in titles] == ["", "", "", "contaminated)"]


def test_one_seed_has_no_interval_no_std_and_no_test(tmp_path: Path) -> None:
    found = find(tmp_path / "cells", {RANDOM: -0.4, IMAGENET: 0.0, INAT: 0.3}, ("chestxray14", "montgomery"), 1)
    drawn = drawings.drawings(found)
    assert "forest-montgomery" not in drawn  # nothing can be compared
    assert [text.get_text() for text in drawn["bars-montgomery"].axes[0].texts] == ["no\ntest", "no\ntest"]
    assert "± its std" not in texts(drawn["bars-montgomery"])
    assert "n = 1 seed;" in drawings.caption("bars-montgomery", found)
    assert all(drawings.to_png(picture) for picture in drawn.values())


def test_folds_are_tested_as_folds(small: findings.Findings) -> None:
    rows = tuple(dataclasses.replace(row, unit="fold", redrawn=True, ratio=0.25) for row in small.rows)
    found = dataclasses.replace(small, rows=rows)
    row, base = (r for r in rows if r.task == "montgomery" and r.init in (RANDOM, IMAGENET))
    p = t_tests.corrected_t_test(row.scores, base.scores, ratio=0.25).p
    assert p is not None
    stars = "*" * ((p < 0.05) + (p < 0.01) + (p < 0.001))
    assert bars.mark(row, base, found) == f"({stars})"
    text = drawings.caption("bars-montgomery", found)
    assert "n = 3 folds" in text
    assert "corrected resampled t-test" in text


def test_a_test_by_signs_that_cannot_reach_alpha_marks_nothing(small: findings.Findings) -> None:
    found = dataclasses.replace(small, settings=dataclasses.replace(small.settings, test="wilcoxon"))
    picture = bars.draw(found, "montgomery")
    assert picture is not None
    assert [text.get_text() for text in picture.axes[0].texts] == ["n.s."] * 3
    assert "Wilcoxon's signed ranks" in drawings.caption("bars-montgomery", found)


@pytest.mark.slow
def test_no_text_overlaps_another_or_leaves_the_figure(
    drawn: dict[str, Figure], large: tuple[findings.Findings, dict[str, Figure]]
) -> None:
    for pictures in (drawn, large[1]):
        assert {slug: found for slug, picture in pictures.items() if (found := faults(picture))} == {}


def test_the_check_of_overlaps_finds_them() -> None:
    picture = Figure()
    for x, words_ in ((0.5, "one"), (0.51, "two"), (0.99, "out of the figure")):
        picture.text(x, 0.5, words_)
    assert faults(picture) == ["out of the figure", "one | two"]


@pytest.mark.parametrize(
    ("places", "gap", "expected"),
    [
        ([], 0.1, []),
        ([0.9, 0.1], 0.1, [0.9, 0.1]),
        ([0.5, 0.5], 0.2, [0.4, 0.6]),
        ([0.0, 0.0, 1.0], 0.1, [0.0, 0.1, 1.0]),
        ([0.5, 0.5, 0.5], 0.6, [-0.1, 0.5, 1.1]),
    ],
)
def test_labels_are_spread_as_little_as_possible(places: list[float], gap: float, expected: list[float]) -> None:
    assert style.spread(places, gap) == pytest.approx(expected)


def test_labels_leave_out_a_common_backbone_and_stay_different() -> None:
    long = [f"file:/data/{'a' * 40}/{name}/weights and more of it.pth{ON}" for name in ("one", "two")]
    assert words.names([RANDOM, FURTHER]) == {RANDOM: "random", FURTHER: "imagenet+chestxray14"}
    assert words.names([RANDOM, "imagenet@resnet18"])[RANDOM] == RANDOM
    assert len(words.names(long[:1])[long[0]]) < words.LONGEST + 1
    assert words.names(long) == {name: name for name in long}


@pytest.mark.parametrize(("p", "text"), [(None, "no test"), (0.00009, "p < 0.0001"), (0.0312, "p = 0.031")])
def test_p_values_in_words(p: float | None, text: str) -> None:
    assert words.p_value(p) == text


def test_the_answer_has_a_panel_for_all_tasks_and_one_for_each(
    small: findings.Findings, drawn: dict[str, Figure]
) -> None:
    panels, labels = drawn["answer"].axes, words.names(small.benchmark.inits)
    assert [panel.get_title() for panel in panels] == ["all tasks", "chestxray14: AUC", "montgomery: Dice"]
    order = sorted(small.against_reference("all tasks"), key=lambda c: -c.estimate)
    shown_ = [label.get_text() for label in panels[0].get_yticklabels()]
    assert [name for name in shown_ if name != "imagenet"] == [labels[c.init] for c in order]
    bold = [label.get_text() for label in panels[0].get_yticklabels() if label.get_fontweight() == "bold"]
    assert set(bold) == {labels[init] for init in small.columns["all tasks"].candidates}
    for panel, scope, scale in zip(panels, ("all tasks", "chestxray14", "montgomery"), (1, 100, 100), strict=True):
        drawn_ = {
            round(float(np.ravel(line.get_xdata())[0]), 9) for line in panel.lines if np.size(line.get_xdata()) == 1
        }
        assert {round(scale * c.estimate, 9) for c in small.against_reference(scope)} <= drawn_


@pytest.fixture(scope="module")
def saturated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Figure]:
    """Scores so near 100 % that whiskers and signs need more room than there are scores."""
    folder = tmp_path_factory.mktemp("saturated") / "cells"
    found = find(folder, {RANDOM: 5.0, IMAGENET: 9.0, INAT: 9.5}, ("shenzhen", "montgomery"), 3)
    return drawings.drawings(found)


@pytest.mark.parametrize(
    ("slug", "direction"),
    [("scores", "x"), ("bars-shenzhen", "y"), ("bars-montgomery", "y"), ("pairs", "y"), ("curves", "y"), ("cost", "y")],
)
def test_an_axis_of_scores_ends_at_100_percent(saturated: dict[str, Figure], slug: str, direction: str) -> None:
    picture = saturated[slug]
    picture.draw_without_rendering()
    beyond = 0
    for panel in picture.axes:
        axis, side = (panel.xaxis, "bottom") if direction == "x" else (panel.yaxis, "left")
        low, high = axis.get_view_interval()
        assert all(place <= 100 + 1e-6 for place in axis.get_majorticklocs() if low <= place <= high)
        if high > 100:
            assert panel.spines[side].get_bounds() == (low, 100)
            beyond += 1
    assert beyond, "nothing reached beyond: the test shows nothing"


def test_legends_explain_only_what_is_drawn(drawn: dict[str, Figure], tmp_path: Path) -> None:
    alike = drawings.drawings(find(tmp_path / "cells", {IMAGENET: 0.0, SWAV: 0.0}, ("montgomery",), 2))
    legend = [text.get_text() for text in alike["scores"].legends[0].get_texts()]
    assert legend == ["none shown to be better", "one run (seed, fold or split)"]
    assert "shown to be worse, or not compared" in texts(drawn["scores"])
    claimed = {text.get_text() for text in drawn["claims"].legends[0].get_texts()}
    claimed = {word for label in claimed for word in label.split("; ")}
    beside = {
        text.get_text().replace("\n", " ").split(",")[0] for panel in drawn["claims"].axes for text in panel.texts
    }
    every = {"supported", "contradicted", "undecided", *claims.PRINTED.values()}
    assert every & claimed == every & beside


def test_values_stand_under_the_pointer(small: findings.Findings, drawn: dict[str, Figure]) -> None:
    svg = drawings.to_svg(drawn["forest-montgomery"]).decode()
    titles = {element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}title")}
    for contrast in small.against_reference("montgomery"):
        name = words.names(small.benchmark.inits)[contrast.init]
        assert any(t and t.startswith(f"{name}: {points(contrast.estimate)}, ") for t in titles), name
