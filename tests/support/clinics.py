"""Own tasks that are other sites for the official ones: the same phantoms drawn with another seed and contrast."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from medtransfer.data.phantoms import write


def describe(folder: Path, rows: list[dict[str, str]], **said: object) -> None:
    """Writes a task's table and description; every fourth image is train, every second test."""
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["split", *rows[0]])
        writer.writeheader()
        for number, row in enumerate(rows):
            writer.writerow({"split": ("train", "test", "val", "test")[number % 4], **row})
    text = {"patient": "patient", "split": "split", "table": "table.csv", "image_size": 32, "cache_size": 36} | said
    (folder / "task.yaml").write_text(yaml.safe_dump({"channels": 1, **text}))


def tuberculosis(
    root: Path, name: str, *, images: int = 40, size: int = 40, seed: int = 9, contrast: float = 1.0, **said: object
) -> Path:
    """Makes a task with the label TB out of phantoms in Shenzhen's layout."""
    folder = root / "data/raw" / name
    write.write("shenzhen", folder / "shenzhen", images=images, size=size, seed=seed, contrast=contrast)
    paths = sorted((folder / "shenzhen/CXR_png").glob("*.png"))
    order = np.random.default_rng(0).permutation(len(paths))
    rows = [
        {"image": str(paths[k].relative_to(folder)), "patient": paths[k].stem, "TB": paths[k].stem[-1]} for k in order
    ]
    describe(folder, rows, kind="binary", labels=["TB"], **said)
    return folder


def lungs(root: Path, name: str) -> Path:
    """Makes a task with the labels Box and Lung out of phantoms in Montgomery's layout."""
    folder = root / "data/raw" / name
    write.write("montgomery", folder / "montgomery", images=20, size=40, seed=9, contrast=1.0)
    rows = []
    for path in sorted((folder / "montgomery/CXR_png").glob("*.png")):
        parts = [
            np.asarray(Image.open(folder / "montgomery/ManualMask" / side / path.name).convert("L")) > 0
            for side in ("leftMask", "rightMask")
        ]
        masks = {"Box": np.zeros_like(parts[0]), "Lung": parts[0] | parts[1]}
        masks["Box"][5:15, 5:20] = True
        row = {"image": str(path.relative_to(folder)), "patient": path.stem}
        for label, mask in masks.items():
            row[label] = f"{path.stem}-{label}.png"
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / row[label])
        rows.append(row)
    describe(folder, rows, kind="segmentation", labels=["Box", "Lung"], mask={"Box": "Box", "Lung": "Lung"})
    return folder
