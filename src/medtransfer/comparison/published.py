"""Published numbers: a CSV file in percent goes in, our names, fractions and differences with intervals come out."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scipy import stats

from medtransfer.core.errors import UserError
from medtransfer.data.catalog import DERIVED, TASKS
from medtransfer.data.tasks import image_groups, origins
from medtransfer.statistics.t_tests import ROUNDING, TTest
from medtransfer.weights.zoo import RECORDS

COLUMNS = ("paper", "initialization", "task", "metric", "mean", "std", "source")
"""columns of a file; a further column `n` may state the runs behind a mean"""

ALIASES = {
    "scratch": "random",
    "imagenet (supervised)": "imagenet",
    "imagenet (supervised) baseline line of ssl figure": "imagenet",
    "imagenet-1k supervised (resnet-50)": "imagenet",
    "resnet-50 imagenet": "imagenet",
    "inat2021 (supervised)": "inat2021",
    "inat2021 supervised (resnet-50)": "inat2021",
    "chestx-ray14 (in-domain)": "random+chestxray14",
    "chexpert (in-domain)": "random+chexpert",
    "imagenet->chestx-ray14": "imagenet+chestxray14",
    "imagenet->chexpert": "imagenet+chexpert",
    "resnet-50 imagenet->chestx-ray14": "imagenet+chestxray14",
    "resnet-50 imagenet->chexpert": "imagenet+chexpert",
    "resnet-50 imagenet->mimic": "imagenet+mimic",
}
"""name as printed, in lower case -> our bare name, where it is more than a matter of case and blanks"""

SHARED_IMAGES = {"CXS": ("jsrt",), "HXS": ("jsrt",)}
"""code of a published task that is not ours -> the images that it shares with another: clavicle and heart"""


CODES = {task.code: task.name for task in TASKS.values()}


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published mean score of one initialization on one task."""

    paper: str
    name: str
    """as printed"""
    init: str
    """our name without a backbone; the printed one where we have none"""
    task: str
    """our name; the printed code where we have none"""
    metric: str
    """as printed"""
    mean: float
    """a fraction: 0.8170 for 81.70 %"""
    std: float | None
    """over runs, a fraction; None: not published"""
    n: int
    """runs behind the mean"""
    n_stated: bool
    """the file states n; else it is assumed"""
    digitised: bool
    """measured in a figure, not printed as a number"""
    source: str
    line: int
    """of the file"""
    dropped: tuple[Published, ...] = ()
    """the file's other rows for the same result"""

    @property
    def score(self) -> bool:
        """Says whether it is a score, not a difference of two."""
        return not _is_difference(self.metric)

    @property
    def segmentation(self) -> bool:
        """Says whether the target is a mask; of a task that is not ours its metric tells."""
        return TASKS[self.task].segmentation if self.task in TASKS else "dice" in self.metric.lower()

    @property
    def group(self) -> str:
        """Names the images of the task: tasks that share images have one name."""
        return image_groups({self.task: origins(self.task, DERIVED | SHARED_IMAGES)})[self.task]


def read(path: Path, *, n: int) -> list[Published]:
    """Reads a file of published numbers, one row per paper, initialization and task.

    Where the file has a result several times, a printed number counts before a digitised one, one with a std before one
    without, and the first of these; the others stand in `dropped`. A name or a task that is not ours stays as printed.

    Args:
        path: CSV file with the columns `COLUMNS` and, if wished, `n`; means and std in percent.
        n: runs behind a mean where the file does not state them.

    Raises:
        UserError: the file is missing, empty or lacks a column; a mean, std or n is no number or out of range; or a
            task has two metrics. The message names the line.
    """
    if not path.is_file():
        raise UserError(f"looked for published numbers in {path}, found no such file; mend comparison.against")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets write a byte order mark
            rows = list(_rows(path, csv.DictReader(file), n))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8 ({error}); save it as one") from error
    if not rows:
        raise UserError(f"looked for published numbers in {path}, found no row; add one or mend comparison.against")
    _refuse_two_metrics(path, rows)
    results: dict[tuple[str, str, str], list[Published]] = {}
    for row in rows:
        results.setdefault((row.paper, row.init, row.task), []).append(row)
    return [_one(same) for same in results.values()]


def repeated(rows: Sequence[Published]) -> str:
    """Says in a sentence how many results were given more than once; empty where none was."""
    found = [row for row in rows if row.dropped]
    if not found:
        return ""
    row, other = max(((row, other) for row in found for other in row.dropped), key=lambda pair: _gap(*pair))
    return (
        f"{len(found)} of {len(rows)} published numbers are given more than once; a printed one counts before a "
        f"digitised one, and the first; furthest apart: {row.init} on {row.task}, {_words(row)}, not {_words(other)}"
    )


