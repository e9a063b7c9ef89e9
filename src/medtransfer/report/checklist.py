"""A checklist for a paper on the runs: what guidelines ask, what the runs know, what authors must say.

Numbers are those of TRIPOD+AI (Collins et al., BMJ 2024) and of CLAIM, 2024 update (Tejani et al., Radiology:
Artificial Intelligence 2024); Metrics Reloaded (Maier-Hein et al., Nature Methods 2024) has none. What is asked stands
in words of our own. No item is called fulfilled: that is for who reads the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medtransfer.comparison.findings import Findings
from medtransfer.report import checklist_facts as facts
from medtransfer.report import formats
from medtransfer.report.checklist_facts import Filling
from medtransfer.report.tables import grid

UNKNOWN = "**The runs do not show it: the authors' to say.**"
AUTHORS = "**Authors.**"


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something that guidelines ask for."""

    asks: str
    tripod: str = "-"
    """numbers in TRIPOD+AI"""
    claim: str = "-"
    """numbers in CLAIM 2024"""
    reloaded: str = "-"
    """what Metrics Reloaded calls it"""
    known: Filling
    """what the runs know of it"""
    rest: str = ""
    """what they do not, and the authors must add"""


ITEMS = (
    Item(asks="where the images are from", tripod="5a", claim="7", known=facts.data_sources,
         rest="why these data, and whom they stand for"),
    Item(asks="how many images and patients, by part of the data", tripod="20a, 21", claim="35", known=facts.numbers,
         rest="how many were left out before, and why"),
    Item(asks="how the data were divided, and at which level parts share nothing", tripod="12a", claim="19, 20",
         reloaded="dependent test images", known=facts.partitions),
    Item(asks="what is missing or uncertain, and what was done about it", tripod="11", claim="12",
         reloaded="missing values", known=facts.missing, rest="what was missing before the images came here"),
    Item(asks="what was done to the images", tripod="7", claim="9", known=facts.preprocessing),
    Item(asks="what the model is, and what comes out", tripod="12c, 15, 22", claim="22", reloaded="kind of problem",
         known=facts.model),
    Item(asks="what training started from", tripod="12c", claim="24", known=facts.initialization),
    Item(asks="how it was trained", tripod="12c", claim="25", known=facts.training),
    Item(asks="how values of the recipe were searched", tripod="12c", claim="25", known=facts.tuning),
    Item(asks="how the final model was chosen", tripod="12c", claim="26", known=facts.selection),
    Item(asks="whether models were combined", tripod="12c", claim="27", known=facts.ensembling),
    Item(asks="unequal classes", tripod="13", reloaded="prevalence", known=facts.imbalance),
    Item(asks="which measures, and what they measure", tripod="12e", claim="28", reloaded="choice of metrics",
         known=facts.measures, rest="why they answer the clinical question"),
    Item(asks="how sure the numbers are", tripod="12e, 23a", claim="29", reloaded="aggregation and uncertainty",
         known=facts.uncertainty),
    Item(asks="what was varied to see whether results hold", claim="30", known=facts.robustness),
    Item(asks="how good each model is", tripod="23a", claim="32, 37, 38", known=facts.performance),
    Item(asks="whether probabilities come true", tripod="12e, 23a", reloaded="calibration", known=facts.calibration),
    Item(asks="performance in groups of patients, and fairness", tripod="14, 20b, 23a", claim="36",
         known=facts.subgroups, rest="which groups matter, and what else is known of the patients"),
    Item(asks="test on data of another place", tripod="12d, 16, 20c, 23b", claim="33", known=facts.external),
    Item(asks="what the errors are", claim="39", known=facts.failures, rest="the analysis"),
    Item(asks="software, with versions, and code", tripod="12g, 18f", claim="23", known=facts.software,
         rest="where the code is"),
    Item(asks="hardware and cost", known=facts.hardware),
)  # fmt: skip
"""that the runs know something of, or could"""

OF_AUTHORS = (
    ("title and abstract that name the kind of study and of method", "1, 2", "1, 2"),
    ("the clinical question, the intended use and role, known inequalities", "3a to 3c", "3"),
    ("aims and hypotheses; what kind of study it is", "4", "4, 6"),
    ("whether patients were found before or after the question was asked", "5a", "5"),
    ("when, where and by whom patients were seen", "5b, 6a", "7"),
    ("who could take part, and which treatments there were", "6b, 6c", "8"),
    ("how a part of the data was chosen, if it was", "-", "10"),
    ("how images were made anonymous", "-", "11"),
    ("how images were acquired", "9b", "13"),
    ("the reference standard: what it is, why, by whom, with which agreement", "8a to 8c, 9c", "14 to 18"),
    ("why the test set has this size", "10", "21"),
    ("how decisions of the model are explained, if they are", "-", "31"),
    ("approval by an ethics committee, and consent", "17", "-"),
    ("whether the model was changed after its evaluation", "12f, 24", "-"),
    ("registration and protocol of the study", "18c, 18d", "34, 42"),
    ("funding, and conflicts of interest", "18a, 18b", "44"),
    ("who can have data, code and model", "18e, 18f", "43"),
    ("whether patients and public were involved", "19", "-"),
    ("what results mean, and for whom they do not hold", "25, 26", "40"),
    ("use in practice: poor images, the users' skill, what comes next", "27a to 27c", "41"),
)
"""what no run can know: what is asked, its numbers in TRIPOD+AI and in CLAIM 2024"""


def render(findings: Findings, first: Sequence[str] = ()) -> str:
    """Writes the checklist in Markdown.

    Args:
        findings: of the runs.
        first: sentences that must stand over everything made from these runs.
    """
    header = ("asked for", "TRIPOD+AI", "CLAIM 2024", "Metrics Reloaded", "what the runs know")
    known = [(item.asks, item.tripod, item.claim, item.reloaded, _words(item, findings)) for item in ITEMS]
    others = [(asks, tripod, claim, AUTHORS) for asks, tripod, claim in OF_AUTHORS]
    parts = [
        *first,
        "# Checklist for a paper on these runs",
        "What TRIPOD+AI, CLAIM (2024 update) and Metrics Reloaded ask for, in words of our own with the numbers of "
        "their items, and what these runs know of it. It says what was done; whether that fulfils an item is for "
        "authors and reviewers to judge, by the text of the guidelines.",
        "## From the runs",
        formats.table_markdown(grid(header, known)),
        "## From the authors alone",
        formats.table_markdown(grid(("asked for", "TRIPOD+AI", "CLAIM 2024", "who"), others)),
    ]
    return "\n\n".join(parts) + "\n"


def _words(item: Item, findings: Findings) -> str:
    found = item.known(findings)
    if not found:
        return UNKNOWN
    return "<br>".join([*found, *([f"{AUTHORS} To add: {item.rest}."] if item.rest else [])])
