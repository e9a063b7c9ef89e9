"""What earlier results say of initializations before a task is looked at: own runs on other tasks, published tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medtransfer.comparison import published, selection
from medtransfer.core.errors import UserError
from medtransfer.data import catalog
from medtransfer.data.tasks import origins
from medtransfer.params import Params
from medtransfer.results.result import Result, of_task
from medtransfer.statistics import cheap_ranking
from medtransfer.weights.families import split


def places(params: Params, root: Path, task: str, inits: Sequence[str]) -> Mapping[str, float]:
    """Gives the mean place of each init over other tasks, 0 the last and 1 the first; one in the middle is added.

    An init of which nothing is known has none.

    Own results count by the whole name of an init; published ones, whose tables name no backbone, by the bare one.
    Tasks that share images count once, and those that share images with the task that is asked about not at all.

    Args:
        params: name the published tables, `comparison.against`.
        root: the study's folder.
        task: that is asked about.
        inits: canonical names.
    """
    derived = catalog.derivations(root)
    here = origins(catalog.lookup(task, root).dataset, derived)
    tables = [*_own(root), *_published(params, root)]
    tables = [one for one in tables if one.task != task and not here & one.images]
    rows = [[one.scores.get(init, one.scores.get(split(init)[0], np.nan)) for init in inits] for one in tables]
    groups = [min(one.images) for one in tables]
    if not rows:
        return {}
    found = zip(inits, cheap_ranking.static_prior(rows, groups).tolist(), zip(*rows, strict=True), strict=True)
    return {init: place for init, place, scores in found if not np.isnan(scores).all()}


@dataclass(frozen=True)
class _Earlier:
    """Mean scores on a task."""

    task: str
    images: frozenset[str]
    """datasets that its images are from"""
    scores: Mapping[str, float]
    """by canonical name, of published ones by bare name"""


def _own(root: Path) -> list[_Earlier]:
    """Reads mean test scores of finished runs."""
    try:
        results = selection.collect(root / "data/results/cells", root)
    except UserError:  # there are none, or what is wrong with them is `compare`'s to say
        return []
    found = []
    for task in dict.fromkeys(result.task for result in results):
        runs = [one for one in of_task(results, task) if _plain(one) and one.score is not None]
        scores = dict[str, list[float]]()
        for one in runs:
            scores.setdefault(one.init, []).append(float(one.score or 0.0))
        if scores:
            means = {init: float(np.mean(values)) for init, values in scores.items()}
            found.append(_Earlier(task, frozenset((runs[0].dataset, *runs[0].images)), means))
    return found


def _plain(result: Result) -> bool:
    return result.protocol == "finetune" and result.fraction == "1" and result.recipe == "fixed"


def _published(params: Params, root: Path) -> list[_Earlier]:
    """Reads published means."""
    found = dict[tuple[str, str], dict[str, float]]()
    for path in params.comparison.against:
        for row in published.read(root / path, n=params.comparison.published_n):
            if row.score:
                found.setdefault((row.paper, row.task), {})[row.init] = row.mean
    images = {task: origins(task, catalog.DERIVED | published.SHARED_IMAGES) for _, task in found}
    return [_Earlier(task, frozenset(images[task]), scores) for (_, task), scores in found.items()]
