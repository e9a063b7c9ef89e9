"""One finished run, read from its file: what was measured, without what is declared of a task.

What is undefined is absent; a damaged or incomplete file is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from medtransfer.core import files, schema
from medtransfer.core.errors import UserError
from medtransfer.data.tasks import Listed, Task, origins
from medtransfer.results.away import Away
from medtransfer.statistics import metrics

CONTAMINATED = "contaminated"
ELSEWHERE = "elsewhere"
"""in place of the verb, of a run that other code did: a row of a table of scores"""
RESULT, PREDICTIONS = "cell.json", "predictions.parquet"
"""files of a finished run"""
REMOTE = "remote"
"""folder beside that of the finished runs: what other machines trained, brought from MLflow"""
FACTS = "facts.json"
"""beside a task's runs: what was declared of it when they were put there, for who has not its `task.yaml`"""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is declared of a task, and not measured."""

    metric: str
    margin: float
    derived_from: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One finished run, as `finetune` wrote it."""

    digest: str
    verb: str
    init: str
    """canonical name"""
    task: str
    seed: int
    fold: Any
    """of a cross-validation, or the number of a drawn split; None: one split"""
    folds: int
    """runs of the cross-validation; 0: one split, or drawn ones"""
    kind: Literal["multilabel", "binary", "multiclass", "segmentation"]
    marks: tuple[str, ...]
    """of the data, such as `synthetic` and `partial`, and, looked up, `contaminated`"""
    scores: Mapping[str, float]
    cost: Mapping[str, float]
    """epochs, seconds, gpu_seconds, images; of a run that compiled also compile_seconds, which are among its seconds"""
    params: Mapping[str, Any]
    """the resolved parameters that the run read: dotted name -> value"""
    labels: int
    undefined: tuple[str, ...]
    """labels whose AUC is undefined in test"""
    device: str
    """device class, such as `cpu` or `NVIDIA A100`"""
    versions: Mapping[str, str]
    protocol_version: Any
    manifest_digest: str
    weights_sha256: Any
    """None for random weights"""
    mlflow_run_id: Any
    counts: Mapping[str, int]
    """images per split"""
    split: str
    """how the splits came about, and their hash"""
    dataset: str
    unit: Literal["patient", "study", "image"]
    """the statistical unit of the test images"""
    history: tuple[Mapping[str, float], ...]
    """losses and val scores, epoch by epoch"""
    tested: tuple[str, ...] = ()
    """labels whose scores are averaged, as in score names; empty: written by an earlier version"""
    measured: tuple[str, ...] = ()
    """metrics of the kind that the run measured, also where their score came out undefined"""
    tolerance: str = ""
    """of masks: how far outlines may be apart, with the unit of distances; empty: none were measured"""
    spared: tuple[str, ...] = ()
    """datasets of the init's chain that were searched for whoever this task tests, and left them out"""
    listed: Listed | None = None
    """what a list of the weights' training images holds of its test images; None: none is named"""
    recipe: str = "fixed"
    """or `tuned`: trained with the values that the study of init and task found"""
    protocol: str = "finetune"
    """what was trained, as in `benchmark.protocols`"""
    fraction: str = "1"
    """of train's labels: a share, or shots such as `16-shot`"""
    arithmetic: Mapping[str, str] = field(default_factory=dict)
    """instructions, threads and versions, see `arithmetic.in_force`; empty: written by an earlier version"""
    study: Mapping[str, Any] = field(default_factory=dict)
    """where tuned values are from: study, trial, trials and images spent"""
    commit: str = ""
    """of the code that trained it, with `+` where files were changed; empty: unknown"""
    finished: str = ""
    """when, in UTC, as in `2026-01-31T12:00:00Z`; empty: written by an earlier version"""
    parts: Mapping[str, str] = field(default_factory=dict)
    """file beside it -> its hash; empty: written by an earlier version"""
    away: tuple[Away, ...] = ()
    """other tasks on whose test images its network was read"""
    metric: str = ""
    """looked up: primary score without `test_`"""
    margin: float | None = None
    """looked up: smallest difference in the primary metric that matters"""
    images: tuple[str, ...] = ()
    """looked up: the dataset, and those that its images are taken from"""
    group: str = ""
    """one name for all tasks of the compared runs that share images"""

    @property
    def score(self) -> float | None:
        """The primary score; None where it is undefined."""
        return self.scores.get(f"test_{self.metric}")

    @property
    def val_score(self) -> float | None:
        """The primary metric on val, with the model of the chosen epoch; None where it is undefined."""
        return self.scores.get(f"best_val_{self.metric}")

    @property
    def backbone(self) -> str:
        """The architecture, which the canonical name of the init holds."""
        return self.init.rpartition("@")[2].split("+")[0]  # a file name may hold either sign

    @property
    def label(self) -> str:
        """Names the run for a message."""
        return " ".join(filter(None, [self.task, self.init, f"seed {self.seed}", self.part, f"({self.digest[:8]})"]))

    @property
    def drawn(self) -> bool:
        """Says whether it is of one of several drawn splits."""
        return self.fold is not None and not self.folds

    @property
    def part(self) -> str:
        """Names the fold or the drawn split, if any."""
        return "" if self.fold is None else f"{'split' if self.drawn else 'fold'} {self.fold}"

    @property
    def key(self) -> tuple[str, str, int, Any]:
        """Says which run of the benchmark this is."""
        return self.task, self.init, self.seed, self.fold


