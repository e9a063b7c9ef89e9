"""When two trainings of one run should give the same digits, and how far others were seen to come apart."""

from __future__ import annotations

from medtransfer.core import arithmetic
from medtransfer.results.result import Result

MEASURED = 0.2
"""largest difference in a primary score that equal code and one seed made under other instruction sets: .191 of AUC, on
64 test images, see docs/reproducibility.md; larger tests move less"""
EXACT = 1e-9
"""what equal arithmetic may differ by: nothing, but for how a number was written down"""


def alike(one: Result, two: Result) -> bool:
    """Says whether two machines compute the same digits: one CPU model, its instructions, threads and libraries.

    A GPU promises none, and a run of an earlier version does not say what it was computed with.
    """
    if not one.arithmetic or not two.arithmetic or {one.device, two.device} != {"cpu"}:
        return False
    same = arithmetic.kind(one.arithmetic) == arithmetic.kind(two.arithmetic)
    same = same and all(one.arithmetic.get(name) == two.arithmetic.get(name) for name in ("cpu", "versions"))
    return same and all(one.versions.get(name) == two.versions.get(name) for name in ("torch", "timm"))


def differing(one: Result, two: Result, most: float) -> list[str]:
    """Lists the scores that one of two runs lacks, or in which they differ by more than a number."""
    names = dict.fromkeys([*one.scores, *two.scores])
    return [
        name
        for name in names
        if name not in one.scores or name not in two.scores or abs(one.scores[name] - two.scores[name]) > most
    ]


def named(result: Result) -> str:
    """Names a run by what it is of, and by what is not usual of it."""
    variant = (
        result.part,
        "tuned" if result.recipe == "tuned" else "",
        result.protocol if result.protocol != "finetune" else "",
        f"fraction {result.fraction}" if result.fraction != "1" else "",
    )
    return ", ".join(filter(None, (result.task, result.init, f"seed {result.seed}", *variant)))
