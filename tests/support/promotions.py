"""A repository whose benchmark is finished and reported, without training: what `promote` starts from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file

from medtransfer import params
from medtransfer.comparison import findings, record
from medtransfer.comparison.findings import Findings
from medtransfer.params import Params
from medtransfer.registry import promote as promoting
from medtransfer.report import formats
from medtransfer.weights import convert, receipts, store
from medtransfer.weights.names import expected, parse
from medtransfer.weights.receipts import Lineage, Receipt
from tests.support import fakes, results, workspace

TASKS = ("shenzhen", "montgomery")
MODEL = f"medtransfer-backbone-{fakes.BACKBONE}"
Said = list[dict[str, Any]]


def name_of(letter: str) -> str:
    """Names the init of a letter: a weight file of its own."""
    return f"file:{letter}.safetensors"


def start(root: Path, top: Path, letters: str = "abc") -> None:
    """Makes parameters and weight files."""
    workspace.make(root, top)
    start_weights(root, letters)


def start_weights(root: Path, letters: str = "abc") -> None:
    """Makes weight files; inits are looked for in the working folder."""
    for seed, letter in enumerate(letters):
        torch.manual_seed(seed)
        save_file(timm.create_model(fakes.BACKBONE, num_classes=0).state_dict(), root / f"{letter}.safetensors")


def load(
    root: Path, letters: Sequence[str], seeds: Sequence[int] = (0, 1, 2), overrides: Mapping[str, str] | None = None
) -> Params:
    """Reads the parameters of a benchmark of some letters."""
    inits = [name_of(word) if len(word) == 1 else word for word in letters]
    changes = {"benchmark.inits": json.dumps(inits), "benchmark.seeds": json.dumps(list(seeds))}
    changes |= {"comparison.reference": "random", "comparison.resamples": "0", "comparison.against": "[]"}
    return params.load(root / "params.yaml", {**changes, **(overrides or {})})


def finish(
    root: Path, effects: Mapping[str, float], *, seeds: Sequence[int] = (0, 1, 2),
    overrides: Mapping[str, str] | None = None, **changes: Any,
) -> tuple[Params, Findings]:  # fmt: skip
    """Writes the runs of a benchmark, with their weights' true hashes, and reports them."""
    effects = {"random": -3.0, **effects}  # what the first champion is held against
    here = load(root, list(effects), seeds, overrides)
    cells = root / "data/results/cells"
    names = zip(expected(here).inits, here.benchmark.inits, strict=True)
    inits = {expect: parse(name, fakes.BACKBONE, here.inits) for expect, name in names}
    named = dict(zip(inits, effects.values(), strict=True))
    results.write(cells, named, TASKS, seeds, cases=400, **{"marks": [], **changes})
    for path in cells.glob("*/*/cell.json"):
        cell = json.loads(path.read_text())
        receipt = store.ready(inits[cell["init"]], root) if cell["init"] in inits else None
        if receipt is not None:
            path.write_text(json.dumps(cell | {"weights_sha256": receipt.tensors_sha256}))
    return here, report(root, here)


def report(root: Path, here: Params) -> Findings:
    """Compares, and leaves what `compare` leaves, as far as `promote` reads it."""
    benchmark = expected(here)
    found = findings.find(
        root / "data/results/cells",
        benchmark,
        here,
        root,
        next(name for name in benchmark.inits if name.startswith("random")),
    )
    tables = {
        "runs": record.runs(record.every_run(found)),
        "comparison": record.comparison(found),
        "contrasts": record.contrasts(found),
    }
    (root / "data/results/report").mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        (root / f"data/results/{name}.csv").write_text(formats.records_csv(table))
    for name in ("index.html", "comparison.md"):
        (root / "data/results/report" / name).write_text("report")
    return found


def promote(root: Path, here: Params, found: Findings, *, dry: bool = False) -> Said:
    """Promotes; without kept networks, fine-tuned models are blocked and the backbone comes first."""
    return promoting.promote(found, here, root, dry=dry)


def pretrain(root: Path, letter: str, dataset: str, marks: Sequence[str], licences: Sequence[str] = ()) -> str:
    """Lays out weights that were trained further on a dataset, without training; returns their init's name."""
    name = f"{name_of(letter)}+{dataset}"
    init = parse(name, fakes.BACKBONE)
    tensors = {key: tensor * 0.5 for key, tensor in load_file(root / f"{letter}.safetensors").items()}
    below = store.ready(init.parent, root)
    assert isinstance(below, Receipt)
    made = Lineage(
        init=init.canonical, backbone=fakes.BACKBONE, digest="d", identity={}, parent=init.parent.canonical,
        parent_sha256=below.tensors_sha256, parent_receipt=json.loads(json.dumps(dataclasses.asdict(below))),
        dataset=dataset, manifest_digest="m", dropped=(), targets={}, images={"train": 10}, marks=tuple(marks),
        method="supervised", monitor="val_loss", best_epoch=0, best=0.5, epochs=1, seconds=1.0,
        tensors_sha256=convert.digest(tensors), parameters=below.parameters, mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6), padding="", licences=tuple(licences or ("not stated", f"images of {dataset}: CC0")),
        fingerprint=(0.0,), versions={}, mlflow_run_id="r",
    )  # fmt: skip
    receipts.write(made, tensors, init, root)
    return name
