"""Which tasks there are: the seven, and those that a `task.yaml` under `data/raw/<name>/` describes."""

from __future__ import annotations

import contextlib
import difflib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from medtransfer.core import schema
from medtransfer.core.errors import UserError
from medtransfer.data.readers import chestxray14, chexpert, drive, montgomery, rsna_pe, shenzhen, siim
from medtransfer.data.tasks import PLANES, Derived, Folds, Kind, Layout, Task
from medtransfer.statistics import metrics
from medtransfer.statistics.mask_shapes import Unit

DATASETS = (chestxray14, chexpert, shenzhen, rsna_pe, siim, montgomery, drive)
"""one module per dataset: its record, how to get it, how to read it"""

TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in DATASETS}

DERIVED: dict[str, Collection[str]] = {task.dataset: task.derived_from for task in TASKS.values()}
"""of the seven; `derivations` adds the user's own"""

UNSAID = {module.TASK.name: module.UNSAID for module in DATASETS}
"""task -> what the paper of 2021 does not say of it, and what is done here"""

FILE = "task.yaml"

NO_PATIENT = "none"
"""what stands for the patient column where patients are not known"""

VAL_SHARE = 0.1
"""of the units outside a fold that is tested, those that val takes, unless `split.val` says otherwise"""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a `task.yaml` says; fields without a default must be there."""

    kind: Kind
    labels: tuple[str, ...]
    """names: columns of 0 and 1 (binary, multilabel), classes in their order (multiclass), regions (segmentation)"""
    patient: str
    """column of the patient, or `none`: then every image counts as a patient, which every table says"""
    split: Any
    """a column; `{val: share, test: share}`; `{folds: K, repeats: R}`; with `column:` its test rows stay test"""
    image_size: int
    """pixels: side of the network input"""
    cache_size: int = 0
    """pixels: side of the prepared images, 0 = image_size"""
    title: str = ""
    table: str = ""
    arrays: str = ""
    image: str = "image"
    frame: str = ""
    id: str = ""
    label: str = ""
    mask: Any = ""
    """a column, or label -> column"""
    values: Mapping[str, Any] = field(default_factory=dict)
    """label -> its value in the mask, a colour '#rrggbb', or a list of them"""
    background: Any = ()
    """value or colour of masks that belongs to no label, or a list of them; not said: 0"""
    threshold: float | None = None
    """of soft edges, the share of the largest value above which a pixel counts; not said: half, where that is clear"""
    allow_empty: tuple[str, ...] = ()
    allow_full: tuple[str, ...] = ()
    """labels of which a whole split may be empty, or that may fill every image"""
    align: Literal["space", "pixels"] = "space"
    outside: tuple[str, ...] = ()
    """folders that the table's paths may lead into beside the task's own"""
    subgroups: Any = ()
    """columns whose groups are scored apart; or column -> where its numbers are cut into bands, `[]`: as it stands"""
    uncertain: bool = False
    ordinal: bool = False
    channels: Literal[1, 3] = 3
    windows: tuple[tuple[float, ...], ...] = ()
    metric: str = ""
    margin: float = 0.01
    measures: tuple[Literal["surface", "centre_line", "lesions"], ...] = ("surface",)
    tolerance: str = ""
    """how far two outlines may be apart to count as one, `2 mm` or `2 px`; not said: 2 mm, or 2 px where the size of
    pixels is not known"""
    spacing: Any = ()
    """size of every image's pixels in mm, one number or [height, width], where files do not say it"""
    counts: Mapping[str, int] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    external: Any = ()
    """tasks on whose test images its networks are read too, as in `tasks.<name>.external`"""
    derived_from: tuple[str, ...] = ()
    licence: str = "not stated"
    citation: str = "not stated"
    source: str = "your own"


def names(root: Path) -> list[str]:
    """Lists the names of all tasks of a repository, own ones last."""
    own = {path.parent.name for path in (root / "data/raw").glob(f"*/{FILE}")}
    return [*TASKS, *sorted(own - set(TASKS))]


