"""What `import medtransfer as mt` offers: the verbs' own functions for a notebook or another program.

Parameters are read as on the command line: from `params.yaml` of the study's folder, and dotted names change
them, as in `**{"segmentation.lr": 3e-4}`. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from medtransfer.core import extras
from medtransfer.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from medtransfer.data.cache import Prepared
    from medtransfer.data.tasks import Task
    from medtransfer.params import Params
    from medtransfer.report.comparison import Comparison
    from medtransfer.results.recommendation import Recommendation
    from medtransfer.results.result import Result
    from medtransfer.weights.records import Record, Triple


class Backbone(NamedTuple):
    """A backbone with verified weights, and what its inputs are normalized with."""

    network: nn.Module
    """timm's module without classifier, in training mode: (B, 3, S, S) -> features (B, C)"""
    mean: Triple
    """of inputs in [0, 1], per channel in RGB order"""
    std: Triple


def backbone(
    init: str,
    *,
    seed: int = 0,
    image_size: int | None = None,
    root: str | Path = ".",
    params: str = "params.yaml",
    **dotted: Any,
) -> Backbone:
    """Loads an initialization: fetched, converted and held to its receipt, as every run starts from it.

    Args:
        init: as on the command line: `swav`, `imagenet@vit_small_patch16_224`, `file:weights.pth@resnet50`.
        seed: what `random` is drawn from; any other init has one set of tensors.
        image_size: side of the inputs in pixels, for architectures that are built for one side (vision transformers),
            whose position embeddings are then resampled; None: the side they were published for.
        root: the study's folder, with `data/weights`.
        params: parameter file in it.
        **dotted: parameters by dotted name, such as `model.padding`.

    Returns:
        The network, and mean and std of its inputs; it unpacks into the three.

    Raises:
        UserError: the init or its backbone is unknown, its file cannot be had, its tensors are not those of the
            receipt, or they do not fit the side.

    Example:
        ```python
        network, mean, std = mt.backbone("imagenet")
        features = network((images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])
        ```
    """
    extras.need("train", "mt.backbone")
    from medtransfer.core import rng
    from medtransfer.training import networks
    from medtransfer.training.fitting import BackboneSpec
    from medtransfer.weights import architectures, receipts, recipes, store
    from medtransfer.weights.names import check_backbone, hidden, parse

    top, name = Path(root).resolve(), hidden(init)
    values = _parameters(top, params, dotted, init)
    start = parse(name, values.model.backbone, values.inits)
    check_backbone(start.backbone)
    store.ready(start, top)
    tensors = store.state(start, top, rng.seed_of(seed, "backbone"), values.model.random_last_bn)
    side = image_size or architectures.published_side(start.backbone)
    network = networks.backbone(BackboneSpec.of(start, values.model, side), tensors)
    return Backbone(network, *recipes.normalization(start, made=receipts.read(start, top)))


def create_model(
    init: str,
    *,
    num_classes: int = 0,
    seed: int = 0,
    image_size: int | None = None,
    root: str | Path = ".",
    params: str = "params.yaml",
    **dotted: Any,
) -> nn.Module:
    """Makes timm's module of an initialization, its weights held to their receipt, with a new classifier.

    Args:
        init: as on the command line.
        num_classes: of the classifier, drawn from the seed as timm draws it; 0: none.
        seed: of the classifier, and of what `random` is drawn from.
        image_size: side of the inputs in pixels, as in `backbone`.
        root: the study's folder, with `data/weights`.
        params: parameter file in it.
        **dotted: parameters by dotted name, such as `model.padding`.

    Returns:
        timm's module in training mode, (B, 3, S, S) -> logits (B, num_classes); `timm.data.resolve_model_data_config`
        gives the mean and std of its inputs.

    Raises:
        UserError: as in `backbone`.

    Example:
        ```python
        model = mt.create_model("swav", num_classes=14)
        ```
    """
    extras.need("train", "mt.create_model")
    import torch

    from medtransfer.core import rng

    found = backbone(init, seed=seed, image_size=image_size, root=root, params=params, **dotted)
    model: Any = found.network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.seed_of(seed, "head"))
        model.reset_classifier(num_classes)
    model.pretrained_cfg |= {"mean": found.mean, "std": found.std}
    return found.network


