"""A sweep of somebody's: timm, torch and MLflow, nothing of medtransfer. `python examples/timm_sweep.py`.

30 runs: three small architectures from random weights, ten seeds, the digits that scikit-learn ships. Then:

medtransfer compare --experiment timm-sweep --init params.arch --task tags.dataset --seed params.seed --metric test_acc
"""

from __future__ import annotations

from typing import Any

import mlflow
import timm
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn.functional import cross_entropy, interpolate

SEEDS = 10
ARCHITECTURES = ("test_resnet", "test_byobnet", "test_efficientnet")


def train(name: str, seed: int, images: torch.Tensor, target: torch.Tensor) -> torch.nn.Module:
    """Trains one epoch."""
    torch.manual_seed(seed)
    model: torch.nn.Module = timm.create_model(name, num_classes=10, in_chans=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    order: Any = torch.randperm(len(images))
    for batch in order.split(64):
        optimizer.zero_grad()
        loss: Any = cross_entropy(model(images[batch]), target[batch])
        loss.backward()
        optimizer.step()
    return model.eval()


def main() -> None:
    """Trains every architecture with every seed; the test images are always the same."""
    torch.set_num_threads(1)  # images this small are not worth more
    pixels, labels = load_digits(return_X_y=True)
    images = interpolate(torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, size=32)
    target = torch.tensor(labels)
    train_rows, test_rows = train_test_split(range(len(images)), random_state=0, stratify=labels, train_size=320)
    mlflow.set_experiment("timm-sweep")
    for seed in range(SEEDS):
        for name in ARCHITECTURES:
            model = train(name, seed, images[train_rows], target[train_rows])
            with torch.inference_mode():
                found = model(images[test_rows]).argmax(1)
            with mlflow.start_run(run_name=f"{name}-{seed}"):
                mlflow.log_params({"arch": name, "seed": seed})
                mlflow.set_tag("dataset", "digits")
                mlflow.log_metric("test_acc", float((found == target[test_rows]).float().mean()))


if __name__ == "__main__":
    main()
