"""Task records: what is predicted on a dataset, with its published counts, split recipe and metric."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from medtransfer.statistics import metrics
from medtransfer.statistics.mask_shapes import Unit

Kind = Literal["multilabel", "binary", "multiclass", "segmentation"]
Windows = tuple[tuple[float, float], ...]
"""(level, width) in Hounsfield units, one per channel of the prepared image"""


GROUP = "group."
"""begins the names of the columns that hold a sample's subgroups, in the cache and among predictions"""
PLANES = 8
"""most masks of one image: labels and extras are the bits of a byte"""


@dataclass(frozen=True, kw_only=True)
class Folds:
    """Cross-validation: every fold of every repeat is a run of its own."""

    count: int
    repeats: int

    @property
    def numbers(self) -> range:
        """Numbers the folds of all repeats: fold f of repeat r is r * count + f."""
        return range(self.count * self.repeats)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the images, labels and units of an own task stand: in a table of file names or in arrays."""

    table: str = ""
    """CSV file beside the `task.yaml`"""
    arrays: str = ""
    """`.npz` file beside the `task.yaml`, with `train_images`, `train_labels` and so on"""
    image: str = ""
    """column of the image's path, relative to the table"""
    frame: str = ""
    """column of the frame or slice number, from 0"""
    id: str = ""
    """column of a name that may stand in the cache; without it a sample is named by a hash of its path"""
    patient: str = ""
    """column of the patient"""
    split: str = ""
    """column of the split"""
    label: str = ""
    """column of a multiclass task's class"""
    masks: Mapping[str, str] = field(default_factory=dict)
    """label -> column of its mask's path"""
    values: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    """label -> its values or colours in the mask, where one mask holds all labels"""
    background: tuple[int | str, ...] = ()
    """values or colours of masks that belong to no label, where it is not 0 alone"""
    threshold: float | None = None
    """of masks with soft edges: the share of their largest value above which a pixel is the region's"""
    allow_empty: tuple[str, ...] = ()
    """labels of which a whole split may be empty"""
    allow_full: tuple[str, ...] = ()
    """labels that may fill every image"""
    align: Literal["space", "pixels"] = "space"
    """whether masks are laid on their images by their place in space, where files say it, or pixel by pixel"""
    outside: tuple[str, ...] = ()
    """folders beside the task's own that paths of the table may lead into"""
    subgroups: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """column whose groups are scored apart -> where its numbers are cut into bands; empty: as it stands"""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is predicted on a dataset, and the facts that `prepare` asserts about it."""

    name: str
    code: str
    """the paper's code: object, modality, task (DXC14 = Diseases, X-ray, Classification, 14 labels)"""
    dataset: str
    title: str
    kind: Kind
    labels: tuple[str, ...]
    """in official order, which is also the column order of predictions; the classes of a multiclass task"""
    tested: tuple[str, ...] = ()
    """labels whose scores are averaged; empty: all"""
    findings: Mapping[str, str] = field(default_factory=dict)
    """label -> what it is called in other tasks, where that is another name"""
    uncertain: bool = False
    """a label may be uncertain, written -1"""
    ordinal: bool = False
    """the classes of a multiclass task stand in an order"""
    hashed_ids: bool = False
    """names of images are DICOM identifiers or hold a patient's number: the cache has a hash in their place"""
    channels: Literal[1, 3]
    windows: Windows = ()
    """how CT becomes 8 bits; empty: by the file's own window, else by its range"""
    extras: tuple[str, ...] = ()
    """what test images of a segmentation task carry beside their mask: `field_of_view`, `second_observer`"""
    counts: dict[str, int]
    """published number of images per official split, asserted unless the source is synthetic or partial"""
    positives: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    """published positives per official split, one number per label, None where it is not published"""
    draw: dict[str, float]
    """fractions of the units that our own seeded, unit-disjoint draw takes out of `trainval` or `all`"""
    split_source: Literal["official", "drawn", "given"]
    """who defines the test split; a leak in a drawn split always fails `prepare`"""
    unit: Literal["patient", "study", "image"] = "patient"
    """the statistical unit: what splits keep together and what is resampled"""
    derived_from: tuple[str, ...] = ()
    """datasets whose images this one re-releases"""
    metric: str
    """primary metric, as in the score name `test_<metric>`"""
    margin: float
    """smallest difference in the primary metric that matters, in the metric's own unit"""
    measures: tuple[str, ...] = ("surface",)
    """of masks, beside Dice: `surface` (surface Dice and distances), `centre_line` (clDice, of vessels), `lesions`"""
    tolerance: tuple[float, Unit] | None = None
    """how far two outlines may be apart to count as one; None: 2 mm, or 2 pixels where their size is not known"""
    spacing: tuple[float, float] | None = None
    """height and width of every image's pixels in mm, where files do not say them; None: as files say"""
    spacing_side: int = 0
    """longer side in pixels of the images that `spacing` is of: a copy of another size has other ones; 0: of any"""
    folds: Folds | None = None
    """cross-validation instead of one split; a test split that is given stays locked"""
    layout: Layout | None = None
    """of a task that a `task.yaml` describes"""
    licence: str
    citation: str
    source: str
    """where a person gets the files"""

    @property
    def segmentation(self) -> bool:
        """Says whether the target is a mask."""
        return self.kind == "segmentation"

    @property
    def measured(self) -> tuple[str, ...]:
        """Lists the metrics that its runs measure on val too, each of which may be the primary one."""
        return metrics.measured(self.kind, self.ordinal, self.metric)


