"""Findings -> plain records for CSV and JSON files; an empty value means undefined, missing or not applicable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from medtransfer.comparison.bayesian import Believed
from medtransfer.comparison.claims import said
from medtransfer.comparison.contrasts import ALL, Contrast
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.published_form import Row
from medtransfer.comparison.training_times import learning
from medtransfer.core import schema
from medtransfer.core.identity import digest
from medtransfer.results.result import Result, of_task
from medtransfer.statistics.t_tests import TTest

Record = dict[str, Any]


def runs(results: Iterable[Result]) -> list[Record]:
    """Lists every score and cost of every run, one record each."""
    return [
        {
            "task": result.task,
            "init": result.init,
            "seed": result.seed,
            "fold": result.fold,
            "recipe": result.recipe,
            "protocol": result.protocol,
            "fraction": result.fraction,
            "train_images": result.counts.get("train"),
            "metric": name,
            "value": value,
            "digest": result.digest,
            "marks": " ".join(result.marks),
            "labels_defined": result.labels - len(result.undefined),
            "labels": result.labels,
            "device": result.device,
            "protocol_version": result.protocol_version,
            "manifest_digest": result.manifest_digest,
            "weights_sha256": result.weights_sha256,
            "mlflow_run_id": result.mlflow_run_id,
        }
        for result in results
        for name, value in sorted({**result.scores, **result.cost}.items())
    ]


def every_run(findings: Findings) -> list[Result]:
    """Lists the runs of the benchmark, then those of its controls that are not among them."""
    runs = (*findings.results, *findings.beside, *(findings.controls.runs if findings.controls else ()))
    return list({run.digest: run for run in runs}.values())


def comparison(findings: Findings) -> list[Record]:
    """Lists every initialization on every task, with the test of the published form against the best."""
    return [_comparison(findings, row) for row in findings.rows]


def _comparison(findings: Findings, row: Row) -> Record:
    own = of_task(findings.results, row.task)
    result, test = (own[0] if own else None), row.test
    patients = findings.evidence[row.task].intervals.get(row.init) if row.task in findings.evidence else None
    return {
        "task": row.task,
        "init": row.init,
        "metric": result.metric if result else None,
        "mean": row.summary.mean if row.summary else None,
        "std": row.summary.std if row.summary else None,
        "n": len(row.seeds),
        "val": row.val,
        "patients_low": patients.low if patients else None,
        "patients_high": patients.high if patients else None,
        "best": row.best,
        "difference": row.difference,
        "p": test.p if test else None,
        "separated": row.separated,
        "test": test.test if test else findings.settings.test,
        "statistic": test.statistic if test else None,
        "df": test.df if isinstance(test, TTest) else None,
        "ddof": 1,
        "alpha": findings.settings.alpha,
        "correction": "none",
        "unit": "run" if row.unit == "seed" else row.unit,
        "labels_defined": result.labels - len(result.undefined) if result else None,
        "labels": result.labels if result else None,
        "applicable": row.applicable,
        "compared": row.compared,
        "seeds": " ".join(map(str, row.seeds)),
        "undefined": " ".join(map(str, row.undefined)),
        "missing": " ".join(map(str, row.missing)),
        "marks": " ".join(row.marks),
        "training_list": row.listed.words if row.listed else "",
        "note": row.stopped or (test.note if test else ""),
    }


def contrasts(findings: Findings) -> list[Record]:
    """Lists every comparison of two initializations, on each task and over all of them."""
    believed = {one.init: one for one in findings.bayesian}
    return [
        _contrast(findings, one) | (_believed(findings, one, believed) if findings.settings.bayesian else {})
        for one in findings.contrasts
    ]


def _contrast(findings: Findings, contrast: Contrast) -> Record:
    return {
        "task": contrast.task,
        "init": contrast.init,
        "against": contrast.against,
        "n": contrast.n,
        "unit": contrast.basis,
        "in": "margins" if contrast.task == ALL else "score",
        "estimate": contrast.estimate,
        "low": contrast.low,
        "high": contrast.high,
        "equal_low": contrast.equal_low,
        "equal_high": contrast.equal_high,
        "margin": contrast.margin,
        "verdict": contrast.word,
        "p": contrast.p,
        "p_adjusted": contrast.p_adjusted,
        "correction": "Bonferroni over all comparisons",
        "alpha": findings.alpha,
        "look": findings.look,
        "patients": contrast.patients or None,
        "patient_error": contrast.patient_error if contrast.patients else None,
        "seed_error": contrast.seed_error,
    }


def _believed(findings: Findings, contrast: Contrast, believed: Mapping[str, Believed]) -> Record:
    """Says of a difference from the reference what is believed of it: on a task as drawn towards the mean, else all."""
    one = believed.get(contrast.init) if contrast.against == findings.reference else None
    found = one.found if one else None
    own = one.tasks.index(contrast.task) if one and contrast.task in one.tasks else None
    whole = found if contrast.task == ALL else None
    belief = whole.mean if whole else found.each[own] if found and own is not None else None
    chances = {"mean": whole.of_mean, "next": whole.of_next} if whole else {}
    return {
        "believed": belief.estimate if belief else None,
        "believed_low": belief.low if belief else None,
        "believed_high": belief.high if belief else None,
        **{
            f"p_{word}_{of}": getattr(chances[of], word) if of in chances else None
            for of in ("mean", "next")
            for word in ("better", "equivalent", "worse")
        },
    }


def claims(findings: Findings) -> list[Record]:
    """Lists every claim against everything it is said to be better than, on each body of evidence."""
    return [
        {
            "claim": name,
            "evidence": verdict.paper or "own runs",
            "backbone": verdict.backbone,
            "better": part.better,
            "than": part.than,
            "estimate": part.estimate,
            "low": part.low,
            "high": part.high,
            "alpha": part.alpha,
            "verdict": said(part.verdict, verdict.paper),
            "claim_verdict": said(verdict.verdict, verdict.paper),
            "digitised": part.digitised,
            "contaminated": part.contaminated,
            "notes": " | ".join(part.notes),
        }
        for name, verdicts in findings.claims.items()
        for verdict in verdicts
        for part in verdict.parts
    ]


def curves(results: Iterable[Result]) -> list[Record]:
    """Lists the primary metric on val, epoch by epoch, as a mean over the seeds that reached the epoch."""
    found: dict[tuple[str, str, int], list[float]] = {}
    for result in results:
        for epoch, scores in enumerate(learning(result)):
            if f"val_{result.metric}" in scores:
                found.setdefault((result.task, result.init, epoch), []).append(scores[f"val_{result.metric}"])
    return [
        {"series": f"{task} {init}", "task": task, "init": init, "epoch": epoch, "val": sum(v) / len(v), "n": len(v)}
        for (task, init, epoch), v in sorted(found.items())
    ]


def metrics(findings: Findings) -> dict[str, Any]:
    """Sums the comparison up for `dvc metrics show`: task -> init -> mean and std of the test score."""
    found: dict[str, Any] = {}
    for row in findings.rows:
        if row.summary is not None:
            found.setdefault(row.task, {})[row.init] = {"mean": row.summary.mean, "std": row.summary.std}
    known = {one.init: one.found for one in findings.bayesian if one.found is not None}
    chances = {init: {"mean": one.of_mean.__dict__, "next": one.of_next.__dict__} for init, one in known.items()}
    return found | ({"bayesian": chances} if chances else {})


def comparison_run(findings: Findings) -> dict[str, Any]:
    """Says how the comparison stands in MLflow: its digest, tags, parameters, metrics and description."""
    benchmark, settings = findings.benchmark, findings.settings
    parameters = schema.flatten(settings, "comparison") | schema.flatten(benchmark, "benchmark")
    parameters["comparison.reference"] = findings.reference
    if not settings.bayesian:
        del parameters["comparison.bayesian"]  # comparisons of before there was this are the same ones
    if not benchmark.controls:
        del parameters["benchmark.controls"]
    every = sorted(c.digest for c in every_run(findings))
    numbers = [comparison(findings), contrasts(findings), claims(findings), every]
    found = digest([numbers, parameters])
    marks = sorted({mark for result in findings.results for mark in result.marks})
    chosen = {(answer.scope, answer.chosen) for answer in findings.answers}
    means = {row.task: row.summary.mean for row in findings.rows if row.summary and (row.task, row.init) in chosen}
    return {
        "digest": found,
        "tags": {
            "marks": ", ".join(marks),
            "answer": findings.answers[0].verdict,
            "chosen": findings.answers[0].chosen,
            "candidates": " ".join(findings.answers[0].candidates),
            "look": str(findings.look),
        },
        "params": parameters,
        "metrics": {f"chosen_test_{task}": mean for task, mean in means.items()},
        "text": "\n\n".join(answer.text for answer in findings.answers),
    }