def finetune(
    init: str,
    task: str,
    seed: int = 0,
    *,
    fold: int | None = None,
    root: str | Path = ".",
    params: str = "params.yaml",
    **dotted: Any,
) -> Result:
    """Fine-tunes one initialization on one task with one seed, as the verb of this name: one run.

    A finished run is not trained again, a killed one goes on from its last epoch. It is logged to MLflow. The task's
    data are prepared, weights fetched and a missing pre-training (`imagenet+chestxray14`) made first.

    Args:
        init: as on the command line.
        task: name of a task.
        seed: from 0.
        fold: which fold, or which drawn split, of a task that has several.
        root: the study's folder, with `data`.
        params: parameter file in it.
        **dotted: parameters by dotted name, such as `classification.lr` (learning rate).

    Returns:
        What the run measured: `score` on test and `val_score`, in the unit of the task's metric, `cost` (seconds,
        epochs, images), `history` (one entry per epoch), `digest` (its results lie in `data/runs/<digest>`).

    Raises:
        UserError: an unknown name or parameter, data or weights that cannot be had, a task with several folds and no
            `fold`, or a training that failed.

    Example:
        ```python
        result = mt.finetune("imagenet", "drive", seed=0, **{"segmentation.lr": 3e-4})
        print(result.metric, result.score)
        ```
    """
    extras.need("train", "mt.finetune")
    from medtransfer.comparison.selection import look_up
    from medtransfer.core import arithmetic
    from medtransfer.results.result import read_result
    from medtransfer.runs.benchmark import run_all
    from medtransfer.runs.pretrain import pretrain
    from medtransfer.runs.run import plan
    from medtransfer.weights.names import hidden

    top, name = Path(root).resolve(), hidden(init)
    values = _parameters(top, params, dotted, init, task)
    arithmetic.check_environment(values.engine.portable)
    pretrain.make_all([name], values, top, tuple(dict.fromkeys((*values.benchmark.tasks, task))))
    planned = plan(values, top, [name], [task], [seed])
    chosen = [run for run in planned if run.fold == fold]
    if not chosen:
        there = ", ".join(str(run.fold) for run in planned if run.fold is not None) or "no folds"
        raise UserError(f"fold must be one of those of task {task}, which has {there}; got {fold}")
    run_all(chosen)
    (found,) = look_up([read_result(chosen[0].folder / "cell.json")], top / CELLS, top)
    return found


def prepare(
    task: str,
    *,
    check: bool = False,
    root: str | Path = ".",
    params: str = "params.yaml",
    **dotted: Any,
) -> Prepared:
    """Checks a task's raw files and decodes them once, as the verb of this name; what is still current is kept.

    Args:
        task: name of a task.
        check: hash all raw files again, even unchanged ones.
        root: the study's folder, with `data`.
        params: parameter file in it.
        **dotted: parameters by dotted name, such as `data.skip_bad`.

    Returns:
        The cache: `folder` (look at `samples.png` in it), `samples` (a table: id, patient, split, labels), `images` and
        `masks` (arrays on disk), `manifest` (counts, what the audit found), `marks`, `digest`.

    Raises:
        UserError: the files are not there, or hold what was not published; patients or images are in two splits.

    Example:
        ```python
        prepared = mt.prepare("tb_screening")
        prepared.samples.groupby("split").size()
        ```
    """
    extras.need("train", "mt.prepare")
    from medtransfer.data import catalog
    from medtransfer.data import prepare as preparation

    top = Path(root).resolve()
    values = _parameters(top, params, dotted, task=task)
    return preparation.prepare(catalog.lookup(task, top), values, top, check=check)


def recommend(
    task: str,
    *,
    minutes: float | None = None,
    hours: float | None = None,
    use: str = "",
    max_parameters: int | None = None,
    candidates: Sequence[str] = (),
    root: str | Path = ".",
    params: str = "params.yaml",
    **dotted: Any,
) -> Recommendation:
    """Says which weights to start from on one task, within a time, as the verb of this name.

    Asked again it answers at once; a race that was stopped goes on where it was.

    Args:
        task: name of a task.
        minutes: that it may take; None: `recommend.minutes`.
        hours: the same in hours.
        use: `research` or `commercial`: a licence that forbids it, or is unclear, keeps weights out; empty:
            `recommend.use`.
        max_parameters: of a backbone; None: `recommend.max_parameters`.
        candidates: inits; empty: `recommend.candidates`.
        root: the study's folder, with `data`.
        params: parameter file in it.
        **dotted: parameters by dotted name, such as `recommend.seeds`.

    Returns:
        The answer: `sentences`, `pick`, `probability` (that the pick is within one margin of the best that raced),
        `candidates` (each with how it stands and why). Its page is `data/recommend/<task>/index.html`.

    Raises:
        UserError: an unknown name, data that cannot be had, fewer than two candidates, or another process answers the
            same.

    Example:
        ```python
        answer = mt.recommend("tb_screening", minutes=60, use="commercial")
        print(" ".join(answer.sentences))
        ```
    """
    began = time.time()
    extras.need("train", "mt.recommend")
    from medtransfer.comparison import prior, recommended
    from medtransfer.core import arithmetic
    from medtransfer.report import recommendation as page
    from medtransfer.runs.recommend.answer import answer

    if minutes is not None and hours is not None:
        raise UserError("minutes and hours are the same time: give one of them")
    given = {
        "minutes": minutes if hours is None else 60 * hours,
        "use": use or None,
        "max_parameters": max_parameters,
        "candidates": list(candidates) or None,
    }
    chosen = {f"recommend.{name}": value for name, value in given.items() if value is not None}
    top = Path(root).resolve()
    values = _parameters(top, params, dotted | chosen, task=task, raced=True)
    arithmetic.check_environment(values.engine.portable)
    return answer(
        values, top, task, began=began, earlier=functools.partial(prior.places, values, top, task),
        tested=recommended.with_test, page=page.write,
    )  # fmt: skip


