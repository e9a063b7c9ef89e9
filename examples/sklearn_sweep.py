"""A sweep of somebody's: scikit-learn and MLflow, nothing of medtransfer. `python examples/sklearn_sweep.py`.

30 runs: three classifiers, ten seeds, one table that scikit-learn ships. Then, to have them compared:

medtransfer compare --experiment sklearn-sweep --init params.model --seed params.seed --metric test_auc --val val_auc
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlflow
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

SEEDS = 10
MODELS: dict[str, Callable[[int], Any]] = {
    "logistic": lambda seed: make_pipeline(StandardScaler(), LogisticRegression(C=0.1, random_state=seed)),
    "forest": lambda seed: RandomForestClassifier(30, max_depth=3, random_state=seed),
    "tree": lambda seed: DecisionTreeClassifier(max_depth=3, random_state=seed),
}


def main() -> None:
    """Trains every model with every seed, which draws the training images; the test images are always the same."""
    images, target = load_breast_cancer(return_X_y=True)
    rest, test, rest_target, test_target = train_test_split(images, target, random_state=0, stratify=target)
    mlflow.set_experiment("sklearn-sweep")
    for seed in range(SEEDS):
        train, val, train_target, val_target = train_test_split(rest, rest_target, random_state=seed, test_size=0.3)
        for name, make in MODELS.items():
            with mlflow.start_run(run_name=f"{name}-{seed}"):
                model = make(seed).fit(train, train_target)
                mlflow.log_params({"model": name, "seed": seed})
                mlflow.set_tag("dataset", "breast-cancer")
                mlflow.log_metric("val_auc", float(roc_auc_score(val_target, model.predict_proba(val)[:, 1])))
                mlflow.log_metric("test_auc", float(roc_auc_score(test_target, model.predict_proba(test)[:, 1])))


if __name__ == "__main__":
    main()
