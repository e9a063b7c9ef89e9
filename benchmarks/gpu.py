"""What one GPU does of its time: input, step, run, several runs at once, and hours of the published grid.

Writes a page of tables. The card's limit is measured, not looked up: a product of large matrices in the same precision.
The *bare step* is forward, backward and optimizer on one batch that lies on the device already. Without a GPU the same
code runs on the CPU at small sizes, so that each line of it has run: such a page says so and tells nothing of a GPU.

    make bench-gpu            # or: PYTHONPATH=src:. python benchmarks/gpu.py --out gpu.md [--quick]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import step as steps
from medtransfer import params as parameters
from medtransfer.training.rivals import Rivals
from medtransfer.training.trainer import Trainer, choose_kernels

ROOT = Path(__file__).parents[1]
TRAINED = {
    "chestxray14": (75_312 + 11_212 / 3, 20), "chexpert": (223_414, 20), "shenzhen": (463 + 65 / 3, 60),
    "rsna_pe": (1_790_594, 10), "siim": (8_000, 60), "montgomery": (100, 200), "drive": (20, 200),
}  # fmt: skip
"""task -> images of a training epoch (an image of val costs a third of one of train), and epochs until it stops early:
the sizes are published, the epochs are assumed"""
INITS, SEEDS = 21, 10
RACED = 0.35
"""share of a grid's training that a race takes, as `benchmarks/race.py` finds for 20 candidates: assumed here"""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to take steps."""

    backbone: str
    precision: str
    way: str
    """eager, compiled, or graphs: compiled into CUDA graphs"""
    batch: int
    size: int


def main() -> None:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/gpu.md")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    quick = options.quick or device.type == "cpu"
    page = [title(device)]
    limits = {precision: matrix_limit(device, precision, 256 if quick else 8192) for precision in precisions(device)}
    page += [table("The card's limit, a product of matrices", ("precision", "TFLOP/s"),
                   [(name, f"{value / 1e12:.2f}") for name, value in limits.items()])]  # fmt: skip
    page += [input_table(device, quick)]
    rows, best = [], 0.0
    for setting in settings(device, quick):
        found = measure_step(setting, device, limits[setting.precision], quick)
        rows.append(found.row)
        if setting.backbone == "resnet50" and found.end_to_end:
            best = max(best, found.end_to_end)
    header = ("backbone", "precision", "way", "batch", "bare step, images/s", "of the limit", "end to end, images/s",
              "of the bare step", "first step, s", "pays after, images")  # fmt: skip
    page += [table("Training steps", header, rows)]
    page += [
        run_table(device, quick),
        table("Several runs at once, a process each", ("runs", "images/s together"), several(device, quick)),
        table("Several runs in step, one process", ("runs", "cache", "images/s together"), in_step(device, quick)),
    ]
    page += [grid_table(best)]
    options.out.write_text("\n\n".join(page) + "\n")
    print(options.out.read_text())


def title(device: torch.device) -> str:
    """Says what was measured on."""
    if device.type == "cpu":
        return (
            "# One GPU\n\n**No GPU was here: this ran on a CPU at small sizes, and says nothing of a GPU.** It shows "
            "that "
            "each line of the benchmark runs."
        )
    name, gigabytes = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)[1] / 2**30
    mps = "with MPS" if os.environ.get("CUDA_MPS_PIPE_DIRECTORY") else "without MPS"
    return f"# One GPU\n\n{name}, {gigabytes:.0f} GiB, torch {torch.__version__}, {mps}."


def precisions(device: torch.device) -> tuple[str, ...]:
    """Lists the precisions that the device has."""
    return ("fp32", "tf32", "bf16") if device.type == "cuda" else ("fp32", "bf16")


def synchronize(device: torch.device) -> None:
    """Waits for what was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(function: Callable[[], int], device: torch.device, rounds: int) -> float:
    """Measures how many of what the function counts are done in a second: the median of some rounds."""
    found = []
    for _ in range(rounds):
        synchronize(device)
        start = time.perf_counter()
        count = function()
        synchronize(device)
        found.append(count / (time.perf_counter() - start))
    return statistics.median(found)


def matrix_limit(device: torch.device, precision: str, side: int) -> float:
    """Measures FLOP/s of a product of square matrices."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    one, two = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))

    def product() -> int:
        for _ in range(10):
            one @ two
        return 20 * side**3

    product()
    return rate(product, device, 3)