CELLS = "data/results/cells"


def scores(folder: str | Path = "data/results", *, root: str | Path = ".") -> pd.DataFrame:
    """Reads the finished runs of a folder as a table.

    Args:
        folder: `data/results` of a study, or a folder of runs, `<task>/<digest>/cell.json`; relative to `root`.
        root: the study's folder, where tasks are described.

    Returns:
        One row per run and metric: `task`, `init`, `seed`, `fold`, `metric` (as in `test_auc`; also what the run cost,
        as in `seconds`), `value`, and the other columns of `runs.csv`.

    Raises:
        UserError: there is no finished run, or one is damaged.

    Example:
        ```python
        table = mt.scores()
        table[table.metric == "test_auc"].pivot_table(index="init", columns="task", values="value")
        ```
    """
    import pandas as pd

    from medtransfer.comparison import record
    from medtransfer.comparison.selection import collect

    top = Path(root).resolve()
    return pd.DataFrame(record.runs(collect(_cells(folder, top), top)))


def compare(
    runs: pd.DataFrame | str | Path = "data/results",
    *,
    metric: str = "",
    val: str = "",
    columns: Mapping[str, str] = MappingProxyType({}),
    reference: str = "",
    margin: float | Mapping[str, float] | None = None,
    alpha: float = 0.05,
    percent: bool = False,
    predictions: str = "",
    root: str | Path = ".",
    params: str = "params.yaml",
    **dotted: Any,
) -> Comparison:
    """Compares every two inits, and says which to start from: of a table of anybody's scores, or of runs of ours.

    Nothing is written, and as with `show` this is not noted as a look at the runs: only the verb `compare` does that.

    Args:
        runs: a table with a row per run (columns init, task, seed and one per score) or per run and score (metric,
            value); the path of such a CSV file; or a folder of runs of ours, as in `scores`.
        metric: of a table: name of the score on test, higher is better; needed where there are several.
        val: of a table: name of the score on val, which picks among equals.
        columns: of a table: init, task, seed, fold, metric, value -> the column that holds it.
        reference: init that the others stand beside; empty: `comparison.reference`, of a table `random` or the first.
        margin: of a table: smallest difference that matters, in the unit of the scores, of all tasks or by task.
        alpha: of a table: level of all comparisons together.
        percent: of a table: its scores and margins are in percent.
        predictions: of a table: column that holds the path of each run's predictions (CSV or parquet with id, target,
            probability and patient), with which patients count as seeds do.
        root: the study's folder, where tasks, studies and published numbers of our own runs are.
        params: parameter file in it; its sections `benchmark` and `comparison` say what is compared of our own runs.
        **dotted: parameters by dotted name, such as `benchmark.inits`.

    Returns:
        The comparison: `answer`, `table()`, `contrasts()`, `figure("forest")`, `to_html()`, `to_latex()`; all that the
        report reads is `findings`. A notebook shows it.

    Raises:
        UserError: no run is one of the benchmark's, or runs are damaged, twice there or mixed; a column is missing, or
            a score is no share.

    Example:
        ```python
        frame = pd.DataFrame({"init": ["a", "a", "b", "b"], "seed": [0, 1, 0, 1], "auc": [0.8, 0.81, 0.9, 0.92]})
        print(mt.compare(frame, margin=0.01).answer)
        ```
    """
    import pandas as pd

    from medtransfer.comparison import columns as of_table
    from medtransfer.comparison import findings, foreign, score_table
    from medtransfer.report.comparison import Comparison

    if isinstance(runs, (str, Path)) and (str(runs).endswith(".csv") or (Path(root) / runs).is_file()):
        runs = score_table.read_csv(Path(root) / runs)
    if isinstance(runs, pd.DataFrame):
        if dotted:
            raise UserError(f"{', '.join(dotted)}: parameters are of runs of ours, not of a table")
        named = of_table.named(columns)
        found = foreign.compare(
            runs,
            metric=metric,
            val=val,
            columns=named,
            reference=reference,
            margin=margin,
            alpha=alpha,
            percent=percent,
            predictions=predictions,
            root=Path(root),
        )
        return Comparison(found)
    if metric or val or columns or margin is not None or percent or predictions:
        raise UserError(
            "metric, val, columns, margin, percent and predictions are of a table; of runs of ours the task states them"
        )
    top = Path(root).resolve()
    chosen = {"comparison.reference": reference} if reference else {}
    return Comparison(findings.of_benchmark(_cells(runs, top), _parameters(top, params, dotted | chosen), top))


