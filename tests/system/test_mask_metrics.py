"""An own task that is scored by the shapes of its masks: from the files to intervals over patients."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from tests.support import workspace

SIDE, PATIENTS = 48, 12


def write(folder: Path, **settings: object) -> None:
    """Draws one or two bright discs on each of a patient's two images, and a bar at the bottom: two labels."""
    folder.mkdir(parents=True)
    labels = {"labels": ["Spot", "Bar"], "mask": {"Spot": "spot", "Bar": "bar"}}
    tree = {"kind": "segmentation", "table": "t.csv", "patient": "who", "split": "part", "image_size": 32}
    (folder / "task.yaml").write_text(yaml.safe_dump(tree | labels | settings))
    rng, (down, right) = np.random.default_rng(0), np.indices((SIDE, SIDE))
    lines = [["image", "spot", "bar", "who", "part"]]
    for number in range(2 * PATIENTS):
        spot = np.zeros((SIDE, SIDE), dtype=bool)
        for _ in range(rng.integers(1, 3)):
            row, column = rng.integers(8, 30, 2)
            spot |= (down - row) ** 2 + (right - column) ** 2 < 25
        bar = (down > 38) & (right > rng.integers(0, 20))
        names = [f"{kind}{number}.png" for kind in ("image", "spot", "bar")]
        gray = np.clip(60 + 120 * (spot | bar) + rng.normal(0, 10, spot.shape), 0, 255)
        for name, pixels in zip(names, (gray, 255 * spot, 255 * bar), strict=True):
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
        lines.append([*names, f"p{number // 2}", ("train", "val", "test", "test")[number // 2 % 4]])
    with open(folder / "t.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(lines)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["surface_dice", "lesion_f1", "cldice"])
def test_a_task_is_trained_watched_and_compared_by_a_metric_of_shapes(tmp_path: Path, top: Path, metric: str) -> None:
    workspace.make(tmp_path, top)
    said = {"measures": ["lesions"], "spacing": 0.5, "tolerance": "1 mm", "metric": metric}
    write(tmp_path / "data/raw/spots", **said)
    tree = yaml.safe_load((tmp_path / "params.yaml").read_text())
    tree["segmentation"] |= {"monitor": f"val_{metric}", "max_epochs": 6, "min_steps": 4, "lr": 3e-3}
    tree["benchmark"] |= {"tasks": ["spots"], "seeds": [0, 1], "inits": ["random@test_resnet", "random@test_convnext"]}
    tree["comparison"] |= {"resamples": 200, "reference": "random@test_resnet"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    for verb in ("benchmark", "compare"):
        code, output = workspace.run(top, tmp_path, verb)
        assert code == 0, output
    for path in tmp_path.glob("data/results/cells/spots/*/cell.json"):
        cell = json.loads(path.read_text())
        assert all(f"val_{metric}" in epoch for epoch in cell["history"])
        assert cell["tolerance"] == "1 mm"
        assert metric in cell["measured"]
        table = pd.read_parquet(path.parent / "predictions.parquet")
        assert (table["native_lesions_found.Spot"] <= table["native_lesions_predicted.Spot"]).all()
        assert not [name for name, value in cell["scores"].items() if value != value]
        if metric != "lesion_f1":
            own = table[[f"{metric}.Spot", f"{metric}.Bar"]].to_numpy().mean()
            assert cell["scores"][f"test_{metric}"] == pytest.approx(own)
    page = (tmp_path / "data/results/report/index.html").read_text()
    assert "seeds alone count" not in page, "patients are weighed"
