"""Which pre-trained weights should a medical imaging model start from? A benchmark that answers with evidence.

In Python: `import medtransfer as mt`, then `mt.backbone`, `mt.prepare`, `mt.finetune`, `mt.recommend`, `mt.scores`,
`mt.compare`, `mt.tasks`, `mt.inits` and the functions of `mt.statistics`. Each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medtransfer import statistics
    from medtransfer.api import (
        Backbone,
        backbone,
        compare,
        create_model,
        finetune,
        inits,
        logged_runs,
        prepare,
        recommend,
        scores,
        tasks,
    )
    from medtransfer.comparison.findings import Findings
    from medtransfer.core.errors import UserError
    from medtransfer.data.cache import Prepared
    from medtransfer.report.comparison import Comparison
    from medtransfer.results.recommendation import Recommendation
    from medtransfer.results.result import Result

__all__ = [
    "Backbone", "Comparison", "Findings", "Prepared", "Recommendation", "Result", "UserError", "backbone", "compare",
    "create_model", "finetune", "inits", "logged_runs", "prepare", "recommend", "scores", "statistics", "tasks",
]  # fmt: skip

_ELSEWHERE = {
    "Comparison": "report.comparison",
    "Findings": "comparison.findings",
    "Prepared": "data.cache",
    "Recommendation": "results.recommendation",
    "Result": "results.result",
    "UserError": "core.errors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    if name == "statistics":
        return importlib.import_module("medtransfer.statistics")
    return getattr(importlib.import_module(f"medtransfer.{_ELSEWHERE.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