def lookup(name: str, root: Path) -> Task:
    """Finds a task by name.

    Raises:
        UserError: no such task (the message lists the valid names), or its `task.yaml` is not valid.
    """
    if name in TASKS:
        return TASKS[name]
    path = root / "data/raw" / name / FILE
    if name and path.is_file():
        return _task(name, path)
    valid = names(root)
    near = difflib.get_close_matches(name, valid, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise UserError(
        f"unknown task {name!r}{hint} Valid tasks: {', '.join(sorted(valid))}; a task of your own is described by "
        f"data/raw/<name>/{FILE}"
    )


def outside(folder: Path) -> list[Path]:
    """Lists the folders beside its own that an own task's table may lead into; a file that is not valid names none."""
    try:
        found = schema.parse_yaml((folder / FILE).read_text()).get("outside") or []
        return [folder / str(place) for place in found]
    except (OSError, UnicodeError, yaml.YAMLError, TypeError, AttributeError):
        return []


def sizes(root: Path) -> dict[str, dict[str, Any]]:
    """Gives the own tasks' entries of the `tasks` section; a file that is not valid is left for `lookup` to refuse."""
    found = {}
    for path in sorted((root / "data/raw").glob(f"*/{FILE}")):
        try:
            tree = schema.parse_yaml(path.read_text())
            side = tree["image_size"]
            cache = tree.get("cache_size") or side
            more = {"changes": tree.get("changes") or {}, "external": tree.get("external") or []}
            found[path.parent.name] = {"image_size": side, "cache_size": cache, **more}
        except (OSError, UnicodeError, yaml.YAMLError, TypeError, KeyError, AttributeError):
            continue
    return found


def derivations(root: Path) -> Derived:
    """Says of every dataset which others its images are taken from; an invalid file is for `lookup` to refuse."""
    found = dict(DERIVED)
    for path in sorted((root / "data/raw").glob(f"*/{FILE}")):
        with contextlib.suppress(UserError, OSError):
            found.setdefault(path.parent.name, _task(path.parent.name, path).derived_from)
    return found


def _task(name: str, path: Path) -> Task:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"{path.parent}: the folder's name is the task's and must be of [A-Za-z0-9._-]; rename it")
    tree = schema.read_yaml(path)
    if isinstance(tree, dict) and isinstance(tree.get("labels"), list):
        tree["labels"] = [str(label) for label in tree["labels"]]  # grades are often numbers
    if isinstance(tree, dict) and tree.get("patient", "") is None:
        tree["patient"] = NO_PATIENT
    try:
        said = schema.convert(tree, Description)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    for law, words in _laws(said):
        if not law:
            raise UserError(f"{path}: {words}")
    draw, folds, column = _split(path, said.split)
    return Task(
        name=name,
        code=name,
        dataset=name,
        title=said.title or name,
        kind=said.kind,
        labels=said.labels,
        uncertain=said.uncertain,
        ordinal=said.ordinal,
        channels=said.channels,
        windows=tuple((low, width) for low, width in said.windows),
        counts=dict(said.counts),
        draw=draw,
        split_source="drawn" if draw or folds else "given",
        unit="image" if said.patient == NO_PATIENT else "patient",
        derived_from=said.derived_from,
        metric=_metric(said),
        margin=said.margin,
        measures=said.measures,
        tolerance=_tolerance(path, said.tolerance),
        spacing=_spacing(path, said.spacing),
        folds=folds,
        layout=Layout(
            table=said.table,
            arrays=said.arrays,
            image=said.image,
            frame=said.frame,
            id=said.id,
            patient="" if said.patient == NO_PATIENT else said.patient,
            split=column,
            label=said.label,
            masks=_mask_columns(said),
            values={label: _pixels(path, value) for label, value in said.values.items()},
            background=_pixels(path, said.background),
            threshold=said.threshold,
            allow_empty=said.allow_empty,
            allow_full=said.allow_full,
            align=said.align,
            outside=said.outside,
            subgroups=_subgroups(path, said),
        ),
        licence=said.licence,
        citation=said.citation,
        source=said.source,
    )


def _pixels(path: Path, said: Any) -> tuple[int | str, ...]:
    """Reads values and colours of masks: one or a list of them.

    Raises:
        UserError: one is neither.
    """
    found: list[int | str] = []
    for value in said if isinstance(said, list | tuple) else [said]:
        colour = isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value)
        number = isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)
        if not (colour or number):
            raise UserError(
                f"{path}: a value of a mask is a whole number or a colour in quotes, '#rrggbb', got {value!r}; a '#'"
                " without quotes begins a comment"
            )
        found.append(value.lower() if isinstance(value, str) else int(value))
    return tuple(found)


