"""Arrays in, numbers out: metrics, tests and intervals; no name, no file.

What is used most can be had from here: `mt.statistics.t_test`; the rest from its file: `mt.statistics.delong.area`.
Each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medtransfer.statistics import (
        agreement,
        all_pairs,
        bootstrap,
        cheap_ranking,
        convergence,
        delong,
        effects,
        label_savings,
        metrics,
        race,
        randomization,
        ranks,
        seeds_and_patients,
        t_tests,
        transferability,
    )
    from medtransfer.statistics.effects import standardized
    from medtransfer.statistics.randomization import permutation_test, wilcoxon_test
    from medtransfer.statistics.ranks import friedman, nemenyi, rank, signed_rank
    from medtransfer.statistics.seeds_and_patients import joint_interval
    from medtransfer.statistics.t_tests import corrected_t_test, summary, t_test, t_test_from_summary

__all__ = [
    "agreement", "all_pairs", "bootstrap", "cheap_ranking", "convergence", "corrected_t_test", "delong", "effects",
    "friedman", "joint_interval", "label_savings", "metrics", "nemenyi", "permutation_test", "race",
    "randomization", "rank", "ranks", "seeds_and_patients", "signed_rank", "standardized", "summary", "t_test",
    "t_test_from_summary", "t_tests", "transferability", "wilcoxon_test",
]  # fmt: skip

_HOMES = {
    "effects": ("standardized",),
    "randomization": ("permutation_test", "wilcoxon_test"),
    "ranks": ("friedman", "nemenyi", "rank", "signed_rank"),
    "seeds_and_patients": ("joint_interval",),
    "t_tests": ("corrected_t_test", "summary", "t_test", "t_test_from_summary"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    module = importlib.import_module(f"{__name__}.{_HOME.get(name, name)}")
    return getattr(module, name) if name in _HOME else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