def slug(label: str) -> str:
    """Writes a label in the characters that metric names allow."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", label)


Derived = Mapping[str, Collection[str]]
"""dataset -> the datasets whose images it re-releases"""


def origins(dataset: str, derived: Derived) -> set[str]:
    """Lists a dataset and all that its images are taken from, at any remove."""
    found, left = set[str](), [dataset]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += derived.get(name, ())
    return found


def applicable(seen: Collection[str], dataset: str) -> bool:
    """Says whether weights that saw some datasets can be scored on a dataset: not on the one that they learnt."""
    return dataset not in seen


def contaminated(seen: Iterable[str], dataset: str, derived: Derived) -> bool:
    """Says whether weights saw images of a dataset under another name.

    It may re-release what they saw, they may have seen a re-release of it, or both may be taken from a third.
    """
    own = origins(dataset, derived)
    return any(origins(name, derived) & own for name in set(seen) - {dataset})


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What a published list of the training images of weights holds of the test images of a run."""

    name: str
    """of the list's file"""
    sha256: str
    """of its content"""
    entries: int
    held: int
    """test images that it names"""
    test: int
    """test images that there are"""
    by: tuple[str, ...]
    """what told: `name`, `sha256`, ...; empty: no image of the task is in it, so that it may be of another form"""

    @property
    def words(self) -> str:
        """Says it in a sentence's second half."""
        listed = f"its training list {self.name} (sha256 {self.sha256[:12]})"
        if not self.by:
            return (
                f"cannot tell whether it saw the {self.test:,} test images: none of the {self.entries:,} entries of "
                f"{listed} is a name, hash or UID of an image of this task, which may be listed in another form"
            )
        return f"{self.held:,} of {self.test:,} test images are in {listed}, by {' and '.join(self.by)}"


def image_groups(images: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Gives the datasets that share images one name: tasks on them count once.

    The name is that of what they are taken from; of several such, the first in the alphabet.

    Args:
        images: dataset -> its `origins`.
    """
    groups: list[set[str]] = []
    for names in images.values():
        joined = set(names).union(*(group for group in groups if group & set(names)))
        groups = [*(group for group in groups if not group & joined), joined]
    roots = [min((n for n in group if len(images.get(n, (n,))) == 1), default=min(group)) for group in groups]
    return {name: next(r for r, group in zip(roots, groups, strict=True) if name in group) for name in images}
