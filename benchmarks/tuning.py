"""What a study costs beyond its training, and whether the values that it finds are better than the fixed recipe's.

Both on Shenzhen phantoms of 64 px with timm's `test_resnet`, weights drawn at random, in a folder of their own:

    PYTHONPATH=src python -m benchmarks.tuning

1. Overhead, once the databases exist: `tune` with 20 trials of one epoch (Optuna's database, MLflow's runs, ledgers and
   checkpoints on disk), against 20 epochs of one training in the same process; also against 20 trainings of one epoch,
   each built anew.
2. Gain: 12 trials of 8 epochs and the seeds of the best three, then the benchmark's own three seeds with the fixed and
   with the tuned recipe. The table is the report's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from medtransfer import params as parameters
from medtransfer.data.phantoms import write
from medtransfer.params import Params
from medtransfer.runs import benchmark, building
from medtransfer.runs.run import Run, plan
from medtransfer.runs.tune import tune

ROOT = Path(__file__).parents[1]
TRIALS = 20
SPACE = {"lr": {"low": 1e-4, "high": 3e-2, "log": True}, "weight_decay": {"choices": [0.0, 1e-4, 1e-2]}}


def workspace(root: Path, images: int) -> None:
    """Writes parameters and phantoms."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["phantoms"] |= {"size": 96, "images": {"shenzhen": images}}
    tree["tasks"] = {"shenzhen": {"cache_size": 72, "image_size": 64, "changes": {}}}
    tree["model"]["backbone"] = "test_resnet"
    tree["classification"] |= {"lr": 3e-4, "max_epochs": 8, "batch_size": 16}
    tree["tuning"] |= {"inits": ["random"], "tasks": ["shenzhen"], "space": SPACE, "trials": 12}
    tree["benchmark"] |= {"inits": ["random"], "tasks": ["shenzhen"]}
    tree["comparison"] |= {"reference": "random", "against": [], "resamples": 0}
    tree["execution"]["workers"] = 1
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    write.write("shenzhen", root / "data/phantoms/shenzhen", images=images, size=96, seed=0, contrast=0.7)


def settings(root: Path, **overrides: object) -> Params:
    """Reads the parameters, `__` standing for the dot."""
    return parameters.load(root / "params.yaml", {k.replace("__", "."): json.dumps(v) for k, v in overrides.items()})


def train(run: Run, folder: Path) -> None:
    """Trains without anything around it, checkpoints included."""
    folder.mkdir(parents=True)
    built, _ = building.trainer(run)
    built.folder = folder
    built.run(lambda *_: None, lambda _: None)


def train_each(runs: Sequence[Run], root: Path) -> None:
    """Trains one after the other."""
    for run in runs:
        train(run, root / f"built-{run.seed}")


def overhead(root: Path) -> None:
    """Times trials of one epoch against bare epochs, in turns."""
    params = settings(root, classification__max_epochs=1, tuning__trials=TRIALS, tuning__finalists=1,
                      tuning__finalist_seeds=[], tuning__sampler="random")  # fmt: skip
    once = plan(params, root, ["random"], ["shenzhen"], (1000,))[0]
    train(once, root / "warm-up")
    warm = settings(root, classification__max_epochs=1, tuning__trials=2, tuning__study="warm-up")
    tune.tune(warm, root, ["random"], ["shenzhen"])  # makes the databases and imports what is imported once
    long = plan(settings(root, classification__max_epochs=TRIALS, classification__patience=TRIALS), root, ["random"],
                ["shenzhen"], (1000,))[0]  # fmt: skip
    bare = timed(lambda: train(long, root / "bare"))
    each = [dataclasses.replace(once, seed=2000 + number) for number in range(TRIALS)]
    built = timed(lambda: train_each(each, root))
    tuned = timed(lambda: tune.tune(params, root, ["random"], ["shenzhen"]))
    print(f"{'':30} {'seconds':>10} {'ratio':>7} {'CPU s':>7} {'ratio':>7}")
    for name, spent in (("epochs of one training", bare), ("trainings of one epoch", built), ("trials (tune)", tuned)):
        columns = " ".join(f"{now:10.1f} {now / first:7.2f}" for now, first in zip(spent, bare, strict=True))
        print(f"{TRIALS} {name:27} {columns}")


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Measures seconds and CPU seconds, which other work on the machine disturbs less."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - cpu


def gain(root: Path) -> None:
    """Tunes, trains both recipes and prints the report's table."""
    from medtransfer.cli.main import run

    os.chdir(root)
    both = ["--benchmark.recipes", "[fixed, tuned]"]
    run(["tune"], root)
    params = settings(root, benchmark__recipes=["fixed", "tuned"])
    planned = plan(params, root, ["random"], ["shenzhen"], params.benchmark.seeds, recipes=params.benchmark.recipes)
    benchmark.run_all(planned)
    benchmark.write_results(planned, root / "data/results/cells/shenzhen")
    (root / "presets").mkdir(exist_ok=True)
    (root / "presets/paper.yaml").write_text((ROOT / "presets/paper.yaml").read_text())
    run(["compare", *both], root)
    print((root / "data/results/report/tables/tuning.md").read_text())
    print((root / "data/results/report/tables/recipes.md").read_text())


if __name__ == "__main__":
    for what, images in ((overhead, 1200), (gain, 400)):
        with tempfile.TemporaryDirectory() as folder:
            workspace(Path(folder), images)
            what(Path(folder))
