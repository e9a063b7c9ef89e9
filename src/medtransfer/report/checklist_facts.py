"""What the runs know of a reporting checklist: findings -> sentences; none where the runs do not show it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from medtransfer.comparison.calibration import Calibrated, Measure
from medtransfer.comparison.degradation import Degradation
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.wording import as_word, margin_words, names, percent, plural
from medtransfer.core.errors import quantity, span
from medtransfer.data.catalog import TASKS
from medtransfer.report.sections.facts import SHORT
from medtransfer.results.result import Result, kind_of, of_task
from medtransfer.statistics import metrics

Facts = list[str]
Filling = Callable[[Findings], Facts]
NAMED = 8
PREVALENCE = "test_prevalence."
REASONS = {
    "auc": "how well images with and without a finding are ordered, over all thresholds and whatever the prevalence; "
    "it says nothing of calibration nor of one threshold",
    "average_precision": "how pure the highest probabilities are; it depends on the prevalence, which stands beside it",
    "balanced_accuracy": "the mean share of each class that is recognised, so that frequent classes do not decide",
    "kappa": "agreement of ordered classes beyond chance; far errors count more",
    "dice": "overlap of two masks, image by image; of small regions a pixel counts much, and outlines do not count",
    "dice_positives": "overlap of two masks on the images that have a target",
    "dice_pooled": "overlap over all pixels of the test set, in which large regions decide",
    "surface_dice": "share of the outlines that lie within a tolerance of each other",
    "cldice": "whether thin, branching structures are connected as they should be",
    "lesion_f1": "whether single lesions are found, whatever their size",
}
"""primary metric -> what it measures; why that answers a question is the authors' to say"""


def data_sources(findings: Findings) -> Facts:
    """Names dataset, source and licence of each task, and says what is synthetic."""
    found = []
    for task, first in _first(findings).items():
        record = TASKS.get(task)
        what = f"{record.title}; from {record.source}; licence {record.licence}" if record else "a task of one's own"
        made = "; SYNTHETIC phantoms, no patient" if "synthetic" in first.marks else ""
        found.append(f"{task}: dataset {first.dataset}, {what}{made}")
    return found


def numbers(findings: Findings) -> Facts:
    """Counts images per split, and the patients of test."""
    found = []
    for task, first in _first(findings).items():
        counts = ", ".join(f"{split} {count:,}" for split, count in first.counts.items())
        evidence = findings.evidence.get(task)
        tested = f"; test {plural(evidence.unit)}: {evidence.patients:,}" if evidence and evidence.patients else ""
        found.append(f"{task}: images {counts}{tested}")
    return [*found, "patients of train and val are not counted in the runs"] if found else []


def partitions(findings: Findings) -> Facts:
    """Says how the splits came about, and what they keep apart."""
    found = []
    for task, first in _first(findings).items():
        leaks = [mark for mark in first.marks if mark.startswith(("leak-", "look-alikes-", "patients unknown"))]
        said = f"marked {', '.join(leaks)}" if leaks else "no leak between splits is marked"
        found.append(f"{task}: split {first.split}; unit {first.unit}; {said}")
    return found


def missing(findings: Findings) -> Facts:
    """Says which scores and runs are missing, and what an uncertain label counts as."""
    found = []
    for task, first in _first(findings).items():
        if first.undefined:
            found.append(f"{task}: without both classes in test, thus without AUC: {', '.join(first.undefined)}")
    gaps = [
        f"{row.task} {row.init}: {len(row.missing)} missing, {len(row.undefined)} without a score"
        for row in findings.rows
        if row.missing or row.undefined
    ]
    found += [f"runs: {'; '.join(gaps)}"] if gaps else ["runs: none of the benchmark is missing"]
    uncertain = _values(findings, "classification.uncertain")
    return [*found, *(f"an uncertain label counts in the loss as: {value}" for value in uncertain)]


def preprocessing(findings: Findings) -> Facts:
    """Lists size, normalization and crop."""
    sizes = [f"{task} {first.params.get(f'tasks.{task}.image_size', '?')}" for task, first in _first(findings).items()]
    found = [f"side of the network's input in pixels: {', '.join(sizes)}"] if sizes else []
    return found + _listed(findings, ("normalization", "crop_fraction"))


def model(findings: Findings) -> Facts:
    """Names backbones and what comes out."""
    bodies = list(dict.fromkeys(result.backbone for result in findings.results))
    outputs = {
        "segmentation": "a mask per label, threshold 0.5", "multiclass": "a probability per class",
        "binary": "a probability", "multilabel": "a probability per label",
    }  # fmt: skip
    kinds = dict.fromkeys(first.kind for first in _first(findings).values())
    return [f"backbones: {', '.join(bodies)}", *(f"{kind}: {outputs[kind]}" for kind in kinds)] if bodies else []