def input_table(device: torch.device, quick: bool) -> str:
    """Measures how fast batches are made, from a cache on the device and from the memory map."""
    rows = []
    for batch, held in itertools.product((8,) if quick else (32, 128), (True, False)):
        trainer = trainer_of(
            Setting(backbone="resnet18", precision="fp32", way="eager", batch=batch, size=64 if quick else 224), device
        )
        trainer.loader.cache.resident = held
        if not held:
            trainer.loader.cache._levels.clear()

        def epoch(trainer: Trainer = trainer) -> int:
            return sum(len(each.rows) for each in batches(trainer))

        epoch()
        where = "on the device" if held else "memory map"
        rows.append((where, batch, f"{rate(epoch, device, 1 if quick else 5):,.0f}"))
    return table("Input alone", ("cache", "batch", "images/s"), rows)


def settings(device: torch.device, quick: bool) -> Iterator[Setting]:
    """Lists what is measured of steps; on a CPU compiling is tried once, on a small network."""
    backbones = ("resnet18",) if quick else ("resnet50", "tf_efficientnet_lite0", "vit_small_patch16_224")
    sizes = [(8, 64)] if quick else [(32, 224), (128, 224)]
    ways = ("eager", "compiled", "graphs") if device.type == "cuda" else ("eager",)
    for backbone, precision, way, (batch, size) in itertools.product(backbones, precisions(device), ways, sizes):
        yield Setting(backbone=backbone, precision=precision, way=way, batch=batch, size=size)


def trainer_of(setting: Setting, device: torch.device) -> Trainer:
    """Builds a trainer on random images with the settings of a run."""
    changes = {
        "engine.precision": setting.precision, "classification.batch_size": str(setting.batch),
        "engine.deterministic": "false" if setting.way == "graphs" else "true",
        "engine.compile": "false" if setting.way == "eager" else "true",
        "engine.graphs": "true" if setting.way == "graphs" else "false",
    }  # fmt: skip
    here = parameters.load(ROOT / "presets/paper.yaml", changes)
    return steps.make_trainer(setting.backbone, setting.size, False, here, device)


