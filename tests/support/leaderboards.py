"""Packs made in memory: runs of three labs on seven tasks, of known order; no predictions, no file."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medtransfer.core import schema
from medtransfer.data.catalog import TASKS
from medtransfer.packs import file
from medtransfer.packs.records import Certificate, Checked, Contribution, InitCard, Pack, TaskCard
from medtransfer.results.result import Result
from medtransfer.weights import sizes
from medtransfer.weights.families import split
from medtransfer.weights.zoo import RECORDS
from tests.support import results

MODALITIES = {
    "chestxray14": "chest-x-ray", "chexpert": "chest-x-ray", "shenzhen": "chest-x-ray", "siim": "chest-x-ray",
    "montgomery": "chest-x-ray", "rsna_pe": "ct", "drive": "fundus",
}  # fmt: skip
SEVEN = tuple(MODALITIES)
EFFECTS = {
    "random@resnet50": 0.0, "imagenet@resnet50": 0.05, "inat2021@resnet50": 0.055, "swav@resnet50": 0.052,
    "dino@resnet50": 0.053, "barlow-twins@resnet50": 0.05, "simclr-v2@resnet50": 0.035, "moco-v2@resnet50": 0.04,
    "deepcluster-v2@resnet50": 0.051, "pirl@resnet50": 0.03, "radimagenet@resnet50": 0.045,
    "imagenet+mimic-published@resnet50": 0.06, "random@vit_base_patch16_224": -0.02,
    "imagenet@vit_base_patch16_224": 0.045, "mae@vit_base_patch16_224": 0.05, "dino@vit_base_patch16_224": 0.054,
    "biomedclip@vit_base_patch16_224": 0.057, "rad-dino@vit_base_patch14_dinov2": 0.065,
    "imagenet@convnext_large": 0.06, "eva-x-tiny@eva02_tiny_patch16_224_eva_x": 0.056,
}  # fmt: skip
"""canonical name -> how much better it is than random, of twenty inits"""
LICENCES = {"imagenet": "Apache-2.0", "mae": "CC-BY-NC-4.0"}
COMMERCIAL = {"CC-BY-NC-4.0": "no", "": "unclear", "none": "yes", "Apache-2.0": "yes", "MIT": "yes"}


def result(
    task: str, init: str, seed: int, score: float, *, kind: str = "", metric: str = "", margin: float = 0.0,
    **changes: Any,
) -> Result:  # fmt: skip
    """Makes a finished run of a task of the catalog, or of one that is nowhere."""
    known = TASKS[task] if task in TASKS else dataclasses.replace(TASKS["shenzhen"], name=task, dataset=task)
    digest = hashlib.sha256(repr((task, init, seed, sorted(changes.items()))).encode()).hexdigest()[:32]
    scores = {f"test_{known.metric}": score, f"best_val_{known.metric}": score - 0.001}
    tree = results._cell(known, init, seed, digest, scores, score, 200) if task in TASKS else _plain(known, init, seed)
    tree = tree | {"digest": digest, "scores": scores, "marks": [], "history": [], "finished": "2026-03-02T12:00:00Z"}
    found: Result = schema.convert({name: tree[name] for name in tree if name in FIELDS}, Result)
    facts = {"metric": known.metric, "margin": margin or known.margin, "images": (known.dataset,)}
    return dataclasses.replace(found, **{**facts, **changes})


Verdict = Literal["equal", "within", "different", "failed"]
FIELDS = {field.name for field in dataclasses.fields(Result)}


def _plain(task: Any, init: str, seed: int) -> dict[str, Any]:
    return results._cell(TASKS["shenzhen"], init, seed, "", {}, 0.5, 200) | {
        "task": task.name, "dataset": task.name, "params": {}, "manifest_digest": f"m-{task.name}",
    }  # fmt: skip


def init_card(init: str, **changes: Any) -> InitCard:
    """Describes an init as a pack does."""
    bare, backbone = split(init)
    record = RECORDS.get(bare, RECORDS["random"])
    licence = record.licence or LICENCES.get(bare, "")
    parameters = sizes.SIZES.get(backbone, (0, 0))[0]
    found = InitCard(
        title=bare, family=record.family, modality=record.modality, licence=licence,
        commercial=COMMERCIAL.get(licence, "unclear"), parameters=parameters or (23_508_032 * (backbone == "resnet50")),
        weights_sha256="" if bare == "random" else hashlib.sha256(init.encode()).hexdigest(),
        tensors_sha256="" if bare == "random" else hashlib.sha256(init.encode() + b"t").hexdigest(),
    )  # fmt: skip
    return dataclasses.replace(found, **changes)


def task_card(task: str, **changes: Any) -> TaskCard:
    """Describes a task as a pack does."""
    known = TASKS.get(task, TASKS["shenzhen"])
    found = TaskCard(
        title=known.title if task in TASKS else task, kind=known.kind, metric=known.metric, margin=known.margin,
        modality=MODALITIES.get(task, "not-stated"), derived_from=known.derived_from,
    )  # fmt: skip
    return dataclasses.replace(found, **changes)


def contribution(
    lab: str, runs: Sequence[Result], created: str = "2026-03-01T12:00:00Z", **changes: Any
) -> Contribution:
    """Makes the contribution of a lab."""
    digest = hashlib.sha256(repr((lab, created, [(r.digest, sorted(r.scores.items())) for r in runs])).encode())
    found = Contribution(
        digest=digest.hexdigest(), lab=lab, created=created, protocol_version=1, results=tuple(runs),
        tasks={task: task_card(task) for task in dict.fromkeys(run.task for run in runs)},
        inits={init: init_card(init) for init in dict.fromkeys(run.init for run in runs)},
        environment={"device": "cpu"},
    )  # fmt: skip
    return dataclasses.replace(found, **changes)


def certificate(one: Contribution, by: str, verdicts: Sequence[Verdict], share: float = 0.05) -> Certificate:
    """Makes a certificate that found these verdicts, in the order of the contribution's runs."""
    away = {"equal": 0.0, "within": 0.001, "different": 0.05}
    checked = tuple(
        Checked(
            run=run.digest, verdict=verdict, claimed=run.score, spread=None if verdict == "equal" else 0.002,
            found=(run.score or 0) - away[verdict] if verdict in away else None,
        )
        for run, verdict in zip(one.results, verdicts, strict=False)
    )  # fmt: skip
    return Certificate(
        contribution=one.digest, by=by, finished="2026-04-01T09:30:00Z", share=share, draw=7, checked=checked,
        machine="cpu, instructions AVX512, threads 2", versions={"torch": "2.14.1"},
    )  # fmt: skip


