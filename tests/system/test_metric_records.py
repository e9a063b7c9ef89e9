"""Every metric's record, walked through all that reads it: a metric is added by its record alone."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.typing import NDArray

from medtransfer.comparison import patients
from medtransfer.data import catalog
from medtransfer.data.tasks import Kind
from medtransfer.results import result
from medtransfer.statistics import bootstrap, mask_shapes, metrics, seeds_and_patients
from medtransfer.statistics.contributions import Parts, Predictions
from medtransfer.statistics.dice import TERMS
from medtransfer.statistics.metrics import METRICS, Metric
from medtransfer.training import objectives
from tests.support import results

Array = NDArray[Any]

LABELS = ("a", "b", "c")
PATIENTS = np.array([f"p{k // 3}" for k in range(90)])
PRIMARY = [metric for metric in METRICS.values() if metric.kinds]
RECORDS = pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))


def truth_of(metric: Metric) -> Array:
    """Draws targets: images x labels, one 1 per row where they are classes; an uncertain one where that can be."""
    rng = np.random.default_rng(5)
    if metric.of == "classes":
        return np.eye(3, dtype=np.int64)[rng.integers(0, 3, len(PATIENTS))]
    found: Array = rng.integers(0, 2, (len(PATIENTS), 1 if metric.of == "exam" else 3))
    if metric.of == "label":
        found[7, 1] = -1
    return found


def pixels(truth: Array, answers: Array) -> Array:
    """Turns what is in an image, and what a network says of it, into intersection, predicted and target."""
    target, predicted = truth * 100, np.round(answers * 100).astype(np.int64)
    return np.stack([np.minimum(target, predicted), predicted, target], axis=-1)


def shapes(truth: Array, answers: Array) -> Array:
    """Measures squares of a size, one that is shifted the more the farther an answer is from the truth."""
    found = []
    for target, answer in zip(truth.ravel(), answers.ravel(), strict=True):
        own, guess = np.zeros((40, 40), dtype=bool), np.zeros((40, 40), dtype=bool)
        own[4:12, 4:12] = True
        far = 4 + round(20 * abs(target - answer))
        guess[4:12, far : far + 8] = True
        found.append(mask_shapes.measure(guess, own, tuple(mask_shapes.GROUPS), (1, 1), 1.0))
    return np.stack(found).reshape(*truth.shape, -1)


def terms_of(metric: Metric, truth: Array, answers: Array) -> tuple[Array, tuple[str, ...]]:
    """Gives the numbers of masks that a metric may need, and their names."""
    if not metric.group:
        return pixels(truth, answers), TERMS
    unit: mask_shapes.Unit = "mm" if metric.unit == "mm" else "px"
    names = (*TERMS, *mask_shapes.names(tuple(mask_shapes.GROUPS), unit))
    return np.concatenate([pixels(truth, answers), shapes(truth, answers)], axis=-1), names


def scores_of(metric: Metric, truth: Array, answers: Array, prefix: str = "") -> Mapping[str, float]:
    """Scores by the function that the training calls for such predictions."""
    if metric.of == "mask":
        terms, names = terms_of(metric, truth, answers)
        return metrics.mask_scores(terms, LABELS[: truth.shape[1]], prefix, names)
    if metric.of == "classes":
        return metrics.multiclass_scores(truth, answers, LABELS, ordinal=True)
    if metric.of == "exam":
        return metrics.exam_scores(PATIENTS.tolist(), truth, answers)
    return metrics.classification_scores(truth, answers, LABELS, np.full(3, 0.5))


@RECORDS
def test_a_record_is_complete(metric: Metric) -> None:
    assert METRICS[metric.name] is metric
    assert metric.name.isidentifier()
    assert metrics.title(metric.name) == metric.title
    assert set(metric.kinds) <= set(get_args(Kind))
    assert not ((metric.unit or metric.lower) and metric.kinds), "what has a unit is the better the lower it is"
    assert metric.group in ("", *mask_shapes.GROUPS)
    assert set(metric.prefixes) <= set(metrics.PREFIXES)
    assert metric.prefixes == ("",) or metric.of == "mask"
    assert bool(metric.kinds) == (metric.per_patient is not None), "a primary metric is compared over patients"
    assert not metric.ordinal or set(metric.kinds) <= {"multiclass"}


def test_no_two_scores_have_one_title_or_one_name() -> None:
    titles = metrics.titles()
    assert len(set(titles.values())) == len(titles) == sum(len(metric.prefixes) for metric in METRICS.values())
    with pytest.raises(ValueError, match="two metrics have one name: auc, auc"):
        metrics._table(METRICS["auc"], METRICS["auc"])


def test_a_mask_that_a_task_carries_beside_its_own_has_words() -> None:
    assert {"", "native_", *objectives.PREFIXES.values()} == set(metrics.PREFIXES)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_of_task_has_a_primary_metric(kind: str) -> None:
    assert metrics.measured(kind, ordinal=False)
    assert set(metrics.possible(kind, ordinal=True)) <= {metric.name for metric in PRIMARY}


def test_runs_measure_on_val_the_groups_that_their_own_metric_needs() -> None:
    plain = ("dice", "dice_positives", "dice_pooled")
    assert metrics.measured("segmentation", ordinal=False, primary="dice") == plain
    assert metrics.measured("segmentation", ordinal=False, primary="cldice") == (*plain, "cldice")
    assert metrics.possible("segmentation", ordinal=False) == (*plain, "surface_dice", "cldice", "lesion_f1")


@RECORDS
def test_a_perfect_answer_has_the_best_score_and_a_false_one_the_worst(metric: Metric) -> None:
    truth = truth_of(metric)
    for prefix in metric.prefixes:
        right, wrong = (
            scores_of(metric, truth, np.where(truth < 0, 0.5, answer), prefix)[f"{prefix}{metric.name}"]
            for answer in (truth, np.roll(truth, 1, axis=1) if metric.of == "classes" else 1 - truth)
        )
        assert right in (0.0, 1.0)
        assert abs(right - wrong) > 0.1
        if metric.kinds:
            assert right == 1.0, "of a primary metric, higher is better"


@pytest.mark.parametrize("metric", PRIMARY, ids=lambda metric: metric.name)
def test_what_patients_add_is_the_score(metric: Metric) -> None:
    truth, rng = truth_of(metric), np.random.default_rng(6)
    if metric.name == "dice_positives":
        truth = truth[:, :1]
    answers = np.clip(0.3 * truth.clip(min=0) + 0.7 * rng.random((2, *truth.shape)), 0, 1)
    if metric.of == "classes":
        answers /= answers.sum(axis=2, keepdims=True)
    own = [terms_of(metric, truth, each) for each in answers] if metric.of == "mask" else []
    masks = [terms[..., [names.index(name) for name in metric.terms]] for terms, names in own]
    known = Predictions(
        patients=PATIENTS,
        labels=LABELS[: truth.shape[1]],
        truth=truth,
        answers=np.stack(masks) if masks else answers,
    )
    assert metric.per_patient is not None
    parts = metric.per_patient(known)
    assert isinstance(parts, Parts), parts
    logged = [scores_of(metric, truth, each)[metric.name] for each in answers]
    assert 0 < logged[0] < 1
    assert logged[0] != logged[1]
    assert parts.values.shape == (2, len(np.unique(PATIENTS[parts.rows])))
    assert parts.values.mean(axis=1) == pytest.approx(logged, abs=1e-9)
    assert parts.statistic.score(np.ones((parts.statistic.images, 1)))[:, 0] == pytest.approx(logged, abs=1e-9)


def overlap(terms: Array) -> Array:
    """Computes Jaccard's index, an empty mask that is found empty counts 1."""
    union = terms[..., 1] + terms[..., 2] - terms[..., 0]
    return np.where(union == 0, 1.0, terms[..., 0] / np.maximum(union, 1))


