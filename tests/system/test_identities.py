"""What identifies work that is done already: equal code must find it again, wherever that code now lies.

A change of these values makes every user's finished runs, caches and decisions strangers. Where one must change, it
is for a reason that the changelog gives, with PROTOCOL_VERSION.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medtransfer import params
from medtransfer.data import catalog, manifest
from medtransfer.data.catalog import TASKS
from medtransfer.data.splits import Assignment
from medtransfer.registry import promote
from medtransfer.registry.gate import Candidate
from medtransfer.runs.pretrain.link import Link
from medtransfer.runs.run import Run
from medtransfer.weights.names import parse

MANIFEST, WEIGHTS = "5" * 64, "7" * 64
THREADS = {"execution.threads_per_run": "1"}


def joined(digests: list[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def planned(top: Path, values: params.Params, name: str, task: str, seed: int, **more: Any) -> Run:
    init = parse(name, values.model.backbone)
    return Run(
        init=init, task=task, seed=seed, params=values, device="cpu", prepared=top, manifest_digest=MANIFEST, marks=(),
        weights_sha256="random" if init.random else WEIGHTS, root=top, **more,
    )  # fmt: skip


def test_the_runs_of_the_paper(top: Path) -> None:
    values = params.load(top / "presets/paper.yaml", THREADS)
    inits = ["random", "imagenet", "swav", "moco-v2", "inat2021"]
    cases = itertools.product(inits, catalog.names(top), range(2))
    digests = [planned(top, values, init, task, seed).digest for init, task, seed in cases]
    assert len(set(digests)) == 70
    assert digests[0] == "fc05df5adb438546e5769c84fa740ca2"
    assert joined(digests) == "a922004fef4c3f5c"


@pytest.mark.parametrize(
    ("more", "digest"),
    [
        ({"fold": 1}, "478cf15ac5a5a436f0031ef9d3076786"),
        ({"fold": 1, "drawn": True}, "7d590e23d16d07fd23873e2ba31634af"),
        ({"recipe": "tuned"}, "b52850a65d61b51f19d68c8b8a3c6f72"),
    ],
    ids=["fold", "drawn split", "tuned"],
)
def test_a_part_of_a_run(top: Path, more: dict[str, Any], digest: str) -> None:
    values = params.load(top / "presets/paper.yaml", THREADS)
    assert planned(top, values, "swav", "drive", 3, **more).digest == digest


@pytest.mark.parametrize(
    ("method", "digest"),
    [("supervised", "521d37d7f39c767414d35fe887b607d6"), ("simclr", "e018055b1154c5fb83b5caa673647991")],
)
def test_a_pre_training(top: Path, method: str, digest: str) -> None:
    values = params.load(top / "presets/paper.yaml", {**THREADS, "pretraining.method": method})
    samples = np.array([("a",), ("b",)], dtype=[("patient", "U1")])
    prepared: Any = SimpleNamespace(digest=MANIFEST, samples=samples)
    init = parse("imagenet+chestxray14", "resnet50")
    link = Link(
        init=init, task=TASKS["chestxray14"], prepared=prepared, params=values, device="cpu", parent_sha256=WEIGHTS,
        drop=np.array([False, True]), targets={}, root=top,
    )  # fmt: skip
    assert link.digest == digest


def test_a_cache() -> None:
    names = np.array(["a", "b", "c"])
    splits = np.array(["train", "val", "test"])
    assignment = Assignment(task=TASKS["shenzhen"], seed=0, pools=splits, splits=splits, folds=np.empty((3, 0), "U5"))
    notes = np.zeros(3, [("image", "S4"), ("mask", "S4"), ("native", "S4")])
    notes["image"] = [b"1", b"2", b"3"]
    fields = {"task": "shenzhen", "cache_size": 112}
    digest = manifest.digest(fields, names, names, np.array([[1], [0], [1]], np.int8), assignment, notes)
    assert digest[:32] == "79599e88c39b69bd0e002f7430220151"


def test_a_decision(top: Path) -> None:
    settings = params.load(top / "presets/paper.yaml").promotion
    subject: Any = SimpleNamespace(
        candidate=Candidate(model="medtransfer-backbone", key=WEIGHTS, parameters=23_508_032)
    )
    when: Any = SimpleNamespace(comparison=MANIFEST[:32], settings=settings)
    assert promote._digest(subject, when) == "c651a432f3217e9821280e85ee3fc6e9"