def scores(
    tasks: Sequence[str], effects: Mapping[str, float], seeds: Sequence[int], lab: str, **changes: Any
) -> list[Result]:
    """Draws runs: an init's effect, what a task makes of it, a seed's luck that all share, and the run's own."""
    found = []
    for task in tasks:
        for init, effect in effects.items():
            own = np.random.default_rng(_number(task, init)).normal(0, 0.012)
            for seed in seeds:
                luck = np.random.default_rng(_number(task, seed)).normal(0, 0.004)
                rest = np.random.default_rng(_number(task, init, seed, lab)).normal(0, 0.004)
                given = dict(changes) | {"cost": _cost(init, lab)}
                found.append(result(task, init, seed, float(min(0.8 + effect + own + luck + rest, 0.999)), **given))
    return found


def _cost(init: str, lab: str) -> dict[str, float]:
    million = init_card(init).parameters / 1e6
    seconds = (120 + 9 * million) * {"north": 1.0, "south": 1.4}.get(lab, 0.7)
    return {"epochs": 30.0, "images": 120_000.0, "seconds": seconds, "gpu_seconds": seconds}


def _number(*words: object) -> int:
    return int(hashlib.sha256(repr(words).encode()).hexdigest()[:12], 16)


def lively(seeds: int = 10) -> tuple[Pack, Pack]:
    """Makes two packs of three labs: 20 inits, 7 tasks; runs that two have, tasks that lack, all three statuses."""
    inits = list(EFFECTS)
    first = {init: EFFECTS[init] for init in inits[:12]}
    second = {init: EFFECTS[init] for init in (inits[0], inits[1], *inits[12:])}
    gpu = {"device": "NVIDIA H200", "arithmetic": {"device": "NVIDIA H200"}}
    north = contribution("Lab North", scores(SEVEN, first, range(seeds), "north"), "2026-03-01T12:00:00Z")
    runs = scores(SEVEN, second, range(seeds), "south", **gpu)
    runs = [run for run in runs if (run.init, run.task) != ("mae@vit_base_patch16_224", "drive")]
    runs = [run for run in runs if (run.init, run.seed) != ("dino@vit_base_patch16_224", seeds - 1)]
    south = contribution("South & Sons <script>alert(1)</script>", runs, "2026-03-08T08:00:00Z")
    wrong = {"swav@resnet50": 0.15, "imagenet+secret@resnet50": 0.16}
    third = contribution("East", scores(SEVEN[:4], wrong, range(5), "east", recipe="fixed"), "2026-03-10T00:00:00Z")
    fourth = contribution("East", north.results[:20], "2026-03-11T00:00:00Z")
    certificates = (
        certificate(north, "South & Sons <script>alert(1)</script>", ["equal", "within", "equal"]),
        certificate(south, "South & Sons <script>alert(1)</script>", ["equal"]),
        certificate(third, "Lab North", ["different", "equal", "failed"]),
    )
    return Pack(contributions=(north, fourth), certificates=certificates[:1]), Pack(
        contributions=(south, third), certificates=certificates[1:]
    )


def save(pack: Pack, path: Path) -> None:
    """Writes a pack's file; certificates follow their contributions."""
    renamed, contents = dict[str, str](), dict[str, file.Content]()
    for one in pack.contributions:
        digest, text = file.of_contribution(one, {})
        renamed[one.digest] = digest
        contents[f"contributions/{digest}.json"] = functools.partial(bytes, text)
    for each in pack.certificates:
        name, text = file.of_certificate(dataclasses.replace(each, contribution=renamed[each.contribution]))
        contents[name] = functools.partial(bytes, text)
    file.write(path, contents)
