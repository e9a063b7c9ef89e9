"""Metrics: one record each, and the scores of a split's predictions: arrays in, numbers out.

Whoever scores, names, tabulates or compares a metric reads its record in `METRICS`: a new one is a new record there.

Shapes: `targets` and `probabilities` are images x labels, `terms` is images x 3. A score that is undefined is
absent from the result, never a stand-in number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from medtransfer.core.errors import UserError
from medtransfer.statistics import formulas
from medtransfer.statistics.dice import TERMS, dice
from medtransfer.statistics.mask_shapes import GROUPS, UNITS

if TYPE_CHECKING:
    from medtransfer.statistics.contributions import Parts, Predictions

Array = npt.NDArray[Any]

PREFIXES = {
    "": "",
    "native_": "native size",
    "fov_": "native size, inside the field of view",
    "observer2_": "native size, against the second observer",
}
"""prefix of a mask's score -> where its pixels are counted; without one at the network's size"""


CLASSIFICATION = ("multilabel", "binary", "multiclass")
"""kinds of task whose networks say probabilities"""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """All that is to be known of a metric."""

    name: str
    """as in the score name `test_<name>`"""
    title: str
    """as a person reads it"""
    of: Literal["label", "exam", "classes", "mask"]
    """what it is a score of, which says what `score` takes"""
    score: Callable[..., float | None]
    """None where it is undefined; in [0, 1] or, of agreement, up to 1; with a unit any number.

    Of a label: its 0/1 targets, probabilities and threshold (None: none). Of an exam: the same of exams. Of classes:
    the true class of each image, the answer, the number of classes. Of a mask: images x `terms`.
    """
    kinds: tuple[str, ...] = ()
    """kinds of task whose primary metric it can be: higher is better, and it has `per_patient`"""
    ordinal: bool = False
    """exists only where the classes stand in an order"""
    lower: bool = False
    """lower is better, so that it is no primary metric"""
    at_threshold: bool = False
    """needs a threshold that val fixes for test: val itself has no such score"""
    unit: str = ""
    """what it is counted in, where that is no share: lower is better"""
    terms: tuple[str, ...] = TERMS
    """of a mask: the numbers of an image that it is made of, columns of the predictions"""
    group: str = ""
    """of a mask: measured where the task asks for this, see `mask_shapes.GROUPS`; empty: always"""
    prefixes: tuple[str, ...] = ("",)
    """of its scores that the report tabulates, see `PREFIXES`"""
    per_patient: Callable[[Predictions], Parts | str] | None = None
    """what each patient adds to the scores of some runs, or why there is nothing to add; None: seeds alone count"""

    @property
    def higher(self) -> bool:
        """Says whether higher is better."""
        return not (self.lower or self.unit)

    @property
    def of_kinds(self) -> tuple[str, ...]:
        """Lists the kinds of task that have it."""
        return {"mask": ("segmentation",), "classes": ("multiclass",)}.get(self.of, CLASSIFICATION)


def possible(kind: str, ordinal: bool) -> tuple[str, ...]:
    """Lists the metrics of a kind of task that may be its primary one."""
    return tuple(m.name for m in METRICS.values() if kind in m.kinds and (ordinal or not m.ordinal))


def measured(kind: str, ordinal: bool, primary: str = "") -> tuple[str, ...]:
    """Lists the metrics that all runs of a task measure, each of which might as well be the primary one.

    At the network's size, where val is scored too, those of a group are measured with a primary one of it alone.
    """
    group = METRICS[primary].group if primary in METRICS else ""
    return tuple(name for name in possible(kind, ordinal) if METRICS[name].group in ("", group))


def unmonitored(name: str, kind: str, ordinal: bool, exams: bool) -> str:
    """Says why a training of a task cannot be steered by a metric on val; empty: it can.

    Args:
        name: of a metric.
        kind: of the task.
        ordinal: its classes stand in an order.
        exams: its images are slices of exams.
    """
    metric = METRICS[name]
    if kind not in metric.of_kinds or (metric.of == "exam" and not exams):
        return f"it is a score of {WHOSE[metric.of]}, which a {kind} task has none of"
    if metric.ordinal and not ordinal:
        return "its classes stand in no order"
    if metric.at_threshold:
        return "val fixes its threshold for test, and has no such score of its own"
    if metric.unit in UNITS:
        return "it is over the images that have a distance, so that a network that answers nothing there does better"
    return ""


def monitors(kind: str, ordinal: bool, exams: bool) -> tuple[str, ...]:
    """Lists the metrics that a training of a task can be steered by, see `unmonitored`."""
    return tuple(name for name in METRICS if not unmonitored(name, kind, ordinal, exams))


def rises(score: str) -> bool:
    """Says whether the higher of two scores of val is the better: by the metric's record; of a loss the lower is."""
    name = score.removeprefix("val_")
    return METRICS[name].higher if name in METRICS else name != "loss"


