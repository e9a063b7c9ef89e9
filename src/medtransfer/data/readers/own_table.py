"""An own task's images, listed in a CSV beside its `task.yaml`."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from medtransfer.core.errors import UserError
from medtransfer.data.readers.columns import UNKNOWN, band
from medtransfer.data.readers.reading import Mask, Picture, Sample, Split, inside, marking_of
from medtransfer.data.tasks import Layout, Task

EMPTY = "empty"
"""what a mask cell says of an image without any of the region: a blank cell may be a mistake"""

NAMED = 5
"""rows that a message names"""

ABSENT = ("", "na", "n/a", "nan", "none", "null", "<na>", "#n/a", "nat", "unknown", "?", "-")
"""what tables write where nothing is known, in any case"""

TRUTH = {"true": 1, "yes": 1, "on": 1, "false": 0, "no": 0, "off": 0}
"""words for 1 and 0, in any case, as pandas, people and YAML write them"""

Row = dict[str, str]


@dataclass(frozen=True)
class _Table:
    """The rows of a CSV, each with the number of its last line."""

    path: Path
    header: list[str]
    rows: list[tuple[int, Row]]

    def refuse(self, line: int, words: str) -> UserError:
        return UserError(f"{self.path}, line {line}: {words}")


def read(task: Task, root: Path) -> Iterator[Sample]:
    """Yields the images of the table in its order.

    Raises:
        UserError: a column, file or value is missing or wrong; the message names file, line and value.
    """
    layout = task.layout
    assert layout is not None
    table = _load(inside(root, layout, layout.table), layout.image)
    _check_columns(task, layout, table)
    if layout.patient:
        _unify_patients(table, layout.patient)
    samples = [_sample(task, layout, table, root, line, row) for line, row in table.rows]
    _refuse_missing(table, samples)
    _refuse_repeated(table, samples)
    yield from samples


def _load(path: Path, image: str) -> _Table:
    if not path.is_file():
        beside = ", ".join(sorted(p.name for p in path.parent.glob("*.csv"))) or "no CSV"
        raise UserError(f"looked for the table {path}, found {beside} in that folder; correct `table` in task.yaml")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    if not text.strip():
        raise UserError(f"{path} is empty; its first line must name the columns")
    first = text.lstrip("\r\n").splitlines()[0]
    # A German Excel writes semicolons; the sign that splits the header into most columns is the separator.
    delimiter = max(",;\t", key=lambda sign: (image in _split(first, sign), first.count(sign)))
    reader = csv.reader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=delimiter, strict=True)
    skipped = text[: len(text) - len(text.lstrip("\r\n"))].count("\n")
    try:
        return _parse(path, reader, delimiter, skipped)
    except csv.Error as error:
        line = reader.line_num + skipped
        raise UserError(
            f'{path}, line {line}: {error}; most often a quote is opened there or above and never closed: each " has'
            ' its partner, and one within a cell is written ""'
        ) from error


def _parse(path: Path, reader: Any, delimiter: str, skipped: int) -> _Table:
    header = [name.strip() for name in next(reader)]
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise UserError(f"{path}: column {twice[0]!r} is there twice; rename one")
    rows = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {reader.line_num + skipped}: {len(cells)} fields, the header has {len(header)}; put"
                f" quotes around cells that hold {delimiter!r}"
            )
        rows.append((reader.line_num + skipped, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}))
    return _Table(path, header, rows)


def _split(line: str, delimiter: str) -> list[str]:
    return [name.strip().strip('"') for name in line.split(delimiter)]


def _unify_patients(table: _Table, column: str) -> None:
    """Makes `1.0` the patient `1` where the table has both: pandas writes so a column of numbers with a gap.

    Raises:
        UserError: a patient is not known, or two spellings may be one patient.
    """
    written: dict[str, dict[str, int]] = {}
    for line, row in table.rows:
        text = row[column]
        if text.lower() in ABSENT:
            said = f"is {text!r}, which says that it is not known" if text else "is blank"
            raise table.refuse(
                line, f"the patient ({column}) {said}; every image needs one, or say `patient: none` in task.yaml"
            )
        key = re.sub(r"^0+(?=\d)", "", unicodedata.normalize("NFKC", re.sub(r"(?<=\d)\.0+$", "", text)).casefold())
        written.setdefault(key, {}).setdefault(text, line)
    fractions = any(re.fullmatch(r"\d+\.\d*[1-9]\d*", text) for forms in written.values() for text in forms)
    same: dict[str, str] = {}
    for forms in written.values():
        whole = {re.sub(r"\.0+$", "", text) for text in forms}
        if len(forms) > 1 and (len(whole) > 1 or fractions):
            (one, first), (two, second), *_ = sorted(forms.items(), key=lambda form: form[1])
            raise table.refuse(
                second,
                f"the patient {two!r} may be {one!r} of line {first}: splits must keep a patient's images together;"
                " write one patient in one way, and different ones so that they differ in more",
            )
        same |= {text: whole.copy().pop() for text in forms if len(forms) > 1}
    for _, row in table.rows:
        row[column] = same.get(row[column], row[column])


def _check_columns(task: Task, layout: Layout, table: _Table) -> None:
    labels = task.labels if task.kind in ("binary", "multilabel") else ()
    wanted = [layout.image, layout.frame, layout.id, layout.patient, layout.split, layout.label, *layout.subgroups]
    for column in dict.fromkeys([*filter(None, wanted), *labels, *layout.masks.values()]):
        if column not in table.header:
            near = difflib.get_close_matches(column, table.header, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise UserError(
                f"{table.path} has no column {column!r}{hint} Its columns: {', '.join(table.header)}. Correct "
                "task.yaml or the table"
            )


def _sample(task: Task, layout: Layout, table: _Table, root: Path, line: int, row: Row) -> Sample:
    frame = _frame(table, line, row[layout.frame]) if layout.frame else None
    path = row[layout.image]
    name = row[layout.id] if layout.id else hashlib.sha256(f"{path}#{frame or 0}".encode()).hexdigest()[:12]
    return Sample(
        id=name,
        patient=row[layout.patient] if layout.patient else name,
        split=_pool(task, table, line, row[layout.split] if layout.split else ""),
        image=Picture(_file(layout, table, root, line, layout.image, path), frame=frame),
        labels=_labels(task, layout, table, line, row),
        masks=tuple(_masks(layout, label, table, root, line, row, frame) for label in task.labels)
        if task.segmentation
        else (),
        groups={column: _group(table, line, column, row[column], cuts) for column, cuts in layout.subgroups.items()},
    )


def _group(table: _Table, line: int, column: str, text: str, cuts: Sequence[float]) -> str:
    """Names the group of a row, of numbers their band."""
    if text.lower() in ABSENT:
        return UNKNOWN
    if not cuts:
        return text
    found = band(text, cuts)
    if found == UNKNOWN:
        raise table.refuse(line, f"{column} must be a number, for `subgroups` cuts it into bands, got {text!r}")
    return found


def _frame(table: _Table, line: int, text: str) -> int:
    if not text.isdigit():
        raise table.refuse(line, f"a frame is a whole number from 0, got {text!r}")
    return int(text)


def _file(layout: Layout, table: _Table, root: Path, line: int, column: str, text: str) -> Path:
    if not text:
        raise table.refuse(line, f"{column} is blank; write a path relative to {root.name}/")
    if re.match(r"[A-Za-z]:[\\/]|\\\\", text):
        raise table.refuse(
            line,
            f"{text!r} is a path of a Windows drive, which is not here; write paths relative to the table's folder",
        )
    try:
        return inside(root, layout, text.replace("\\", "/"))
    except UserError as error:
        raise table.refuse(line, str(error)) from error


def _pool(task: Task, table: _Table, line: int, text: str) -> Split:
    """Says what the split column makes of a row: rows that are not test go into our own draw where there is one."""
    drawn = bool(task.draw or task.folds)
    if not task.layout or not task.layout.split:
        return "all"
    word = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}.get(text.lower(), text.lower())
    if word not in get_args(Split):
        raise table.refuse(line, f"the split must be train, val or test, got {text!r}")
    if not drawn or word == "test":
        if word in ("trainval", "all"):
            raise table.refuse(line, f"the split {text!r} needs `split: {{column: ..., val: 0.1}}` to be divided")
        return word  # type: ignore[return-value]  # one of Split's words, as just checked
    return "trainval"


def _labels(task: Task, layout: Layout, table: _Table, line: int, row: Row) -> tuple[int, ...]:
    if task.segmentation:
        return ()
    if task.kind == "multiclass":
        value = row[layout.label]
        if value not in task.labels and set(task.labels) == {"True", "False"}:  # how YAML reads yes and no, on and off
            value = {1: "True", 0: "False"}.get(TRUTH.get(value.lower(), -1), value)
        if value not in task.labels:
            short = value.removesuffix(".0")  # what pandas makes of a column of whole numbers with a gap
            value = short if short in task.labels else value
        if value not in task.labels:
            raise table.refuse(
                line, f"{layout.label} must be one of {', '.join(task.labels)}, got {row[layout.label]!r}"
            )
        return tuple(int(label == value) for label in task.labels)
    return tuple(_label(task, table, line, label, row[label]) for label in task.labels)


def _label(task: Task, table: _Table, line: int, label: str, text: str) -> int:
    numbers = {"0": 0, "0.0": 0, "1": 1, "1.0": 1, "-1": -1, "-1.0": -1}
    value = numbers.get(text, TRUTH.get(text.lower()))
    if value is None or (value == -1 and not task.uncertain):
        allowed = "0, 1 or -1 (uncertain)" if task.uncertain else "0 or 1"
        blank = " A blank or NaN is no label: fill it in or leave the image out." if text.lower() in ABSENT else ""
        more = " For uncertain labels say `uncertain: true`." if value == -1 else ""
        raise table.refuse(line, f"{label} must be {allowed}, got {text!r}.{blank}{more}")
    return value


def _masks(
    layout: Layout, label: str, table: _Table, root: Path, line: int, row: Row, frame: int | None
) -> tuple[Mask, ...]:
    column = layout.masks[label]
    if row[column].lower() == EMPTY:
        return ()
    if not row[column]:
        raise table.refuse(line, f"{column} is blank; name the mask, or write `{EMPTY}` where the image has none of it")
    path = _file(layout, table, root, line, column, row[column])
    return (Picture(path, frame=frame, marking=marking_of(layout, label)),)


def _refuse_missing(table: _Table, samples: list[Sample]) -> None:
    """Refuses files that are not there before any is decoded."""
    missing = []
    for (line, _), sample in zip(table.rows, samples, strict=True):
        pictures = [sample.image, *(mask for label in sample.masks for mask in label if isinstance(mask, Picture))]
        missing += [f"line {line}: {picture.path}" for picture in pictures if not picture.path.is_file()]
    missing = list(dict.fromkeys(missing))
    if missing:
        some = "; ".join(missing[:NAMED]) + ("; ..." if len(missing) > NAMED else "")
        raise UserError(f"{table.path}: {len(missing)} of the files it names are not there: {some}")


def _refuse_repeated(table: _Table, samples: list[Sample]) -> None:
    first: dict[object, int] = {}
    for (line, _), sample in zip(table.rows, samples, strict=True):
        for key, words in ((sample.image, f"the image {sample.image.path.name}"), (sample.id, f"the id {sample.id!r}")):
            if first.setdefault(key, line) != line:
                raise table.refuse(line, f"{words} was in line {first[key]} already; an image and an id stand once")
