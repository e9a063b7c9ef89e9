"""Parameters: names, types, units and limits. Values live in `params.yaml` and `presets/`, never here.

One dotted name opens every door: `classification.lr` is the key in `params.yaml`, the `--classification.lr`
option, the `-P` of `mlflow run`, the `-S` of `dvc exp run` and the MLflow parameter.
"""

from medtransfer.params.corruptions import Corruptions
from medtransfer.params.data import Data, External, Model, OwnInit, Phantoms, TaskParams
from medtransfer.params.fractions import WHOLE, Fraction, parse_fraction
from medtransfer.params.parameters import (
    Params,
    check_values,
    dotted_names,
    load,
    protocol,
    refuse_shadowed,
    task_params,
)
from medtransfer.params.protocols import FROZEN, STILL, Control, Protocols
from medtransfer.params.recommend import CHEAP, Recommend
from medtransfer.params.results import Benchmark, Claim, Comparison, Promotion, Source
from medtransfer.params.training import (
    Augmentation,
    Classification,
    Engine,
    Execution,
    Pretraining,
    Segmentation,
    Training,
)
from medtransfer.params.tuning import Dimension, Tuning

__all__ = [
    "CHEAP", "FROZEN", "STILL", "WHOLE", "Augmentation", "Benchmark", "Claim", "Classification", "Comparison",
    "Control", "Corruptions", "Data", "Dimension", "Engine", "Execution", "External", "Fraction", "Model", "OwnInit",
    "Params", "Phantoms", "Pretraining", "Promotion", "Protocols", "Recommend", "Segmentation", "Source", "TaskParams",
    "Training", "Tuning", "check_values", "dotted_names", "load", "parse_fraction", "protocol", "refuse_shadowed",
    "task_params",
]  # fmt: skip