WHOSE = {"label": "labels", "exam": "exams", "classes": "classes", "mask": "masks"}
"""`Metric.of` -> in words"""


def can_be_primary(name: str) -> bool:
    """Says whether a score is that of a metric that a task of some kind can have as its primary one."""
    return name in METRICS and bool(METRICS[name].kinds)


def title(name: str) -> str:
    """Names a metric as a person reads it."""
    return titles().get(name) or (METRICS[name].title if name in METRICS else name)


def unit(name: str) -> str:
    """Says what a score of `titles` is counted in; empty: a share."""
    return record(name).unit


def least(name: str) -> float:
    """Says where a score ends: agreement at -1, every other share at 0, all at 1; what has a unit has no end."""
    known = METRICS.get(name)
    return 0.0 if known is None else -math.inf if known.unit else -1.0 if known.ordinal else 0.0


def record(name: str) -> Metric:
    """Finds the record of a score of `titles`, whose name may have a prefix."""
    return METRICS.get(name) or METRICS[name.removeprefix(next(p for p in PREFIXES if p and name.startswith(p)))]


def titles() -> dict[str, str]:
    """Gives the scores that the report tabulates their titles; all scores are in `runs.csv`."""
    return {
        f"{prefix}{metric.name}": f"{metric.title}, {where}" if where else metric.title
        for prefix, where in PREFIXES.items()
        for metric in METRICS.values()
        if prefix in metric.prefixes
    }


def classification_scores(
    targets: Array,
    probabilities: Array,
    slugs: Sequence[str],
    thresholds: Array | None = None,
    tested: Sequence[str] = (),
) -> dict[str, float]:
    """Scores probabilities against 0/1 targets, per label (`auc.<slug>`) and as plain means (`auc`).

    AUC, average precision, sensitivity and specificity need both classes: a label that has only one has none of
    these keys, and a mean is over the labels that have the score (`labels_defined` of them for AUC). Brier score
    and prevalence exist for every label. A single label has its own keys too, so that every task has one shape.
    An uncertain target is no truth to score against: its image is left out for that label.

    Args:
        targets: images x labels, 0 or 1, or -1 for uncertain.
        probabilities: images x labels.
        slugs: one name per label, as in score names.
        thresholds: one per label, fixed on val; a probability at or above it is a positive. nan: none.
        tested: the labels that the means are over; empty: all.

    Raises:
        UserError: a probability is not finite.
    """
    _require_finite(probabilities, slugs)
    scores: dict[str, dict[str, float]] = {}
    for column, slug in enumerate(slugs):
        threshold = None if thresholds is None else float(thresholds[column])
        known = targets[:, column] >= 0
        scores[slug] = _label_scores(targets[known, column], probabilities[known, column], threshold)
    averaged = {slug: scores[slug] for slug in tested or slugs}
    flat = _means(averaged) | {f"{name}.{slug}": value for slug in slugs for name, value in scores[slug].items()}
    return flat | {"labels_defined": float(sum("auc" in label for label in averaged.values()))}