def initialization(findings: Findings) -> Facts:
    """Lists the initial weights with their hashes, and which of them saw test images."""
    found = []
    for init in findings.benchmark.inits:
        hashes = {str(result.weights_sha256) for result in findings.results if result.init == init} - {"None", "random"}
        shown = f"sha256 {', '.join(sorted(one[:SHORT] for one in hashes))}" if hashes else "drawn from the seed"
        marked = {result.task for result in findings.results if result.init == init and "contaminated" in result.marks}
        saw = f"; saw images of {', '.join(sorted(marked))}" if marked else ""
        if any(result.init == init for result in findings.results):
            found.append(f"{init}: {shown}{saw}")
    return found


def training(findings: Findings) -> Facts:
    """Lists how the networks were trained."""
    named = (
        "optimizer", "lr", "backbone_lr", "weight_decay", "batch_size", "schedule", "max_epochs", "min_steps", "loss",
        "augmentation.crop", "augmentation.flip", "augmentation.rotation", "augmentation.distortion",
        "augmentation.intensity",
    )  # fmt: skip
    seeds = ", ".join(map(str, findings.benchmark.seeds))
    return [f"seeds: {seeds}", f"protocol: {findings.settings.protocol}", *_listed(findings, named)]


def tuning(findings: Findings) -> Facts:
    """Says whether values were searched, with which budget."""
    studies = [f"{one.task} {one.init}: {quantity(len(one.trials), 'trial')}" for one in findings.studies]
    recipe = f"recipe of these tables: {findings.settings.recipe}"
    return [recipe, *(studies or ["no study searched values"])]


def selection(findings: Findings) -> Facts:
    """Says what chose the epoch and the pick."""
    return [
        *_listed(findings, ("monitor", "patience")),
        "epoch and pick are chosen on val alone; test is read once per run, at its end",
    ]


def ensembling(findings: Findings) -> Facts:
    """Says that each run answers by itself, and over how many views."""
    return ["each run is scored by itself; no networks are averaged", *_listed(findings, ("test_views",))]


def imbalance(findings: Findings) -> Facts:
    """Says whether classes were weighted, and the prevalence in test."""
    found = _listed(findings, ("class_weights",))
    for task, first in _first(findings).items():
        shares = {name.split(".", 1)[1]: value for name, value in first.scores.items() if name.startswith(PREVALENCE)}
        if shares:
            each = names([f"{label} {100 * share:.1f} %" for label, share in shares.items()], NAMED)
            found.append(f"{task}, prevalence in test: {each}")
    return found


def measures(findings: Findings) -> Facts:
    """Names the primary metric of each task, its margin and what it measures."""
    found = []
    for task, first in _first(findings).items():
        margin = "no margin" if first.margin is None else f"margin {margin_words(first.margin)}"
        at = f" at {first.tolerance}" if first.metric == "surface_dice" and first.tolerance else ""
        reason = REASONS.get(first.metric, "what it measures is not described here")
        found.append(f"{task}: {metrics.title(first.metric)}{at}, {margin}: {reason}")
    return found


def uncertainty(findings: Findings) -> Facts:
    """Says what intervals are over and how they are corrected."""
    if not findings.contrasts:
        return []
    basis = dict.fromkeys(contrast.basis for contrast in findings.contrasts)
    return [
        f"intervals of differences over {' or '.join(basis)}; {quantity(len(findings.contrasts), 'comparison')} at "
        "once at "
        f"{findings.alpha:.4g} (Bonferroni), look {findings.look} of alpha {findings.settings.alpha:g}",
        "training images and split are in no interval unless folds or several splits are drawn",
    ]


def robustness(findings: Findings) -> Facts:
    """Says what was varied, how test images were made worse, and which controls ran."""
    benchmark = findings.benchmark
    splits = f"{len(benchmark.splits)} drawn splits" if benchmark.splits else "one split"
    return [
        f"{quantity(len(benchmark.seeds), 'seed')}, {splits}, fractions of labels "
        f"{', '.join(map(str, benchmark.fractions))}, protocols {', '.join(benchmark.protocols)}, "
        f"recipes {', '.join(benchmark.recipes)}",
        *(_worse(task, one) for task, one in findings.degradations.items() if one is not None),
        *([f"controls: {', '.join(findings.controls.asked)}"] if findings.controls else []),
    ]


def _worse(task: str, found: Degradation) -> str:
    if found.note:
        return f"{task}: test images made worse were not compared, {found.note}"
    severities = ", ".join(map(str, found.severities))
    return f"{task}: test images made worse by {', '.join(found.kinds)} (severity {severities} of 5)"


def calibration(findings: Findings) -> Facts:
    """Gives calibration error, slope and intercept of every initialization."""
    found = []
    for task, evidence in findings.evidence.items():
        if evidence.calibration is None:
            found.append(f"{task}: not measured ({_first(findings)[task].kind})")
            continue
        found += [f"{task}, {one.init}: {_calibrated(one)}" for one in evidence.calibration.inits]
    return found