def by_patient(predictions: Predictions) -> Parts | str:
    values = overlap(predictions.answers).mean(axis=2)
    return Parts(
        values=seeds_and_patients.per_patient(values, predictions.patients),
        statistic=bootstrap.mean(values), rows=np.arange(values.shape[1]), cases=1,
    )  # fmt: skip


@pytest.fixture
def jaccard(monkeypatch: pytest.MonkeyPatch) -> Metric:
    """Adds a metric as a developer does: one record."""
    record = Metric(
        name="jaccard", title="Jaccard index", of="mask", kinds=("segmentation",), prefixes=("", "native_"),
        score=lambda terms: float(overlap(terms).mean()), per_patient=by_patient,
    )  # fmt: skip
    monkeypatch.setitem(METRICS, record.name, record)
    return record


def test_a_metric_is_added_by_one_record(jaccard: Metric, tmp_path: Path) -> None:
    terms = np.array([[[2, 4, 4], [0, 0, 0]], [[1, 1, 2], [0, 3, 0]]])
    scores = metrics.mask_scores(terms, ["Lung", "Heart"], "native_")
    assert scores["native_jaccard.Lung"] == pytest.approx((2 / 6 + 1 / 2) / 2)
    assert scores["native_jaccard"] == pytest.approx((5 / 12 + 1 / 2) / 2)
    assert metrics.titles()["native_jaccard"] == "Jaccard index, native size"
    assert metrics.can_be_primary("jaccard")  # so that val's is logged every epoch
    assert "jaccard" in catalog.TASKS["drive"].measured
    folder = tmp_path / "data/raw/mine"
    folder.mkdir(parents=True)
    tree = {
        "kind": "segmentation",
        "labels": ["Lung"],
        "table": "t.csv",
        "patient": "who",
        "split": "part",
        "mask": "m",
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(tree | {"image_size": 64, "metric": "jaccard"}))
    assert catalog.lookup("mine", tmp_path).metric == "jaccard"


