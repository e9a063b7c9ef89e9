"""Whether compiling pays: what it costs the planned runs, and by how much they must be faster for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from medtransfer.core.errors import quantity, span
from medtransfer.runs.costs import Cost, Kind, kind
from medtransfer.runs.run import Run

ON_A_CPU = (
    "On the CPU where compiling was tried it took 46 to 124 s of CPU time for steps 0.93 to 1.04 times as fast: at "
    "best that pays after 20 minutes of them, for each shape and worker."
)


class Planned(NamedTuple):
    """What is known of a run that is to be compiled."""

    shape: tuple[object, ...]
    """what a worker compiles but once; equal for runs that differ in their weights alone"""
    uncompiled: float | None
    """seconds that finished runs of its kind took without compiling"""
    compiled: float | None
    """seconds that finished runs of its kind took compiled, but for compiling itself"""
    compiling: float
    """the most seconds that finished runs of its shape and task took to compile; 0: not known"""


def planned(runs: Sequence[Run], rates: Mapping[Kind, Cost]) -> list[Planned]:
    """Looks up what finished runs say of those that are to be compiled."""
    spent: dict[Kind, float] = {}
    for of, cost in rates.items():
        spent[_any_length(of)] = max(cost.compiling, spent.get(_any_length(of), 0.0))
    return [
        Planned(_shape(run, of), _seconds(rates, of.uncompiled), _seconds(rates, of), spent.get(_any_length(of), 0.0))
        for run, of in ((run, kind(run)) for run in runs if run.trains)
    ]


def _any_length(of: Kind) -> Kind:
    """Takes out of a kind what a compiled network does not know."""
    return of._replace(max_epochs=0, fraction="")


def _seconds(rates: Mapping[Kind, Cost], of: Kind) -> float | None:
    return rates[of].seconds if of in rates else None


def _shape(run: Run, of: Kind) -> tuple[object, ...]:
    frozen = run.training.backbone_lr == 0
    return (*_any_length(of)._replace(task=""), run.record.segmentation, len(run.record.labels), frozen)


def words(runs: Sequence[Planned], workers: int, device: str) -> str:
    """Says what compiling costs these runs, and what it must give to pay.

    Args:
        runs: that are to be done.
        workers: that share them.
        device: `cpu` or `cuda`.
    """
    if not runs:
        return ""
    counts = Counter(run.shape for run in runs)
    times = {shape: min(workers, count) for shape, count in counts.items()}
    each = {shape: max(run.compiling for run in runs if run.shape == shape) for shape in counts}
    known = [run for run in runs if each[run.shape]]
    price = sum(seconds * times[shape] for shape, seconds in each.items())
    said = (
        f"Compiling: {quantity(len(counts), 'shape')} (backbone, size, batch, outputs), once for each worker that "
        f"trains it, so at most {quantity(sum(times.values()), 'time')} on {quantity(workers, 'worker')}"
    )
    missing = sum(not seconds for seconds in each.values())
    if not known:
        parts = [f"{said}; what it costs is not known yet, as no run that compiled has finished here."]
    elif missing:
        parts = [
            f"{said}: at most {span(price)} more of one worker, "
            f"and of {quantity(missing, 'shape')} it is not known yet."
        ]
    else:
        parts = [f"{said}: at most {span(price)} more of one worker."]
    if known:
        parts += _pays(known, price)
    return " ".join([*parts, *([ON_A_CPU] if device == "cpu" else [])])


def _pays(runs: Sequence[Planned], price: float) -> list[str]:
    """Says from which gain on it pays, and what the gain was where runs of the same kind finished both ways."""
    before = [run.uncompiled for run in runs if run.uncompiled is not None]
    after = [run.compiled for run in runs if run.compiled is not None]
    if len(before) == len(runs):
        whole = sum(before)
        if whole <= price:
            return [f"It cannot pay: uncompiled all of it takes {span(whole)}; set engine.compile to false."]
        said = [f"It pays where steps are more than {_percent(price / (whole - price))} faster than uncompiled ones, "
                f"with which these runs take {span(whole)}."]  # fmt: skip
        return said + (_found(whole, sum(after), price) if len(after) == len(runs) else [])
    if len(after) == len(runs):
        whole = sum(after)
        need = f"It pays if steps are more than {_percent(price / whole)} faster than uncompiled ones: "
        return [f"{need}these runs take {span(whole)} beside compiling, and uncompiled none has finished."]
    return ["How long these runs take is not known yet, and so not from which gain on it pays."]


def _found(before: float, after: float, price: float) -> list[str]:
    gain, saved = before / after - 1, before - after - price
    verdict = (
        f"saves {span(saved)}" if saved > 0 else f"costs {span(-saved)} more than it saves: set engine.compile to false"
    )
    pace = f"{_percent(gain)} faster" if gain >= 0 else f"{_percent(-gain)} slower"
    return [f"Finished runs of the same kinds were {pace} compiled, which {verdict}."]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
