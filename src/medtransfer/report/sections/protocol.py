"""What the runs were made under: deviations from the published protocol, what it does not say, the ledger, hashes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medtransfer import params
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.wording import as_word
from medtransfer.core import schema
from medtransfer.core.arithmetic import kind
from medtransfer.core.errors import quantity, span
from medtransfer.data import catalog
from medtransfer.report.tables import Section, grid
from medtransfer.results.away import read_after_test
from medtransfer.results.result import Result, kind_of, of_task

NOT_DEVIATIONS = ("benchmark.", "comparison.", "execution.", "phantoms.", "data.phantoms", "data.partial")
"""parameters that say where and how much is run, not how: a difference is no deviation from a protocol"""

UNSAID = (
    ("", "How many runs a mean is over: the printed table's marks are consistent with n = 5, which is inferred."),
    ("", "The figures' marks are consistent with n = 3 to 10, by task, or they are not made by one rule."),
    ("", "Which std and which t-test: here the sample std (ddof 1); the authors' code computes ddof 0."),
    ("", "Seeds: the authors' code sets none; here every random stream has one."),
    ("", "Hardware and run time: not stated; the authors' code computes in fp32."),
    ("", "Validation images: not augmented here; the authors' segmentation code augments them as in training."),
    ("classification", "Input normalization of classification: ImageNet's in the authors' code, for every init."),
    ("segmentation", "Input normalization of segmentation: by default only a division by 255 in the authors' code."),
    ("segmentation", "Which Dice: here the mean per image, 1.0 when target and prediction are empty."),
    ("", "Order of geometric changes: the authors' code rotates after cropping, which leaves black corners."),
    ("", "Image size before cropping: the authors crop from the original, a smaller cache enlarges small crops."),
    ("inat2021", "Which weights `inat2021` is: trained from scratch, or started from ImageNet."),
)  # fmt: skip
"""(what it concerns: "" = all, a kind, a dataset or an initialization; what the paper does not say and what we do)"""


def _published(published: params.Params, task: str, kind: str) -> dict[str, Any]:
    """Lays out the published parameters of a task, its own changes resolved."""
    flat = schema.flatten(published)
    if task in published.tasks:
        flat |= schema.flatten(params.protocol(published, task, kind == "segmentation"), kind)
    return flat


def deviations(results: Sequence[Result], kind: str, published: params.Params) -> Section:
    """Lists what differs from the published protocol: parameter, here, published."""
    own = [result for result in results if kind_of(result) == kind]
    present = sorted({result.task for result in own})
    found: dict[tuple[str, str, str], list[str]] = {}
    for task in present:
        for difference in _differences(of_task(own, task), _published(published, task, kind)):
            found.setdefault(difference, []).append(task)
    lines = []
    for (name, here, theirs), where in sorted(found.items()):
        suffix = "" if where == present else f" ({', '.join(where)})"
        lines.append((name + suffix, here, theirs))
    unknown = [task for task in present if task not in published.tasks]
    notes = [f"Not a task of the published protocol: {', '.join(unknown)}."] if unknown else []
    if not lines:
        notes.append("No parameter differs.")
    laid = grid(("parameter", "here", "published"), lines) if lines else None
    title = f"Deviations from the published protocol: {kind}"
    return Section(title=title, slug=f"deviations-{kind}", grid=laid, notes=tuple(notes))


def _differences(results: Sequence[Result], theirs: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Lists (parameter, here, published) of one task; several values here are joined."""
    read = [{"model.backbone": result.backbone, **result.params} for result in results]
    differences = []
    names = {name for run in read for name in run if not name.startswith(NOT_DEVIATIONS)}
    for name in sorted(name for name in names if not read_after_test(name)):
        values = [run[name] for run in read if name in run]
        if name not in theirs or any(value != theirs[name] for value in values):
            here = ", ".join(dict.fromkeys(map(as_word, values)))
            short = name.split(".", 2)[2] if name.startswith("tasks.") else name
            differences.append((short, here, as_word(theirs[name]) if name in theirs else "not stated"))
    return differences


def unsaid(results: Sequence[Result]) -> Section:
    """Lists what the published protocol leaves open, and what is done here."""
    present = {""} | {kind_of(result) for result in results} | {result.task for result in results}
    present |= {part.split("@")[0] for result in results for part in result.init.split("+")}
    notes = tuple(text for scope, text in (*UNSAID, *_of_tasks()) if scope in present)
    return Section(title="What the published protocol does not say", slug="unsaid", level=3, notes=notes, bullets=True)


