"""Task records: what is predicted on a dataset, with its published counts, split recipe and metric."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Literal

from medtransfer.errors import UserError

Kind = Literal["multilabel", "binary", "segmentation"]


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
    """in official order, which is also the column order of predictions"""
    channels: Literal[1, 3]
    counts: dict[str, int]
    """published number of images per official split, asserted unless the source is synthetic or partial"""
    positives: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """published positives per official split, one number per label"""
    draw: dict[str, float]
    """fractions that our own seeded, patient-disjoint draw takes out of `trainval` or `all` for val and test"""
    split_source: Literal["official", "drawn"]
    """who defines the test split; a leak in a drawn split always fails `prepare`"""
    unit: str = "patient"
    """what is resampled: the statistical unit"""
    derived_from: tuple[str, ...] = ()
    """datasets whose images this one re-releases"""
    metric: str
    """primary metric, as in the score name `test_<metric>`"""
    margin: float
    """smallest difference in the primary metric that matters, in the metric's own unit"""
    native_size: int
    """pixels: the published network input"""
    licence: str
    citation: str
    source: str
    """where a person gets the files"""

    @property
    def segmentation(self) -> bool:
        """Says whether the target is a mask."""
        return self.kind == "segmentation"


CHESTXRAY14_LABELS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="chestxray14",
            code="DXC14",
            dataset="chestxray14",
            title="Fourteen thorax diseases classification",
            kind="multilabel",
            labels=CHESTXRAY14_LABELS,
            channels=1,
            counts={"trainval": 86_524, "test": 25_596},
            positives={
                "trainval": (8280, 1707, 8659, 13782, 4034, 4708, 876, 2637, 2852, 1378, 1423, 1251, 2242, 141),
                "test": (3279, 1069, 4658, 6112, 1748, 1623, 555, 2665, 1815, 925, 1093, 435, 1143, 86),
            },
            draw={"val": 0.13},
            split_source="official",
            metric="auc",
            margin=0.01,
            native_size=224,
            licence="free use with acknowledgement (NIH Clinical Center)",
            citation="Wang et al., ChestX-ray8, CVPR 2017",
            source="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        ),
        Task(
            name="shenzhen",
            code="TXC",
            dataset="shenzhen",
            title="Tuberculosis detection",
            kind="binary",
            labels=("Tuberculosis",),
            channels=1,
            counts={"all": 662},
            positives={"all": (336,)},
            draw={"val": 0.1, "test": 0.2},
            split_source="drawn",
            metric="auc",
            margin=0.01,
            native_size=224,
            licence="free use with citation (NLM)",
            citation="Jaeger et al., Quant Imaging Med Surg 2014",
            source="https://lhncbc.nlm.nih.gov/LHC-downloads/downloads.html#tuberculosis-image-data-sets",
        ),
        Task(
            name="montgomery",
            code="LXS",
            dataset="montgomery",
            title="Lung segmentation",
            kind="segmentation",
            labels=("Lung",),
            channels=1,
            counts={"all": 138},
            draw={"val": 0.1, "test": 0.2},
            split_source="drawn",
            metric="dice",
            margin=0.005,
            native_size=224,
            licence="free use with citation (NLM)",
            citation="Jaeger et al., Quant Imaging Med Surg 2014",
            source="https://lhncbc.nlm.nih.gov/LHC-downloads/downloads.html#tuberculosis-image-data-sets",
        ),
        Task(
            name="drive",
            code="VFS",
            dataset="drive",
            title="Blood vessels segmentation",
            kind="segmentation",
            labels=("Vessel",),
            channels=3,
            counts={"trainval": 20, "test": 20},
            draw={"val": 0.2},
            split_source="official",
            metric="dice",
            margin=0.005,
            native_size=512,
            licence="research use with citation",
            citation="Staal et al., IEEE TMI 2004",
            source="https://drive.grand-challenge.org",
        ),
    )
}


def lookup(name: str) -> Task:
    """Finds a task by name.

    Raises:
        UserError: no such task; the message lists the valid names.
    """
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, TASKS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"unknown task {name!r}{hint} Valid tasks: {', '.join(sorted(TASKS))}")
