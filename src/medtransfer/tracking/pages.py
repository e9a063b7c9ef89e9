"""Addresses of a study's pages in MLflow's UI, which by itself opens on its page for language models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from mlflow import MlflowClient

from medtransfer.core.addresses import scrub
from medtransfer.results.result import Result
from medtransfer.tracking import PREFIX, connect, uri
from medtransfer.tracking.store import DESCRIPTIONS, VIEW

LOCAL = "http://127.0.0.1:5000"
"""where `medtransfer ui --serve` serves"""
TRAINING = "workflowType=machine_learning"
"""asks MLflow 3 for its pages of training; without it come those that were asked for last, at first those of traces"""
MOST = 30
"""runs side by side: more make the address too long for some browsers, and the page unreadable"""


def pages(root: Path, results: Iterable[Result] = ()) -> dict[str, str]:
    """Finds the experiments of the tasks, the first seed of every init side by side, and the registered models.

    Args:
        root: the study's folder.
        results: finished runs, which are put side by side task by task.

    Raises:
        Away: MLflow does not answer.
        UserError: its store cannot be opened.
    """
    client, where = connect(root), uri(root)
    base = scrub(where).rstrip("/") if where.startswith("http") else LOCAL
    compared, found = _first_seeds(results), dict[str, str]()
    ours = [place for place in client.search_experiments() if place.name.startswith(PREFIX)]
    for name, number in sorted((place.name.removeprefix(PREFIX), place.experiment_id) for place in ours):
        view = "" if name in DESCRIPTIONS else f"viewStateShareKey={VIEW}&"
        found[f"{name}: runs" if name in compared else name] = f"{base}/#/experiments/{number}/runs?{view}{TRAINING}"
        runs = [*compared.get(name, {}).values()][:MOST]
        if len(runs) > 1:
            asked = f"runs={_listed(runs)}&experiments={_listed([number])}&{TRAINING}"
            found[f"{name}: side by side"] = f"{base}/#/compare-runs?{asked}"
    return found | {f"model {name}": f"{base}/#/models/{quote(name)}?{TRAINING}" for name in _models(client)}


def _first_seeds(results: Iterable[Result]) -> dict[str, dict[str, str]]:
    """Finds MLflow's run of the first seed of every init: task -> init -> run."""
    found: dict[str, dict[str, str]] = {}
    for result in sorted(results, key=lambda result: result.seed):
        if result.mlflow_run_id:
            found.setdefault(result.task, {}).setdefault(result.init, str(result.mlflow_run_id))
    return found


def _listed(names: Sequence[str]) -> str:
    return quote(json.dumps(names, separators=(",", ":")))


def _models(client: MlflowClient) -> list[str]:
    """Lists the registered models that promotion made."""
    return sorted(model.name for model in client.search_registered_models() if "medtransfer" in model.tags)