def multiclass_scores(
    targets: Array, probabilities: Array, slugs: Sequence[str], ordinal: bool = False
) -> dict[str, float]:
    """Scores class probabilities: each class against the rest, and the most probable class as the answer.

    `auc` is the macro one-vs-rest mean over the classes that have it. `balanced_accuracy` is the mean recall over the
    classes that occur (Brodersen et al., ICPR 2010), `kappa` Cohen's with quadratic weights (Psychological Bulletin
    1968), for ordinal classes, undefined where truth and answers are all of one class.

    Args:
        targets: images x classes, one 1 in each row.
        probabilities: images x classes.
        slugs: one name per class, as in score names.
        ordinal: the classes stand in an order.

    Raises:
        UserError: a probability is not finite.
    """
    scores = classification_scores(targets, probabilities, slugs)
    truth, answer = targets.argmax(axis=1), probabilities.argmax(axis=1)
    scores |= _scores("classes", truth, answer, len(slugs), ordinal=ordinal)
    return scores | {f"recall.{slugs[k]}": value for k, value in formulas.recalls(truth, answer, len(slugs)).items()}


def exam_scores(units: Sequence[str], targets: Array, probabilities: Array) -> dict[str, float]:
    """Scores exams by their slices: one is positive if a slice is, and as probable as its most probable slice.

    Args:
        units: each slice's exam.
        targets: slices x 1, 0 or 1.
        probabilities: slices x 1.

    Returns:
        `exam_auc`, `exam_average_precision` (undefined ones are absent) and `exams`, their number.
    """
    names, number = np.unique(np.asarray(units, dtype=np.str_), return_inverse=True)
    truth, highest = np.zeros(len(names)), np.full(len(names), -np.inf)
    np.maximum.at(truth, number, targets[:, 0])
    np.maximum.at(highest, number, probabilities[:, 0])
    return {"exams": float(len(names))} | _scores("exam", truth, highest, None)


def undefined_labels(targets: Array, slugs: Sequence[str]) -> list[str]:
    """Lists the labels that lack one of the two classes, for which AUC is undefined."""
    return [slug for column, slug in enumerate(slugs) if not formulas.has_both_classes(targets[:, column])]


def youden_thresholds(targets: Array, probabilities: Array) -> Array:
    """Finds each label's threshold that maximises sensitivity + specificity - 1; nan where undefined.

    Candidates are the probabilities themselves; of equally good ones the largest is taken. Meant for val: scores
    at a threshold chosen on the same images are too good.

    Youden, Index for rating diagnostic tests, Cancer 1950.
    """
    thresholds = np.full(targets.shape[1], np.nan)
    for column in range(targets.shape[1]):
        known = targets[:, column] >= 0
        if formulas.has_both_classes(targets[:, column]):
            false_rate, true_rate, candidates = formulas.sklearn().roc_curve(
                targets[known, column], probabilities[known, column], drop_intermediate=False
            )
            # The first candidate of roc_curve is infinity (nothing is positive), which no one can use.
            thresholds[column] = candidates[1:][np.argmax((true_rate - false_rate)[1:])]
    return thresholds


def dice_scores(terms: Array, prefix: str = "", names: Sequence[str] = TERMS) -> dict[str, float]:
    """Scores masks from per-image pixel counts in every form of Dice that papers report, and from what else is named.

    `dice` is the mean per image, in which an image whose target and prediction are both empty counts 1.0;
    `dice_positives` the mean over images with a target; `dice_pooled` one Dice over all pixels; `empty_targets`
    the number of images without a target; `false_positive_rate` the share of these with any predicted pixel;
    `no_distance` the number of images that a distance is not over, as a mask is empty.

    Args:
        terms: images x names.
        prefix: put before every name, such as `native_`.
        names: `TERMS` in pixels, then those of `mask_shapes.names` that were measured.
    """
    counts = np.asarray(terms, dtype=np.float64)  # counts of one image fit 32 bits, sums may not
    column = {name: counts[:, place] for place, name in enumerate(names)}
    scores = {"empty_targets": float((column["target"] == 0).sum())}
    for metric in METRICS.values():
        if metric.of == "mask" and set(metric.terms) <= column.keys():
            value = metric.score(np.stack([column[name] for name in metric.terms], axis=1))
            scores |= {} if value is None else {metric.name: value}
    lacking = [np.isnan(column[name]) for name in column if name.startswith("surface_distance_")]
    scores |= {"no_distance": float(lacking[0].sum())} if lacking else {}
    return {f"{prefix}{name}": value for name, value in scores.items()}