def _calibrated(one: Calibrated) -> str:
    words = [f"expected calibration error {_measure(one.ece, 0.0)}", f"{one.chance:.3f} by chance"]
    words += [
        f"{name} {_measure(value)}" for name, value in (("slope", one.slope), ("intercept", one.intercept)) if value
    ]
    return ", ".join(words)


def _measure(one: Measure, least: float = -math.inf) -> str:
    ends = "" if one.low is None or one.high is None else f" ({max(one.low, least):.3f} to {one.high:.3f})"
    return f"{one.estimate:.3f}{ends}"


def subgroups(findings: Findings) -> Facts:
    """Names the groups that were scored, and the patients of each."""
    found = []
    for task, evidence in findings.evidence.items():
        for grouping in evidence.subgroups:
            sizes = ", ".join(f"{group} {number:,}" for group, number in grouping.patients.items())
            small = f"; too small: {', '.join(grouping.small)}" if grouping.small else ""
            scored = (
                f"scored in {sizes} (patients of test), over {', '.join(grouping.labels)}"
                if grouping.scores
                else f"not scored: {grouping.note}"
            )
            found.append(f"{task}, {grouping.name}: {scored}{small}")
    return found or ["no subgroup was scored: the predictions carry no groups of patients"]


def performance(findings: Findings) -> Facts:
    """Gives every initialization's score with its interval over patients."""
    found = []
    for row in findings.rows:
        if row.summary is None:
            continue
        evidence = findings.evidence.get(row.task)
        ends = evidence.intervals.get(row.init) if evidence else None
        over = ""
        if ends is not None and ends.low is not None and ends.high is not None:
            over = f" ({100 * ends.low:.2f} to {100 * ends.high:.2f} over patients)"
        found.append(f"{row.task}, {row.init}: {percent(row.summary)} over {row.summary.n} {plural(row.unit)}{over}")
    return found


def failures(findings: Findings) -> Facts:
    """Says whether the report shows worst images."""
    shown = findings.settings.images == "all" or (
        findings.settings.images == "synthetic" and any("synthetic" in result.marks for result in findings.results)
    )
    return ["the report may show best and worst test images of the pick; no run analyses them"] if shown else []


def software(findings: Findings) -> Facts:
    """Lists versions of libraries, and the code's commit."""
    versions: Mapping[str, None] = dict.fromkeys(
        f"{name} {version}" for result in findings.results for name, version in sorted(result.versions.items())
    )
    commits = dict.fromkeys(result.commit[:SHORT] for result in findings.results if result.commit)
    code = f"commit of the code: {', '.join(commits)}" if commits else "commit of the code: not recorded"
    return [", ".join(versions) or "versions: not recorded", code]


def hardware(findings: Findings) -> Facts:
    """Names devices and the time of the runs."""
    if not findings.results:
        return []
    devices = dict.fromkeys(result.device for result in findings.results)
    whole = span(sum(result.cost.get("seconds", 0.0) for result in findings.results))
    days = sorted({result.finished[:10] for result in findings.results} - {""})
    when = f"; finished {' to '.join(dict.fromkeys((days[0], days[-1])))}" if days else ""
    return [f"devices: {', '.join(devices)}; {quantity(len(findings.results), 'run')}, {whole} of run time{when}"]


def external(findings: Findings) -> Facts:
    """Says on which other tasks' test images networks were read, without training there."""
    found = []
    for task, sites in findings.away.items():
        for site in sites:
            marks = f" ({', '.join(site.marks)})" if site.marks else ""
            said = f"{task}, read on {quantity(site.images, 'test image')} of {site.task}{marks}"
            if site.note:
                found.append(f"{said}: not compared, {site.note}")
                continue
            each = [f"{one.init} {100 * one.drop.estimate:+.2f}" for one in site.inits if not one.barred]
            over = f"{metrics.title(site.metric)} over {', '.join(site.labels)}"
            found.append(
                f"{said}, {quantity(site.patients, 'patient')}: {over}, home minus there in points: "
                f"{', '.join(each) or 'none'}"
            )
    return found


def _first(findings: Findings) -> dict[str, Result]:
    """Gives a run of each task, in the benchmark's order."""
    runs = ((task, of_task(findings.results, task)) for task in findings.benchmark.tasks)
    return {task: own[0] for task, own in runs if own}


def _values(findings: Findings, name: str) -> list[str]:
    return list(dict.fromkeys(as_word(result.params[name]) for result in findings.results if name in result.params))


def _listed(findings: Findings, fields: Iterable[str]) -> Facts:
    """Lists parameters of each kind of task as its runs read them; several values are joined."""
    found = []
    for kind in dict.fromkeys(map(kind_of, findings.results)):
        each = ((name, _values(findings, f"{kind}.{name}")) for name in fields)
        words = ", ".join(f"{name} {' or '.join(values)}" for name, values in each if values)
        found += [f"{kind}: {words}"] if words else []
    return found
