"""Would the rankings come out again?"""

from __future__ import annotations

from medtransfer.comparison.findings import Findings
from medtransfer.comparison.wording import plural
from medtransfer.report.tables import Section, grid
from medtransfer.statistics import repetition as statistics
from medtransfer.statistics.repetition import MOST, Repetition


def repetition(findings: Findings) -> Section | None:
    """Tabulates, for every task and over all, how alike a repetition's ranking of the means is expected to be."""
    lines, units = [], dict[str, None]()
    for scope, column in findings.columns.items():
        found = statistics.repetition(column.pairs)
        if found is not None:
            units[plural(column.unit)] = None
            lines.append((scope, str(found.inits), *_numbers(found), _seeds(found)))
    if not lines:
        return None
    runs = " or ".join(units)
    header = ("ranking of", "inits", "reliability", "tau of a repetition", "ceiling", f"{runs} for .95")
    patients = any(column.pairs.patients for column in findings.columns.values())
    drawn = f"{runs} and test patients" if patients else f"{runs}"
    notes = (
        f"If all of this were done again with other {drawn}, the ranking by mean scores is expected to agree with "
        "this one by that tau (Kendall's: 1 equal, 0 unrelated; .6: four of five pairs stand in the same order). "
        "Ceiling: tau with the true ranking; nothing that predicts which weights are good can be expected to agree "
        "better with these means. Reliability: share of the variance of the means that is not luck (intraclass "
        "correlation).",
        "Estimated from all pairs (data thinning, then Spearman and Brown); no interval. A negative value is chance. "
        "Too modest by up to .1 at three seeds; with one outlier among equals up to .1 too high.",
    )
    return Section(
        title="Would the ranking come out again?", slug="repetition", grid=grid(header, lines), notes=notes,
        scores=True,
    )  # fmt: skip


def _numbers(found: Repetition) -> tuple[str, str, str]:
    reliability, tau, ceiling = (f"{value:.2f}" for value in (found.reliability, found.tau, found.ceiling))
    return reliability, tau, ceiling


def _seeds(found: Repetition) -> str:
    return f"more than {MOST:,}, or more patients" if found.seeds is None else str(found.seeds)