def mask_scores(terms: Array, slugs: Sequence[str], prefix: str = "", names: Sequence[str] = TERMS) -> dict[str, float]:
    """Scores masks of several labels: every score of `dice_scores` per label (`dice.<slug>`) and as their mean.

    Args:
        terms: images x labels x names.
        slugs: one name per label.
        prefix: put before every name.
        names: see `dice_scores`.
    """
    if len(slugs) == 1:
        return dice_scores(terms[:, 0], prefix, names)
    each = {slug: dice_scores(terms[:, column], prefix, names) for column, slug in enumerate(slugs)}
    found = sorted({name for scores in each.values() for name in scores})
    means = {name: float(np.mean([scores[name] for scores in each.values() if name in scores])) for name in found}
    return means | {f"{name}.{slug}": value for slug, scores in each.items() for name, value in scores.items()}


def _scores(of: str, *arguments: Any, ordinal: bool = False) -> dict[str, float]:
    """Scores what there is of a label, an exam or classes by every metric that is of it and defined."""
    every = [metric for metric in METRICS.values() if metric.of == of and (ordinal or not metric.ordinal)]
    found = {metric.name: metric.score(*arguments) for metric in every}
    return {name: value for name, value in found.items() if value is not None}


def _label_scores(target: Array, probability: Array, threshold: float | None) -> dict[str, float]:
    if not len(target):
        return {}
    threshold = None if threshold is None or np.isnan(threshold) else threshold
    return {"prevalence": float(np.mean(target))} | _scores("label", target, probability, threshold)


