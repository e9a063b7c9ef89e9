"""What was compared: the first lines of the report."""

from __future__ import annotations

from medtransfer.comparison.findings import Findings
from medtransfer.comparison.wording import names, plural
from medtransfer.results.result import of_task
from medtransfer.weights.families import backbone, labels

UNKNOWN = "not recorded (runs of an earlier version)"
SHORT = 12
"""characters of a hash"""


def facts(findings: Findings) -> tuple[tuple[str, str], ...]:
    """Says what was compared, when it ran, on which data, with which code: pairs of a name and words."""
    results = findings.results
    versions = sorted({str(result.protocol_version) for result in results})
    commits = sorted({result.commit for result in results} - {""})
    words = f"protocol version {', '.join(versions)}"
    code = f"commit {', '.join(commit[:SHORT] + '+' * commit.endswith('+') for commit in commits)}" if commits else ""
    return (
        ("Compared", _compared(findings)),
        ("Trained", _when(findings)),
        ("Data", "; ".join(filter(None, (_data(findings, task) for task in findings.benchmark.tasks)))),
        ("Code", f"{code or f'commit {UNKNOWN}'}; {words}"),
    )


def _compared(findings: Findings) -> str:
    benchmark, own = findings.benchmark, findings.benchmark.inits
    inits = names(list(labels(own).values()), 8)
    body = f"; backbone {backbone(own)}" if backbone(own) else ""
    counts = (
        _count(len(own), "initialization"), _count(len(benchmark.tasks), "task"), _count(len(benchmark.seeds), "seed"),
    )  # fmt: skip
    runs = _count(len(findings.results), "finished run")
    several = len(benchmark.protocols) > 1 or len(benchmark.fractions) > 1
    protocol = f" by {findings.settings.protocol} with all labels" if several else ""
    recipe = f"{findings.settings.recipe} recipe"
    return f"{' x '.join(counts)}, {runs}{protocol}: {inits}{body}; {recipe}; look {findings.look}"


def _when(findings: Findings) -> str:
    days = sorted({result.finished[:10] for result in findings.results} - {""})
    if not days:
        return UNKNOWN
    known = sum(bool(result.finished) for result in findings.results)
    rest = "" if known == len(findings.results) else f" ({known} of {len(findings.results)} runs say when)"
    return " to ".join(dict.fromkeys((days[0], days[-1]))) + rest


def _data(findings: Findings, task: str) -> str:
    own = of_task(findings.results, task)
    if not own:
        return ""
    counts = ", ".join(f"{number:,} {split}" for split, number in own[0].counts.items())
    evidence = findings.evidence.get(task)
    tested = f" ({evidence.patients:,} test {plural(evidence.unit)})" if evidence else ""
    return f"{task}: images {counts}{tested}, data {own[0].manifest_digest[:SHORT]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
