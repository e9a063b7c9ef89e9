"""What frozen features are worth: a linear probe on a prepared task, for one initialization against random ones.

A logistic regression on the standardized features of the frozen backbone, one per label with both classes in every
split; its strength is chosen on val, its AUC is read on test. Run it where `prepare` ran:
`python <repository>/benchmarks/probe.py --task chestxray14 --init imagenet`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from medtransfer import params as parameters
from medtransfer.core import rng
from medtransfer.data import catalog, prepare
from medtransfer.data.cache import Prepared
from medtransfer.params import Params
from medtransfer.training import networks, objectives
from medtransfer.training.fitting import NetworkSpec
from medtransfer.training.loader import Cache, Loader
from medtransfer.weights import recipes, store
from medtransfer.weights.names import Initialization, parse

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""inverse regularization strengths (scikit-learn's C)"""


def features(init: Initialization, prepared: Prepared, params: Params, root: Path, seed: int) -> NDArray[Any]:
    """Returns the pooled features of every image, (n, F)."""
    task = catalog.lookup(prepared.manifest["task"], root)
    size = parameters.task_params(params, task.name).image_size
    store.obtain(init, root)
    tensors = store.state(init, root, rng.seed_of(seed, "backbone"), params.model.random_last_bn)
    model: Any = networks.classifier(NetworkSpec(backbone=init.backbone, image_size=size), 1, tensors, 0)
    mean, std = recipes.normalization(init)
    cache = Cache(prepared.images, objectives.targets(task, prepared), torch.device("cpu"), len(task.labels))
    loader = Loader(
        cache, prepared.samples["id"].tolist(), size=size, batch_size=32, crop_fraction=1.0, mean=mean, std=std,
        channels_last=True,
    )  # fmt: skip
    model.eval()
    with torch.inference_mode():
        parts = [model.backbone(b.inputs).numpy() for b in loader.evaluate(np.arange(len(prepared.samples)), 1)]
    return np.concatenate(parts)


def probe(x: NDArray[Any], y: NDArray[Any], rows: Sequence[NDArray[np.int64]]) -> float:
    """Returns the test AUC of the logistic regression whose strength does best on val."""
    train, val, test = rows
    scaled = StandardScaler().fit(x[train]).transform(x)
    fits = [LogisticRegression(C=c, max_iter=2000).fit(scaled[train], y[train]) for c in STRENGTHS]
    best = max(fits, key=lambda fit: roc_auc_score(y[val], fit.decision_function(scaled[val])))
    return float(roc_auc_score(y[test], best.decision_function(scaled[test])))


def main() -> None:
    """Prints the AUC of each label under the initialization and under random backbones of several seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--init", default="imagenet")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--least", type=int, default=10, help="positives and negatives that each split must have")
    options, rest = parser.parse_known_args()
    root = Path.cwd()
    overrides = dict(word.removeprefix("--").split("=", 1) for word in rest)
    params = parameters.load(root / "params.yaml", overrides, catalog.sizes(root))
    task = catalog.lookup(options.task, root)
    prepared = prepare.prepare(task, params, root)
    rows = [prepared.rows(split) for split in ("train", "val", "test")]
    truth = prepared.samples[list(task.labels)].to_numpy()
    labels = [k for k in range(truth.shape[1]) if all(_both(truth[part, k], options.least) for part in rows)]
    init = parse(options.init, params.model.backbone, params.inits)
    drawn = parse(f"random@{init.backbone}", params.model.backbone)
    pretrained = features(init, prepared, params, root, 0)
    random = [features(drawn, prepared, params, root, seed) for seed in range(options.seeds)]
    print(f"{task.name}: {[len(part) for part in rows]} images in train, val, test; {pretrained.shape[1]} features")
    for k in labels:
        ours = probe(pretrained, truth[:, k], rows)
        theirs = np.array([probe(x, truth[:, k], rows) for x in random])
        print(
            f"{task.labels[k]}: AUC {ours:.3f} {init.canonical}, {theirs.mean():.3f} +- {theirs.std(ddof=1):.3f} "
            f"random over {options.seeds} seeds (at most {theirs.max():.3f}); {ours - theirs.mean():+.3f}"
        )


def _both(labels: NDArray[Any], least: int) -> bool:
    return min(int((labels == 1).sum()), int((labels == 0).sum())) >= least


if __name__ == "__main__":
    main()