def _means(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Averages each score over the labels that have it; a mean prevalence would say nothing."""
    means: dict[str, float] = {}
    for name in (metric.name for metric in METRICS.values() if metric.of == "label"):
        values = [label[name] for label in scores.values() if name in label]
        if values:
            means[name] = float(np.mean(values))
    return means


def _require_finite(probabilities: Array, slugs: Sequence[str]) -> None:
    bad = ~np.isfinite(probabilities)
    if bad.any():
        labels = ", ".join(slug for column, slug in enumerate(slugs) if bad[:, column].any())
        raise UserError(
            f"probabilities must be finite, got {int(bad.any(axis=1).sum())} of {len(probabilities)} images with "
            f"nan or infinity (labels: {labels}): the training diverged; lower the learning rate"
        )


def _contributions() -> Any:
    """Loads `contributions`, which needs scipy, likewise."""
    from medtransfer.statistics import contributions

    return contributions


def _distances(name: str, title: str) -> list[Metric]:
    """Makes the records of a distance, one per unit, so that no mean, name or column ever mixes two."""
    return [
        Metric(
            name=f"{name}_{unit}", title=f"{title} ({unit})", of="mask", unit=unit, group="surface",
            terms=(f"{name}_{unit}",), prefixes=("native_",), score=formulas.mean,
        )
        for unit in UNITS
    ]  # fmt: skip


def _table(*records: Metric) -> dict[str, Metric]:
    """Keeps the records by name, in the order of the report's columns; no name appears twice."""
    found = {record.name: record for record in records}
    if len(found) < len(records):
        raise ValueError(f"two metrics have one name: {', '.join(record.name for record in records)}")
    return found


METRICS: dict[str, Metric] = _table(
    Metric(
        name="auc", title="AUC", of="label", kinds=CLASSIFICATION, score=formulas.auc,
        per_patient=lambda predictions: _contributions().auc(predictions),
    ),
    Metric(
        name="average_precision", title="average precision", of="label", kinds=CLASSIFICATION,
        score=formulas.average_precision,
        per_patient=lambda predictions: _contributions().average_precision(predictions),
    ),
    Metric(name="sensitivity", title="sensitivity", of="label", score=formulas.sensitivity, at_threshold=True),
    Metric(name="specificity", title="specificity", of="label", score=formulas.specificity, at_threshold=True),
    Metric(name="brier", title="Brier score", of="label", score=formulas.brier, lower=True),
    Metric(name="ece", title="expected calibration error", of="label", score=formulas.ece, lower=True),
    Metric(name="exam_auc", title="AUC per exam", of="exam", score=formulas.auc),
    Metric(
        name="exam_average_precision", title="average precision per exam", of="exam", score=formulas.average_precision
    ),
    Metric(name="accuracy", title="accuracy", of="classes", score=formulas.accuracy),
    Metric(
        name="balanced_accuracy", title="balanced accuracy", of="classes", kinds=("multiclass",),
        score=formulas.balanced_accuracy,
        per_patient=lambda predictions: _contributions().balanced_accuracy(predictions),
    ),
    Metric(
        name="kappa", title="quadratic kappa", of="classes", kinds=("multiclass",), ordinal=True,
        score=formulas.kappa, per_patient=lambda predictions: _contributions().kappa(predictions),
    ),
    Metric(
        name="dice", title="Dice", of="mask", kinds=("segmentation",), prefixes=tuple(PREFIXES),
        score=lambda terms: float(dice(terms).mean()),
        per_patient=lambda predictions: _contributions().dice(predictions),
    ),
    Metric(
        name="dice_positives", title="Dice on positives", of="mask", kinds=("segmentation",), prefixes=("", "native_"),
        score=formulas.dice_positives, per_patient=lambda predictions: _contributions().dice_positives(predictions),
    ),
    Metric(
        name="dice_pooled", title="pooled Dice", of="mask", kinds=("segmentation",), prefixes=("", "native_", "fov_"),
        score=lambda terms: float(dice(terms.sum(axis=0))),
        per_patient=lambda predictions: _contributions().dice_pooled(predictions),
    ),
    Metric(
        name="false_positive_rate", title="false-positive rate", of="mask", score=formulas.false_positive_rate,
        lower=True,
    ),
    Metric(
        name="surface_dice", title="surface Dice", of="mask", kinds=("segmentation",), prefixes=("native_",),
        group="surface", terms=("surface_dice",), score=formulas.mean,
        per_patient=lambda predictions: _contributions().mean_share(predictions, "mean surface Dice"),
    ),
    *_distances("hd95", "95th-percentile Hausdorff distance"),
    *_distances("surface_distance", "mean surface distance"),
    Metric(
        name="cldice", title="centre-line Dice", of="mask", kinds=("segmentation",), prefixes=("native_",),
        group="centre_line", terms=("cldice",), score=formulas.mean,
        per_patient=lambda predictions: _contributions().mean_share(predictions, "mean centre-line Dice"),
    ),
    Metric(
        name="lesion_f1", title="lesion-wise F1", of="mask", kinds=("segmentation",), prefixes=("native_",),
        group="lesions", terms=GROUPS["lesions"], score=lambda lesions: float(dice(lesions.sum(axis=0))),
        per_patient=lambda predictions: _contributions().lesion_f1(predictions),
    ),
    Metric(
        name="lesion_sensitivity", title="lesion-wise sensitivity", of="mask", prefixes=("native_",), group="lesions",
        terms=GROUPS["lesions"], score=formulas.lesion_sensitivity,
    ),
    Metric(
        name="lesion_false_positives", title="false positives per image", of="mask", prefixes=("native_",),
        group="lesions", terms=GROUPS["lesions"], unit="per image",
        score=lambda lesions: float((lesions[:, 1] - lesions[:, 0]).mean()),
    ),
)  # fmt: skip
"""name -> record"""