def difference(better: Sequence[Published], than: Sequence[Published], *, alpha: float) -> TTest:
    """Subtracts the mean of some published means from that of others, all of independent runs.

    The variances are not taken as one: for two means it is Welch's test (Biometrika 1947). A std is taken as that of a
    sample (ddof 1).

    Args:
        better: rows of one task, each with a std.
        than: likewise.
        alpha: 1 - level of the interval.
    """
    shares = [(row, 1 / len(better)) for row in better] + [(row, -1 / len(than)) for row in than]
    parts = [(share, row.mean, (row.std or 0.0) / row.n**0.5, row.n - 1) for row, share in shares]
    return replace(weighted_sum(parts, alpha=alpha), n=tuple(row.n for row, _ in shares))


def weighted_sum(parts: Sequence[tuple[float, float, float, float]], *, alpha: float) -> TTest:
    """Adds independent estimates up, with the degrees of freedom of Satterthwaite (Biometrics Bulletin 1946).

    Args:
        parts: weight, estimate, standard error and degrees of freedom of each.
        alpha: 1 - level of the interval; there is none where nothing varies.
    """
    sum_ = TTest(test="welch", difference=math.fsum(weight * estimate for weight, estimate, _, _ in parts), alpha=alpha)
    error = math.hypot(*(weight * error for weight, _, error, _ in parts))
    if error <= ROUNDING * max(abs(weight * estimate) for weight, estimate, _, _ in parts):
        return replace(sum_, note="nothing varies")
    # As shares of the whole, so that tiny variances do not underflow when squared.
    df = 1 / math.fsum((weight * own / error) ** 4 / own_df for weight, _, own, own_df in parts if own)
    half = float(stats.t.isf(alpha / 2, df)) * error
    return replace(sum_, df=df, low=sum_.difference - half, high=sum_.difference + half)


def bare_name(name: str) -> str:
    """Finds our name, without a backbone, of a printed one; a name that is not known stays as it is."""
    key = " ".join(name.lower().split())
    ours = key.replace(" ", "-")
    return ALIASES.get(key) or (ours if ours in RECORDS else name)


def _rows(path: Path, reader: csv.DictReader[str], n: int) -> Iterator[Published]:
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing and reader.fieldnames:
        found = ", ".join(reader.fieldnames)
        raise UserError(f"{path}, line 1: columns {', '.join(missing)} are missing, found {found}; add them")
    for row in reader:
        place = f"{path}, line {reader.line_num}"
        if None in row or None in row.values():  # csv's sign of too many fields and of too few
            raise UserError(f"{place}: every row must have as many fields as line 1; quote a text with a comma in it")
        yield _row(place, reader.line_num, {key: value.strip() for key, value in row.items()}, n)


def _row(place: str, line: int, row: Mapping[str, str], n: int) -> Published:
    for column in ("paper", "initialization", "task", "metric"):
        if not row[column]:
            raise UserError(f"{place}: `{column}` must not be empty")
    stated = bool(row.get("n"))
    return Published(
        paper=row["paper"],
        name=row["initialization"],
        init=bare_name(row["initialization"]),
        task=CODES.get(row["task"], row["task"]),
        metric=row["metric"],
        mean=_mean(place, row),
        std=_number(place, "std", row["std"], 0, 100) / 100 if row["std"] else None,
        n=_runs(place, row["n"]) if stated else n,
        n_stated=stated,
        digitised=row["source"].startswith("DIGITISED"),
        source=row["source"],
        line=line,
    )


def _mean(place: str, row: Mapping[str, str]) -> float:
    """Reads a mean; only a published difference may be negative."""
    difference = _is_difference(row["metric"])
    mean = _number(place, "mean", row["mean"], -100 if difference else 0, 100)
    if 0 < mean <= 1 and not difference:
        raise UserError(f"{place}: mean must be in percent, got {row['mean']}, which looks like a fraction; times 100")
    return mean / 100


def _runs(place: str, text: str) -> int:
    runs = _number(place, "n", text, 2, math.inf)
    if not runs.is_integer():
        raise UserError(f"{place}: n must be a whole number of runs, got {text}")
    return int(runs)


def _number(place: str, name: str, text: str, low: float, high: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{place}: {name} must be a number, got {text!r}")
    if not low <= number <= high:
        raise UserError(f"{place}: `{low} <= {name} <= {high}` must hold, got {text}")
    return number


def _refuse_two_metrics(path: Path, rows: Sequence[Published]) -> None:
    """Refuses a paper's task with two metrics, of which no difference can be made."""
    first: dict[tuple[str, str], Published] = {}
    for row in rows:
        other = first.setdefault((row.paper, row.task), row)
        if other.metric != row.metric:
            raise UserError(
                f"{path}, line {row.line}: task {row.task} of {row.paper} must have one metric, got {row.metric!r} "
                f"and, in line {other.line}, {other.metric!r}; keep the rows of one"
            )


def _is_difference(metric: str) -> bool:
    return "difference" in metric.lower()


def _one(same: Sequence[Published]) -> Published:
    kept = min(same, key=lambda row: (row.digitised, row.std is None))
    return replace(kept, dropped=tuple(row for row in same if row is not kept))


def _gap(row: Published, other: Published) -> float:
    return abs(row.mean - other.mean)


def _words(row: Published) -> str:
    spread = "" if row.std is None else f" +- {100 * row.std:.2f}"
    return f"{100 * row.mean:.2f}{spread} (line {row.line})"
