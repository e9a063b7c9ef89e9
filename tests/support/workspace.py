"""A small repository in a temporary folder: params.yaml, phantoms, an MLflow database of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from medtransfer.data.phantoms import write
from tests.support import fakes

CHANGES: dict[str, dict[str, object]] = {
    "phantoms": {
        "size": 40,
        "images": {
            "shenzhen": 40,
            "montgomery": 20,
            "drive": 12,
            "chestxray14": 120,
            "chexpert": 120,
            "rsna_pe": 120,
            "siim": 40,
        },
    },
    "model": {"backbone": fakes.BACKBONE},
    "classification": {"batch_size": 8, "max_epochs": 3, "lr": 1e-3},
    "segmentation": {"batch_size": 8, "max_epochs": 3, "min_steps": 1},
    "execution": {"workers": 1, "checkpoint_seconds": 0},
    "benchmark": {"inits": ["random"], "tasks": ["shenzhen", "montgomery"], "seeds": [0]},
}


def make(root: Path, top: Path, *datasets: str) -> Path:
    """Makes the workspace; `datasets` get phantoms."""
    tree = yaml.safe_load((top / "params.yaml").read_text())
    for section, values in CHANGES.items():
        tree[section] |= values
    for task in tree["tasks"].values():
        task |= {"cache_size": 36, "image_size": 32, "changes": {}}
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    shutil.copytree(top / "presets", root / "presets")
    for dataset in datasets:
        images = tree["phantoms"]["images"][dataset]
        write.write(dataset, root / "data/phantoms" / dataset, images=images, size=40, seed=0, contrast=1.0)
    return root


def command(top: Path, root: Path, *words: str) -> subprocess.Popen[str]:
    """Starts a verb in the workspace as a process of its own."""
    own = {"PYTHONPATH": str(top / "src"), "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db", "OMP_NUM_THREADS": "1"}
    drop = ("MLFLOW_RUN_ID",)
    environment = {k: v for k, v in os.environ.items() if k not in drop} | own
    return subprocess.Popen(
        [sys.executable, "-m", "medtransfer", *words],
        cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def run(top: Path, root: Path, *words: str) -> tuple[int, str]:
    """Runs a verb to its end: (exit code, output)."""
    process = command(top, root, *words)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output