def _mask_columns(said: Description) -> dict[str, str]:
    if isinstance(said.mask, Mapping):
        return {str(label): str(column) for label, column in said.mask.items()}
    return dict.fromkeys(said.labels, str(said.mask)) if said.mask else {}


def _tolerance(path: Path, said: str) -> tuple[float, Unit] | None:
    """Reads a length with its unit.

    Raises:
        UserError: it is none.
    """
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+) *(mm|px)", said)
    if said and not (found and float(found[1])):
        raise UserError(f"{path}: tolerance must be a length above 0 with its unit, `2 mm` or `2 px`, got {said!r}")
    return (float(found[1]), "mm" if found[2] == "mm" else "px") if found else None


def _spacing(path: Path, said: Any) -> tuple[float, float] | None:
    """Reads the size of pixels.

    Raises:
        UserError: it is not one length or two.
    """
    sides = list(said) if isinstance(said, list | tuple) else [said, said]
    good = [isinstance(side, int | float) and not isinstance(side, bool) and 0 < side < math.inf for side in sides]
    if sides and (len(sides) != 2 or not all(good)):
        raise UserError(f"{path}: spacing must be one number above 0 (mm) or [height, width], got {said!r}")
    return (float(sides[0]), float(sides[1])) if sides else None


def _metric(said: Description) -> str:
    return said.metric or metrics.possible(said.kind, said.ordinal)[0]


def _laws(said: Description) -> list[tuple[bool, str]]:
    """Lists what must hold, each with the words for when it does not."""
    kind, labels, segmentation = said.kind, len(said.labels), said.kind == "segmentation"
    low, high = {"binary": (1, 1), "multiclass": (2, 1000), "segmentation": (1, PLANES)}.get(kind, (1, 1000))
    columns = set(_mask_columns(said))
    valid = metrics.possible(kind, said.ordinal)
    metric = _metric(said)
    return [
        (bool(said.table) != bool(said.arrays), "name either `table` (a CSV) or `arrays` (an .npz), not both"),
        (low <= labels <= high, f"a {kind} task has {low} to {high} labels, got {labels}: {list(said.labels)}"),
        (kind == "multiclass" or not {"True", "False"} & set(said.labels),
         f"YAML reads yes, no, on, off, true and false without quotes as a truth value: write the names in `labels` in"
         f" quotes, got {list(said.labels)}"),
        (len(set(said.labels)) == labels, f"labels must differ, got {list(said.labels)}"),
        (metric in valid, f"metric must be one of {', '.join(valid)} for a {kind} task, got {metric!r}"
         + (f" ({metric} needs `ordinal: true`)" if metric in metrics.possible(kind, True) else _elsewhere(metric))),
        (not segmentation or bool(said.arrays) or columns == set(said.labels),
         f"`mask` must name a column, or one for each of {list(said.labels)}, got {said.mask!r}"),
        (segmentation or not said.mask, f"`mask` is for segmentation, this task is {kind}"),
        (segmentation or not (said.tolerance or said.spacing),
         f"`tolerance` and `spacing` are of distances between masks, this task is {kind}"),
        (not segmentation or not said.values or set(said.values) == set(said.labels),
         f"`values` must give a number for each of {list(said.labels)}, got {dict(said.values)}"),
        (segmentation or not (said.values or said.background or said.threshold or said.allow_empty or said.allow_full),
         f"`values`, `background`, `threshold`, `allow_empty` and `allow_full` are of masks, this task is {kind}"),
        (set(said.allow_empty) | set(said.allow_full) <= set(said.labels),
         f"`allow_empty` and `allow_full` name labels of {list(said.labels)}, got"
         f" {[*said.allow_empty, *said.allow_full]}"),
        (said.threshold is None or 0 < said.threshold < 1, f"0 < threshold < 1 must hold, got {said.threshold}"),
        (said.threshold is None or not said.values, "`threshold` is for masks without `values`"),
        (bool(said.values) or not isinstance(said.background, list) or len(said.background) == 1,
         f"without `values` a mask has one background, got {said.background}"),
        (len({isinstance(one, str) for value in [*said.values.values(), *([said.background] if said.values else [])]
              for one in (value if isinstance(value, list | tuple) else [value])}) < 2,
         f"`values` and `background` are all numbers or all colours, got {dict(said.values)}, {said.background}"),
        (not (said.mask and isinstance(said.mask, str) and labels > 1 and not said.values),
         "several labels in one mask column need `values: {label: number in the mask}`"),
        (kind != "multiclass" or bool(said.label) or bool(said.arrays), "a multiclass task needs `label`: its column"),
        (not said.uncertain or kind in ("multilabel", "binary"), f"`uncertain` is for labels of 0 and 1, not {kind}"),
        (not said.ordinal or kind == "multiclass", f"`ordinal` is for multiclass, this task is {kind}"),
        (all(len(pair) == 2 for pair in said.windows), f"`windows` is a list of [level, width], got {said.windows}"),
        (len(said.windows) in (0, 1, said.channels),
         f"give one window or one per channel, got {len(said.windows)} for {said.channels} channels"),
        (16 <= said.image_size <= (said.cache_size or said.image_size),
         f"16 <= image_size <= cache_size must hold, got image_size={said.image_size}, cache_size={said.cache_size}"),
        (said.margin > 0, f"margin > 0 must hold, got {said.margin}"),
    ]  # fmt: skip