LOOKED_UP = ("metric", "margin", "images", "group")
"""fields that no file decides; earlier versions wrote some"""


def facts_of(task: Task) -> Facts:
    """Takes what is declared of a task."""
    return Facts(metric=task.metric, margin=task.margin, derived_from=task.derived_from)


def write_facts(task: Task, folder: Path) -> None:
    """Puts beside a task's runs what is declared of it, for those who get the runs and have not its description."""
    files.write_text(folder / FACTS, json.dumps(asdict(facts_of(task)), indent=1) + "\n")


def find_results(folder: Path) -> list[Path]:
    """Finds every `<task>/<digest>/cell.json` below a folder, and beside it in `remote`, in a stable order.

    Raises:
        UserError: there is none.
    """
    every = [*sorted(folder.glob(f"*/*/{RESULT}")), *sorted(folder.with_name(REMOTE).glob(f"*/*/{RESULT}"))]
    found = {path.parent.name: path for path in reversed(every) if not path.parent.name.startswith(".")}
    paths = list(reversed(found.values()))  # of a run that is in both the one here
    if not paths:
        raise UserError(
            f"looked for finished runs in {folder}/<task>/<digest>/cell.json, found none; run `finetune` first"
        )
    return paths


def predictions(result: Result, folder: Path, name: str = PREDICTIONS) -> Path:
    """Finds the test predictions of a run below the folder of finished runs; checked once per process.

    Args:
        result: of the run.
        folder: of the finished runs.
        name: of the file.

    Raises:
        UserError: they are missing, or not those that the run wrote.
    """
    places = [place / result.task / result.digest / name for place in (folder, folder.with_name(REMOTE))]
    path = next((place for place in places if place.is_file()), places[0])
    if not path.is_file():
        raise UserError(
            f"looked for the test predictions of {result.label} in {path}, found none; run `benchmark`, which brings "
            "them here"
        )
    if path.name in result.parts and not files.checked(path, result.parts[path.name]):
        raise UserError(
            f"{path} is damaged: it is not what {result.label} wrote; run `benchmark`, which brings it here again"
        )
    return path


def read_result(path: Path) -> Result:
    """Reads what a run measured, without what is looked up.

    Raises:
        UserError: the file is corrupt, incomplete or holds a score that is not a number.
    """
    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is corrupt ({error}); remove its folder and run `finetune` again") from error
    missing = [field.name for field in fields(Result) if not isinstance(tree, dict) or _required(field, tree)]
    if missing:
        raise UserError(f"{path} is not a finished run: it lacks {', '.join(missing)}")
    for name, score in dict(tree["scores"]).items():
        if isinstance(score, float) and score - score != 0:  # nan or infinity
            raise UserError(f"{path}: score {name} is {score}; an undefined score must be absent, not a stand-in")
    try:
        names = [field.name for field in fields(Result) if field.name not in LOOKED_UP]
        result: Result = schema.convert({name: tree[name] for name in names if name in tree}, Result)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return result if "measured" in tree else _of_earlier(result, tree)


def _of_earlier(result: Result, tree: Mapping[str, Any]) -> Result:
    """Reads from a file of an earlier version, which held facts, what was measured."""
    ordinal = tree.get("metric") == "kappa" or "test_kappa" in result.scores
    spared: tuple[str, ...] = ()
    if CONTAMINATED not in result.marks:  # else what its chain saw was not searched, or not in vain
        own = origins(result.dataset, {result.dataset: tree.get("derived_from") or ()})
        chain = result.init.rpartition("@")[2].split("+")[1:]
        spared = tuple(dataset for dataset in chain if dataset in own - {result.dataset})
    marks = tuple(mark for mark in result.marks if mark != CONTAMINATED)
    return replace(result, marks=marks, spared=spared, measured=metrics.measured(result.kind, ordinal))


def _required(field: Field[Any], tree: Mapping[str, Any]) -> bool:
    return field.name not in tree and field.default is field.default_factory is MISSING


def kind_of(result: Result) -> str:
    """Says which section of the parameters a run was trained under."""
    return "segmentation" if result.kind == "segmentation" else "classification"


def of_task(results: Iterable[Result], task: str) -> list[Result]:
    """Takes the runs of a task."""
    return [result for result in results if result.task == task]