def _of_tasks() -> list[tuple[str, str]]:
    return [(task, f"{task}: {text}") for task, text in catalog.UNSAID.items()]


def ledger(findings: Findings) -> Section:
    """Tabulates what each initialization was given on each task: runs, tuning, epochs, time."""
    results, lines = findings.results, []
    for task in findings.benchmark.tasks:
        for init in findings.benchmark.inits:
            runs = [result for result in results if (result.task, result.init) == (task, init)]
            if runs:
                lines.append((task, init, str(len(runs)), _tuning(runs), *_costs(runs)))
    header = ("task", "init", "runs", "tuning", "epochs per run", "seconds per run", "GPU seconds per run")
    whole = sum(result.cost.get("seconds", 0.0) for result in results)
    tuned = {"fixed": "Tuning: none, one recipe for all inits.", "tuned": "Recipe: each init's own, from its study."}
    notes = [f"{quantity(len(results), 'run')}, {span(whole)} of run time in all. {tuned[findings.settings.recipe]}"]
    for task in findings.benchmark.tasks:
        for result in of_task(results, task)[:1]:
            counts = ", ".join(f"{split} {count}" for split, count in result.counts.items())
            notes.append(f"{task}: device {result.device}; images: {counts}; split {result.split}.")
    return Section(
        title="Ledger",
        slug="ledger",
        grid=grid(header, lines),
        notes=tuple(notes),
        figures=("cost", "curves"),
        folded=True,
    )


def _tuning(runs: Sequence[Result]) -> str:
    """Says what the values of the runs cost to find."""
    study = runs[0].study
    return f"{study['trials']} trials, {study['images']:,} images" if study else "none"


def _costs(runs: Sequence[Result]) -> list[str]:
    entries = []
    for name in ("epochs", "seconds", "gpu_seconds"):
        values = [result.cost[name] for result in runs if name in result.cost]
        entries.append(f"{sum(values) / len(values):.1f}" if values else "-")
    return entries


def protocol(results: Sequence[Result]) -> list[Section]:
    """Lists every parameter that the runs of a kind read; where tasks differ, by task."""
    return [
        _parameters([result for result in results if kind_of(result) == kind], kind)
        for kind in sorted(set(map(kind_of, results)))
    ]


def _parameters(results: Sequence[Result], kind: str) -> Section:
    found: dict[str, dict[str, list[str]]] = {}
    for result in results:
        for name, value in result.params.items():
            tasks = found.setdefault(name, {}).setdefault(as_word(value), [])
            if result.task not in tasks:
                tasks.append(result.task)
    lines = []
    for name, values in sorted(found.items()):
        several = len(values) > 1
        words = [f"{value} ({', '.join(tasks)})" if several else value for value, tasks in values.items()]
        lines.append((name, "; ".join(words)))
    title = f"Parameters of the runs: {kind}"
    return Section(
        title=title, slug=f"parameters-{kind}", level=3, grid=grid(("parameter", "value"), lines), folded=True
    )


def hashes(findings: Findings) -> list[Section]:
    """Lists what the numbers rest on, down to every file: data, weights, runs, libraries."""
    results = findings.results
    inputs = sorted({("data", result.task, result.manifest_digest) for result in results})
    inputs += sorted({("weights", result.init, str(result.weights_sha256)) for result in results})
    versions = sorted({f"{name} {version}" for result in results for name, version in result.versions.items()})
    protocols = ", ".join(sorted({str(result.protocol_version) for result in results}))
    kinds = "; ".join(sorted({kind(result.arithmetic) for result in results}))
    note = f"Protocol version {protocols}; {', '.join(versions)}. Data: digest of the prepared cache; weights: sha256."
    runs = [
        (result.task, result.init, str(result.seed), result.part or "-", result.digest,
         str(result.mlflow_run_id or "-"))
        for result in results
    ]  # fmt: skip
    header = ("task", "init", "seed", "fold or split", "digest", "MLflow run")
    return [
        Section(
            title="Inputs",
            slug="inputs",
            grid=grid(("what", "name", "digest"), inputs),
            notes=(note, f"Arithmetic: {kinds}."),
            folded=True,
        ),
        Section(title="Runs", slug="runs", grid=grid(header, runs), folded=True),
    ]