def _elsewhere(metric: str) -> str:
    """Says what a metric that is no task's own can be used for."""
    if metric not in metrics.METRICS:
        return ""
    return f"; {metric} is measured beside it, and can be a monitor, the metric of a claim or a condition of promotion"


def _subgroups(path: Path, said: Description) -> dict[str, tuple[float, ...]]:
    """Reads `subgroups`: columns, with cuts where they are numbers."""
    names = [said.subgroups] if isinstance(said.subgroups, str) else said.subgroups or ()
    given = names if isinstance(names, Mapping) else dict.fromkeys(names, ())
    own = [said.patient, said.image, said.id, said.frame]
    found = {}
    for column, cuts in given.items():
        values = list(cuts or ())
        numbers = all(isinstance(cut, int | float) and not isinstance(cut, bool) for cut in values)
        if not isinstance(column, str) or not numbers or values != sorted(set(values)):
            raise UserError(
                f"{path}: subgroups must be columns, `[sex, scanner]`, or `{{sex: [], age: [40, 60]}}` with rising "
                f"cuts of numbers; got {said.subgroups!r}"
            )
        if column in own or not said.table:
            raise UserError(
                f"{path}: subgroups are columns of `table` that tell groups of patients apart, not images or patients; "
                f"got {column!r}"
            )
        found[column] = tuple(float(cut) for cut in values)
    return found


def _split(path: Path, said: Any) -> tuple[dict[str, float], Folds | None, str]:
    """Reads `split`: shares of our own draw, folds, column."""
    forms = "a column, `official` (arrays), `{val: 0.1, test: 0.2}`, `{folds: 5, repeats: 2}`, each with `column:` too"
    if isinstance(said, str) and said:
        return {}, None, "" if said == "official" else said
    known = {"column", "val", "test", "folds", "repeats"}
    if not isinstance(said, Mapping) or not said or not set(said) <= known:
        raise UserError(f"{path}: split must be {forms}; got {said!r}")
    column = str(said.get("column", ""))
    shares = {name: said[name] for name in ("val", "test") if name in said}
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise UserError(f"{path}: 0 < split.{name} < 1 must hold, got {share!r}")
    if sum(shares.values()) >= 1:
        raise UserError(f"{path}: split.val + split.test < 1 must hold, got {shares}: train needs images")
    draw = {name: float(share) for name, share in shares.items()}
    if "folds" in said or "repeats" in said:
        return {"val": draw.get("val", VAL_SHARE)}, _folds(path, said), column
    if "val" not in draw or ("test" not in draw) != bool(column):
        raise UserError(f"{path}: a draw needs val and test, with `column` (which gives test) val alone; got {said!r}")
    return draw, None, column


def _folds(path: Path, said: Mapping[str, Any]) -> Folds:
    count, repeats = said.get("folds"), said.get("repeats", 1)
    for name, number, least in (("folds", count, 2), ("repeats", repeats, 1)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise UserError(f"{path}: split.{name} must be a whole number >= {least}, got {number!r}")
    if "test" in said:
        raise UserError(f"{path}: split.folds draws its own tests; lock a test set with `column`, take `test` out")
    assert isinstance(count, int)
    return Folds(count=count, repeats=repeats)