def batches(trainer: Trainer, epoch: int = 0) -> Iterator[Any]:
    """Makes an epoch of batches."""
    return trainer.loader.train(trainer.rows["train"], trainer.protocol.augmentation, 0, epoch, 1)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What was measured of one setting."""

    row: tuple[Any, ...]
    end_to_end: float


def measure_step(setting: Setting, device: torch.device, limit: float, quick: bool) -> Step:
    """Measures the bare step, the whole of an epoch, and what the first step costs."""
    choose_kernels(parameters.load(ROOT / "presets/paper.yaml", {"engine.precision": setting.precision}).engine)
    try:
        trainer = trainer_of(setting, device)
        batch = next(iter(batches(trainer)))
        trainer.model.train()
        start = time.perf_counter()
        trainer.step(batch)
        synchronize(device)
        first = time.perf_counter() - start
        with FlopCounterMode(display=False) as counter:
            outputs = trainer.model(batch.inputs)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(outputs, batch.targets)
            torch.autograd.backward([loss])
        of_image = counter.get_total_flops() / len(batch.rows)
        count = 4 if quick else 50

        def bare() -> int:
            for _ in range(count):
                trainer.step(batch)
            return count * len(batch.rows)

        bare()
        rounds = 1 if quick else 5
        alone = rate(bare, device, rounds)
        numbers = itertools.count(1)
        whole = rate(lambda: trainer._train(next(numbers))[1], device, rounds)
    except torch.cuda.OutOfMemoryError:
        return Step(
            row=(setting.backbone, setting.precision, setting.way, setting.batch, "out of memory", *"-----"),
            end_to_end=0.0,
        )
    saved = _EAGER.setdefault((setting.backbone, setting.precision, setting.batch), alone)
    gain = 1 / saved - 1 / alone
    pays = f"{first / gain:,.0f}" if setting.way != "eager" and gain > 0 else "-" if setting.way == "eager" else "never"
    row = (
        setting.backbone, setting.precision, setting.way, setting.batch, f"{alone:,.0f}",
        f"{alone * of_image / limit:.0%}", f"{whole:,.0f}", f"{whole / alone:.0%}", f"{first:.1f}", pays,
    )  # fmt: skip
    return Step(row=row, end_to_end=whole)


_EAGER: dict[tuple[str, str, int], float] = {}
"""images/s of the eager way, which is measured first"""


def run_table(device: torch.device, quick: bool) -> str:
    """Measures a small run as a worker does it, beyond its loop."""
    from tests.support import workspace

    import execution
    from medtransfer.runs.run import plan

    count = 3 if quick else 8
    with tempfile.TemporaryDirectory() as folder:
        root = workspace.make(Path(folder), execution.TOP, "shenzhen")
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root}/mlflow.db"
        here = parameters.load(root / "params.yaml", {"execution.device": device.type})
        planned = plan(here, root, ["random"], ["shenzhen"], range(count))
        other = [dataclasses.replace(run, seed=run.seed + 1000) for run in planned]
        pairs = [(execution.seconds(execution.tracked, one)[0], execution.seconds(execution.bare, two)[0])
                 for one, two in zip(planned, other, strict=True)][1:]  # fmt: skip
    whole, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    rows = [("tracked run", f"{whole:.2f}"), ("bare loop", f"{bare:.2f}"), ("beyond it", f"{whole - bare:.2f}")]
    return table("A small run, seconds", ("what", "median"), rows)


def several(device: torch.device, quick: bool) -> list[tuple[int, str]]:
    """Measures what 1 to 4 processes do together on one device."""
    rows = []
    for count in (1, 2) if quick else (1, 2, 3, 4):
        with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
            until = time.time() + (20 if quick else 60)  # all start together, once each is up
            done = list(pool.map(train_until, [device.type] * count, [until] * count, [quick] * count))
        rows.append((count, f"{sum(done):,.0f}"))
    return rows


def in_step(device: torch.device, quick: bool) -> list[tuple[int, str, str]]:
    """Measures what 1 to 4 networks of one process do together, which take each batch once (`side_by_side`)."""
    rows, numbers = [], itertools.count(1)
    for count, held in itertools.product((1, 2) if quick else (1, 2, 4), (True, False)):
        rivals, size, batch = Rivals(count), 64 if quick else 224, 8 if quick else 32
        backbone = "resnet18" if quick else "resnet50"
        setting = Setting(backbone=backbone, precision="fp32", way="eager", batch=batch, size=size)
        trainers = [trainer_of(setting, device) for _ in range(count)]
        cache = trainers[0].loader.cache
        cache.resident = held
        for trainer, seat in zip(trainers, rivals.seats, strict=True):
            trainer.loader.cache, trainer.seat, trainer.loader.seat = cache, seat, seat

        def epoch(number: int, trainers: list[Trainer] = trainers) -> int:
            with ThreadPoolExecutor(len(trainers)) as pool:
                return sum(done[1] for done in pool.map(lambda each: each._train(number), trainers))

        epoch(0)
        done = rate(lambda: epoch(next(numbers)), device, 1 if quick else 5)
        rows.append((count, "on the device" if held else "memory map", f"{done:,.0f}"))
    return rows


def train_until(device: str, begin: float, quick: bool) -> float:
    """Trains for some seconds from a given time on, and gives images/s."""
    torch.set_num_threads(1)
    backbone = "resnet18" if quick else "resnet50"
    setting = Setting(
        backbone=backbone, precision="fp32", way="eager", batch=8 if quick else 32, size=64 if quick else 224
    )
    trainer = trainer_of(setting, torch.device(device))
    trainer._train(0)
    time.sleep(max(0.0, begin - time.time()))
    end, images, epoch, start = begin + (2 if quick else 20), 0, 1, time.perf_counter()
    while time.time() < end:
        images += trainer._train(epoch)[1]
        epoch += 1
    synchronize(torch.device(device))
    return images / (time.perf_counter() - start)


def grid_table(images_per_second: float) -> str:
    """Estimates hours of the paper's grid from the best end-to-end rate of ResNet-50."""
    if not images_per_second:
        return "## The paper's grid\n\nNot estimated: ResNet-50 at 224 px was not measured."
    every = {task: images * epochs for task, (images, epochs) in TRAINED.items()}
    rows = []
    for name, tasks in (("all seven tasks", list(every)), ("without RSNA-PE", [t for t in every if t != "rsna_pe"])):
        hours = INITS * SEEDS * sum(every[task] for task in tasks) / images_per_second / 3600
        rows.append((name, f"{hours:,.0f}", f"{hours * RACED:,.0f}"))
    notes = ", ".join(f"{task} {epochs}" for task, (_, epochs) in TRAINED.items())
    words = (
        f"{INITS} inits x {SEEDS} seeds at the best rate above; assumed epochs: {notes}; a race is assumed to train "
    )
    words += f"{RACED:.0%} of it. Masks at 512 px cost more than the rate says."
    return table("The paper's grid, hours on this GPU", ("grid", "every run", "with a race"), rows) + f"\n\n{words}"


def table(name: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Writes a section of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return f"## {name}\n\n" + "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


if __name__ == "__main__":
    main()
