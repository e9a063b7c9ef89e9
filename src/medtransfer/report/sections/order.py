"""Findings -> the parts of the report, in the order in which a person wants to know them."""

from __future__ import annotations

from dataclasses import replace

from medtransfer import params
from medtransfer.comparison.findings import Findings
from medtransfer.report.sections import (
    answers,
    away,
    bayesian,
    calibration,
    contrasts,
    controls,
    convergence,
    degradation,
    fewer_labels,
    protocol,
    protocols,
    repetition,
    requirements,
    scores,
    subgroups,
    tuning,
)
from medtransfer.report.tables import Section
from medtransfer.results.result import kind_of


def sections_of(findings: Findings, published: params.Params) -> list[Section]:
    """Lays out the whole report.

    Args:
        findings: the comparison.
        published: parameters of the published protocol, against which deviations are listed.
    """
    results = findings.results
    kinds = sorted({kind_of(result) for result in results})
    found: list[Section | None] = [
        answers.answer(findings),
        scores.scores(findings),
        *contrasts.against_reference(findings),
        contrasts.pooled(findings),
        contrasts.over_tasks(findings),
        *bayesian.bayesian(findings),
        *controls.controls(findings),
        repetition.repetition(findings),
        contrasts.by_kind(findings),
        answers.claims(findings),
        *fewer_labels.fewer_labels(findings),
        convergence.convergence(findings),
        *protocols.protocols(findings),
        tuning.recipes(findings),
        tuning.studies(findings),
        tuning.ranking(findings),
        scores.as_printed(findings),
        *_under("Beside published numbers", scores.printed(findings)),
        contrasts.intervals(findings),
        *_under("Labels", scores.labels(findings)),
        *calibration.calibration(findings),
        *subgroups.subgroups(findings),
        *away.away(findings),
        *degradation.degradation(findings),
        requirements.requirements(findings),
        *_under("Further scores", scores.further(findings)),
        *_under("Protocol", [protocol.deviations(results, kind, published) for kind in kinds]),
        protocol.unsaid(results),
        *protocol.protocol(results),
        protocol.ledger(findings),
        *_under("Hashes", protocol.hashes(findings)),
        answers.glossary(),
    ]
    return [section for section in found if section is not None]


def _under(title: str, sections: list[Section]) -> list[Section]:
    """Puts sections of one kind under a heading."""
    head = Section(title=title, slug=title.lower().replace(" ", "-"))
    return [head, *(replace(section, level=3) for section in sections)] if sections else []
