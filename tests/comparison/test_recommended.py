from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtransfer.comparison import prior, recommended, selection
from medtransfer.comparison.recommended import sentences
from medtransfer.report import pages
from medtransfer.report import recommendation as page
from medtransfer.results.recommendation import Candidate, OnTest, Point, Recommendation, Stage, Status
from tests.support import results

NAMES = ("swav@resnet50", "dino@resnet50", "imagenet@resnet50", "byol@resnet50", "mae@hiera_base_224")


def made(**changes: Any) -> Recommendation:
    statuses: tuple[Status, ...] = ("pick", "racing", "dropped", "stopped", "left out")
    candidates = tuple(
        Candidate(init=init, status=status, val=0.9 - k / 10, seeds=3, epochs=4, parameters=23_500_000, scores={})
        for k, (init, status) in enumerate(zip(NAMES, statuses, strict=True))
    )
    points = tuple(
        Point(
            minutes=minutes, init=init, score=0.5 + minutes / 100 - k / 10, low=-0.1, high=0.1, epochs=4, seeds=3,
            status="races",
        )
        for minutes in (5.0, 12.0)
        for k, init in enumerate(NAMES[:3])
    )  # fmt: skip
    base: dict[str, Any] = {
        "digest": "d" * 32, "task": "shenzhen", "metric": "auc", "margin": 0.01, "reference": NAMES[2],
        "minutes": 60.0, "seconds": 3000.0, "workers": 2, "device": "cpu", "verdict": "undecided", "pick": NAMES[0],
        "equals": (NAMES[0],), "probability": 0.62, "decided": False,
        "raced": 4, "val_images": 30, "val_units": 24, "looks": 2, "error": 0.05,
        "candidates": candidates, "points": points, "stages": (Stage(name="race", minutes=40.0),),
        "more": "nothing", "settings": {"use": "research"},
    }  # fmt: skip
    return Recommendation(**{**base, **changes})


def said(**changes: Any) -> tuple[str, str, str]:
    return sentences(made(**changes))


def test_a_start_names_what_is_not_excluded() -> None:
    first, _, more = said(verdict="start", probability=0.93)
    assert first == "Start from swav@resnet50 on shenzhen; not excluded: dino@resnet50."
    assert more == "More time: nothing."
    alone = tuple(dataclasses.replace(one, status="dropped") for one in made().candidates)
    assert said(verdict="start", candidates=alone)[0] == "Start from swav@resnet50 on shenzhen."


def test_equal_ones_are_any_of_them() -> None:
    first, _, _ = said(verdict="any of", equals=(NAMES[0], NAMES[2]))
    assert first.startswith("Start from any of swav@resnet50, imagenet@resnet50 on shenzhen")
    assert "equal within the margin of 0.01 auc" in first
    assert "swav@resnet50 has the fewest parameters" in first


def test_undecided_says_so_and_how_far_it_is() -> None:
    first, second, _ = said()
    assert first.startswith("Undecided on shenzhen: swav@resnet50 has the best claim so far")
    assert "within one margin (0.01) of the best of the 4 that raced is 62 %, by 24 patients of val" in second
    assert "test was not read" in second


def test_nothing_is_sure_where_nothing_was_trained() -> None:
    first, second, _ = said(looks=0, probability=None, raced=0)
    assert "the most promising, which is a weak reason" in first
    assert second == "How sure: not at all; nothing was fine-tuned, so there is no probability to state."


@pytest.mark.parametrize(
    ("tested", "words"),
    [
        (
            OnTest(seeds=(0, 1, 2), pick=0.9, reference=0.85, low=0.01, high=0.09, level=0.95, method="seeds"),
            "on test, which chose nothing (3 seeds), its auc is 0.9000, +0.0500 against imagenet@resnet50, "
            "the reference (95 % interval +0.0100 to +0.0900, over seeds).",
        ),
        (
            OnTest(seeds=(0,), pick=0.9, reference=0.95, low=None, high=None, level=0.95, method="seeds"),
            "on test, which chose nothing (1 seed), its auc is 0.9000, -0.0500 against imagenet@resnet50, "
            "the reference, without an interval, which needs two seeds.",
        ),
    ],
)
def test_the_test_is_told_with_its_interval(tested: OnTest, words: str) -> None:
    assert said(verdict="start", tested=tested)[1].endswith(words)


