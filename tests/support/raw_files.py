"""Raw files of a layout of their own, `samples.csv` beside `images` and `masks`, and tasks that they are of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from medtransfer import params
from medtransfer.data.catalog import TASKS
from medtransfer.data.readers.reading import Picture, Sample
from medtransfer.data.tasks import Task

PARAMS = params.load(Path(__file__).parents[2] / "params.yaml")
LABELS = ("Effusion", "Mass")
FINDINGS = replace(
    TASKS["chestxray14"], labels=LABELS, counts={"trainval": 24, "test": 8}, positives={}, draw={"val": 0.25}
)
PAIRS = replace(FINDINGS, counts={"all": 32}, draw={"val": 0.2, "test": 0.25}, split_source="drawn")
LUNGS = replace(TASKS["montgomery"], counts={"all": 20}, draw={"val": 0.2, "test": 0.25})
VESSELS = replace(TASKS["drive"], extras=(), counts={"trainval": 8, "test": 4}, draw={"val": 0.25})


def settings(size: int = 32, **data: Any) -> params.Params:
    tasks = {name: replace(task, cache_size=size, image_size=16) for name, task in PARAMS.tasks.items()}
    return replace(PARAMS, tasks=tasks, data=replace(PARAMS.data, **data))


def fake_read(task: Task, root: Path) -> Iterator[Sample]:
    """Reads the tests' own layout: samples.csv beside images/ and masks/."""
    table = pd.read_csv(root / "samples.csv", dtype=str, keep_default_na=False)
    for row in table.itertuples():
        masks = tuple(Picture(root / "masks" / name) for name in str(row.masks).split())
        yield Sample(
            id=str(row.id),
            patient=str(row.patient),
            split=str(row.split),  # type: ignore[arg-type]  # text from a table
            image=Picture(root / "images" / str(row.image)),
            labels=tuple(int(value) for value in str(row.labels).split()),
            masks=(masks,) if masks else (),
        )


def picture(seed: int, mode: str = "L", width: int = 50, height: int = 40) -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def write(root: Path, task: Task, pools: list[str], kind: str = "raw", patients: list[str] | None = None) -> Path:
    """Writes one image per entry of `pools`; every second patient has two images unless given."""
    folder = root / "data" / kind / task.dataset
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rows = []
    for number, pool in enumerate(pools):
        picture(number, "RGB" if task.channels == 3 else "L").save(folder / "images" / f"{number}.png")
        labels = "" if task.segmentation else f"{number % 2} {int(number % 4 == 0)}"
        if task.segmentation:
            mask = np.zeros((40, 50), dtype=np.uint8)
            mask[5 : 10 + number % 8, 8:30] = 255
            Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
        patient = patients[number] if patients else f"{pool}{number * 2 // 3}"
        masks = f"{number}.png" if task.segmentation else ""
        rows.append((f"i{number}", patient, pool, f"{number}.png", labels, masks))
    columns = ["id", "patient", "split", "image", "labels", "masks"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "samples.csv", index=False)
    return folder


def findings(root: Path, kind: str = "raw") -> Path:
    return write(root, FINDINGS, ["trainval"] * 24 + ["test"] * 8, kind)


def edit(folder: Path, row: int, **values: str) -> None:
    table = pd.read_csv(folder / "samples.csv", dtype=str, keep_default_na=False)
    for name, value in values.items():
        table.loc[row, name] = value
    table.to_csv(folder / "samples.csv", index=False)


def counting(calls: list[str], work: Callable[..., Any]) -> Callable[..., Any]:
    def counted(task: Task, sample: Sample, side: int) -> Any:
        calls.append(sample.id)
        return work(task, sample, side)

    return counted