def logged_runs(
    experiment: str | Sequence[str],
    *,
    init: str,
    seed: str,
    metric: str | Sequence[str],
    task: str = "=scores",
    fold: str = "",
    val: str | Sequence[str] = (),
    filter_string: str = "",
    tracking_uri: str = "",
) -> pd.DataFrame:
    """Reads the finished runs of any MLflow experiment as a table of scores, which `compare` takes.

    Args:
        experiment: its name, or several.
        init: under which key a run says what is compared: `params.backbone`, `tags.model`, `attributes.run_name`.
        seed: likewise, its seed.
        metric: name of its score on test; several where some runs call it otherwise.
        task: likewise; `=name` is the task of all of them.
        fold: likewise, of a cross-validation; empty: there is none.
        val: name of its score on val.
        filter_string: MLflow's search syntax.
        tracking_uri: address of the server; empty: MLFLOW_TRACKING_URI, else the store of this folder.

    Returns:
        A row per run: init, task, seed, score, val, run_id, and fold where there is one. What was left out (runs that
        are not finished, deleted, or lack a key) is said in warnings.

    Raises:
        UserError: the server is away, there is no such experiment, a run was logged twice, or none says what is asked.

    Example:
        ```python
        table = mt.logged_runs("timm-sweep", init="params.model", seed="params.seed", metric="test_acc")
        mt.compare(table, metric="score").figure("forest")
        ```
    """
    import warnings

    from medtransfer.tracking import foreign

    names = [(one,) if isinstance(one, str) else tuple(one) for one in (experiment, metric, val)]
    keys = foreign.Keys(init=init, seed=seed, task=task, fold=fold, metric=names[1], val=tuple(filter(None, names[2])))
    found = foreign.runs(names[0], keys, tracking_uri=tracking_uri, filter_string=filter_string)
    for note in found.notes:
        warnings.warn(note, stacklevel=2)
    return found.table


def tasks(root: str | Path = ".") -> dict[str, Task]:
    """Lists the tasks, one's own in `data/raw/<name>/task.yaml` included: name -> record.

    Args:
        root: the study's folder.

    Raises:
        UserError: a `task.yaml` has a mistake.

    Example:
        ```python
        mt.tasks()["chexpert"].labels
        ```
    """
    from medtransfer.data import catalog

    top = Path(root).resolve()
    return {name: catalog.lookup(name, top) for name in catalog.names(top)}


def inits(root: str | Path = ".", params: str = "params.yaml") -> dict[str, Record]:
    """Lists the initializations that have a name of their own: name -> record, one's own of section `inits` included.

    Args:
        root: the study's folder.
        params: parameter file in it.

    Raises:
        UserError: the parameter file has a mistake.

    Example:
        ```python
        [name for name, record in mt.inits().items() if "resnet50" in record.sources]
        ```
    """
    from medtransfer.weights import names

    return names.all_records(_parameters(Path(root).resolve(), params, {}).inits)


def _parameters(
    root: Path,
    file: str,
    dotted: Mapping[str, Any],
    init: str = "",
    task: str | None = None,
    raced: bool = False,
) -> Params:
    """Reads the parameters as the command line does, and describes what they name of the model registry or a hub.

    Args:
        root: the study's folder.
        file: parameter file in it.
        dotted: parameters by dotted name.
        init: that is asked about beside those that the parameters name.
        task: that is asked about.
        raced: whether `recommend.candidates` are asked about.
    """
    from medtransfer import params
    from medtransfer.data import catalog
    from medtransfer.weights import hub
    from medtransfer.weights.names import REGISTRY, hide_all

    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in dotted.items()}
    values = hide_all(params.load(root / file, texts, catalog.sizes(root)))
    params.refuse_shadowed(values, texts, task)
    named = (*filter(None, [init]), values.comparison.reference, *values.benchmark.inits, *values.tuning.inits)
    if raced:
        named += values.recommend.candidates
    registered = [name for name in named if name.startswith(REGISTRY)]
    if registered:
        extras.need("train", "a name of the model registry")
        from medtransfer.registry import fetch

        values = fetch.bring(values, registered, root)
    return hub.bring(values, named, root)


def _cells(folder: str | Path, root: Path) -> Path:
    """Finds the runs in a study's `data/results`, or takes a folder of runs as it is."""
    path = root / folder
    return path / "cells" if (path / "cells").is_dir() else path