def test_the_reference_itself_has_no_difference() -> None:
    tested = OnTest(seeds=(0, 1), pick=0.9, reference=0.9, low=None, high=None, level=0.95, method="")
    assert "it is the reference itself" in said(pick=NAMES[2], tested=tested)[1]


def test_controls_that_score_as_much_are_told() -> None:
    tested = OnTest(
        seeds=(0, 1), pick=0.8, reference=0.8, low=None, high=None, level=0.95, method="",
        controls={"texture features": 1.0, "the label prior": 0.8},
    )  # fmt: skip
    words = "But there texture features (1.0000) and the label prior (0.8000) score as high or higher, without these"
    assert words in said(verdict="start", tested=tested)[1]


def test_the_controls_of_a_study_are_those_on_the_same_images(tmp_path: Path) -> None:
    weights, folder = {"imagenet@resnet50": 0.5}, tmp_path / recommended.CELLS
    results.write(tmp_path / "race", weights, ("shenzhen",), range(2))
    for name, protocol, effect in (
        ("none", "prior", -2.0),
        ("none", "texture", 2.0),
        ("random@resnet50", "linear", 3.0),
    ):
        results.write(folder, {name: effect}, ("shenzhen",), range(2), protocol=protocol)
    results.write(folder, {"swav@resnet50": 4.0}, ("shenzhen",), range(2), protocol="linear")
    pick = selection.collect(tmp_path / "race", tmp_path)
    found = recommended._controls(pick, tmp_path)
    assert list(found) == ["frozen random features", "texture features"]
    assert min(found.values()) > np.mean([one.score for one in pick])
    assert recommended._controls([dataclasses.replace(pick[0], manifest_digest="other")], tmp_path) == {}


def test_certainty_is_never_a_hundred_percent() -> None:
    assert "more than 99 %" in said(probability=1.0)[1]


def test_the_page_ends_lines_where_candidates_were_dropped_and_shows_every_candidate(tmp_path: Any) -> None:
    answer = made(marks=("synthetic",))
    answer = dataclasses.replace(answer, sentences=sentences(answer))
    page.write(answer, tmp_path)
    html = (tmp_path / page.FILE).read_text()
    for init in NAMES:
        long = len(init) > pages.WHOLE
        assert (init.replace("@", "@<wbr>").replace("_", "_<wbr>") if long else init) in html
    assert "undecided" in html
    assert "http" not in html.replace("http://www.w3.org", "")
    picture = page.draw(answer)
    assert picture is not None
    panel = picture.axes[0]
    crosses = [line for line in panel.lines if line.get_marker() == "x" and len(np.asarray(line.get_xdata())) == 1]
    assert len(crosses) == 1  # of the dropped one; the stopped one was never looked at
    assert np.asarray(crosses[0].get_xdata())[0] == 12.0
    assert panel.get_ylim()[1] <= 105


def test_the_prior_is_the_mean_place_on_other_tasks_and_never_on_the_same_images(top: Any, tmp_path: Any) -> None:
    from medtransfer import params as parameters

    (tmp_path / "presets").mkdir()
    (tmp_path / "presets/paper_results.csv").write_text(
        "paper,initialization,task,metric,mean,std,source\n"
        "p,imagenet (supervised),TXC,AUC,90,1,t\np,scratch,TXC,AUC,80,1,t\n"  # Shenzhen itself
        "p,imagenet (supervised),DXC14,AUC,70,1,t\np,scratch,DXC14,AUC,80,1,t\n"
    )
    params = parameters.load(top / "params.yaml")
    inits = ["imagenet@resnet50", "random@test_resnet", "swav@resnet50"]
    found = prior.places(params, tmp_path, "shenzhen", inits)
    assert found == {"imagenet@resnet50": 0.25, "random@test_resnet": 0.75}