def test_a_metric_that_was_added_is_compared_over_patients(jaccard: Metric, tmp_path: Path) -> None:
    results.write(tmp_path, {"random@resnet50": 0.0, "imagenet@resnet50": 0.5}, ["drive"], [0, 1], cases=20)
    cells = [declared(path) for path in sorted(tmp_path.glob("drive/*/cell.json"))]
    found = patients.gather(cells, tmp_path, resamples=20, level=0.95, rng=np.random.default_rng(0))
    assert found.note == ""
    for init, values in found.contributions.items():
        assert sorted(values.mean(axis=1)) == pytest.approx(sorted(c.score or 0 for c in cells if c.init == init))
        assert found.intervals[init].low is not None


@pytest.mark.parametrize("name", ["surface_dice", "cldice", "lesion_f1"])
def test_shapes_are_compared_over_patients(name: str, tmp_path: Path) -> None:
    """Patients have two images each; the interval is that of the same scores drawn by patient, not by image."""
    effects = {"random@resnet50": 0.0, "imagenet@resnet50": 0.5}
    results.write(tmp_path, effects, ["drive"], [0, 1], cases=40, images_per_patient=2)
    cells = [with_shapes(path, name) for path in sorted(tmp_path.glob("drive/*/cell.json"))]
    found = patients.gather(cells, tmp_path, resamples=200, level=0.95, rng=np.random.default_rng(0))
    assert (found.note, found.patients, found.images) == ("", 20, 40)
    for init, values in found.contributions.items():
        assert sorted(values.mean(axis=1)) == pytest.approx(sorted(c.score or 0 for c in cells if c.init == init))
        interval = found.intervals[init]
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low < interval.estimate < interval.high


def with_shapes(path: Path, name: str) -> result.Result:
    """Reads a run of a task whose metric is of shapes, which are drawn by chance and told by its predictions."""
    table, rng = pd.read_parquet(path.parent / "predictions.parquet"), np.random.default_rng(len(str(path)))
    there = rng.integers(1, 5, len(table))
    drawn = {"lesions": there, "lesions_found": there // 2, "lesions_predicted": there}
    table = table.assign(surface_dice=rng.random(len(table)), cldice=rng.random(len(table)), **drawn)
    table.to_parquet(path.parent / "predictions.parquet", index=False)
    names = (*TERMS, *METRICS[name].terms)
    scores = metrics.mask_scores(table[list(names)].to_numpy()[:, None], ["Vessel"], "", names)
    cell = result.read_result(path)
    kept = {**cell.scores, f"test_{name}": scores[name]}
    return dataclasses.replace(cell, metric=name, scores=kept, parts={})


def declared(path: Path) -> result.Result:
    """Reads a run, with what it would have scored, of a task whose metric is the new one."""
    table = pd.read_parquet(path.parent / "predictions.parquet")
    scores = metrics.mask_scores(table[list(TERMS)].to_numpy()[:, None], ["Vessel"])
    cell = result.read_result(path)
    kept = {**cell.scores, "test_jaccard": scores["jaccard"]}
    return dataclasses.replace(cell, metric="jaccard", scores=kept)


def test_names_and_titles_wait_for_no_library(top: Path) -> None:
    code = (
        "import sys\nfrom medtransfer.data import catalog\nfrom medtransfer.statistics import metrics\n"
        "assert metrics.titles() and catalog.TASKS['drive'].measured\n"
        "print([m for m in ('scipy', 'sklearn', 'pandas', 'torch') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=top, env={"PYTHONPATH": "src"}, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
