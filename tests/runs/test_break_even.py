from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtransfer import params as parameters
from medtransfer.core import files
from medtransfer.runs import break_even, costs, dry_run
from medtransfer.runs.break_even import Planned, words
from medtransfer.runs.run import Run, plan
from tests.support import workspace

COUNTED = (
    "Compiling: 2 shapes (backbone, size, batch, outputs), once for each worker that trains it, so at most 3 times on"
)


def runs(
    count: int, uncompiled: float | None, compiled: float | None, compiling: float, shape: str = "a"
) -> list[Planned]:
    return [Planned((shape,), uncompiled, compiled, compiling)] * count


def test_nothing_is_said_of_no_runs() -> None:
    assert words([], 2, "cpu") == ""


def test_each_worker_compiles_each_shape_that_it_can_get_a_run_of() -> None:
    """5 runs of one shape, 1 of another, 2 workers: 2 + 1 times."""
    found = words([*runs(5, None, None, 0.0), *runs(1, None, None, 0.0, "b")], 2, "cuda")
    assert found == f"{COUNTED} 2 workers; what it costs is not known yet, as no run that compiled has finished here."


def test_the_price_the_gain_it_needs_and_what_runs_gave_are_those_by_hand() -> None:
    """2 x 40 s + 20 s = 100 s, of 5 x 400 s + 100 s: 100 / 2,000 = 5 %; 2,100 / 1,830: 14.8 %, and 170 s are saved."""
    found = words([*runs(5, 400.0, 350.0, 40.0), *runs(1, 100.0, 80.0, 20.0, "b")], 2, "cuda")
    assert found == (
        f"{COUNTED} 2 workers: at most 100 s more of one worker. It pays where steps are more than 5.0 % faster than "
        "uncompiled ones, with which these runs take 35 min. Finished runs of the same kinds were 14.8 % faster "
        "compiled, which saves 3 min."
    )


def test_what_pays_not_is_said_with_what_to_set() -> None:
    """1 x 40 s of 5 x 100 s: 40 / 460 = 8.7 %; 500 / 480 is 4.2 % faster: 20 s saved for 40 s."""
    found = words(runs(5, 100.0, 96.0, 40.0), 1, "cuda")
    assert found.startswith(
        "Compiling: 1 shape (backbone, size, batch, outputs), once for each worker that trains it, "
    )
    assert (
        "so at most 1 time on 1 worker: at most 40 s more of one worker. It pays where steps are more than 8.7 %"
        in found
    )
    assert found.endswith(
        "were 4.2 % faster compiled, which costs 20 s more than it saves: set engine.compile to false."
    )
    found = words(runs(5, 100.0, 110.0, 40.0), 1, "cuda")  # 500 / 550: 50 s lost, and 40 s
    assert "were 9.1 % slower compiled, which costs 90 s more than it saves: set engine.compile to false." in found
    found = words(runs(5, 8.0, None, 40.0), 1, "cuda")
    assert found.endswith("It cannot pay: uncompiled all of it takes 40 s; set engine.compile to false.")


def test_without_an_uncompiled_run_the_gain_is_of_what_compiled_ones_took() -> None:
    """2 x 30 s of 10 x 60 s: 10 %."""
    found = words(runs(10, None, 60.0, 30.0), 2, "cuda")
    assert "more than 10.0 % faster than uncompiled ones: these runs take 10 min beside compiling" in found
    assert "not from which gain on it pays" in words(
        [*runs(9, None, 60.0, 30.0), *runs(1, None, None, 30.0)], 2, "cuda"
    )


def test_a_shape_of_unknown_price_is_left_out_and_said() -> None:
    found = words([*runs(5, 100.0, None, 25.0), *runs(5, 100.0, None, 0.0, "b")], 1, "cuda")
    assert "at most 25 s more of one worker, and of 1 shape it is not known yet." in found
    assert "more than 5.3 % faster than uncompiled ones, with which these runs take 8 min." in found  # 25 / 475


def test_on_a_cpu_what_it_gave_elsewhere_is_said() -> None:
    assert break_even.ON_A_CPU not in words(runs(1, 100.0, 90.0, 1.0), 1, "cuda")
    assert words(runs(1, 100.0, 90.0, 1.0), 1, "cpu").endswith(break_even.ON_A_CPU)
    assert abs(46 / (1 - 1 / 1.04) / 60 - 20) < 0.1  # minutes of uncompiled steps


def test_the_verdict_is_right_whatever_the_true_gain() -> None:
    """A made-up world: each worker pays for each shape that it gets, every step is faster by the true gain."""
    rng, verdicts = np.random.default_rng(0), dict[bool, int]()
    for _ in range(300):
        workers, gain, price = int(rng.integers(1, 5)), float(rng.uniform(-0.2, 0.6)), float(rng.uniform(1, 90))
        each, count = float(rng.uniform(5, 200)), int(rng.integers(1, 40))
        at_work = [0.0] * workers
        for number in range(count):
            at_work[number % workers] += each / (1 + gain) + price * (number < workers)
        pays = sum(at_work) < each * count
        found = words(runs(count, each, each / (1 + gain), price), workers, "cuda")
        assert ("which saves" in found) == pays or "cannot pay" in found
        assert "cannot pay" not in found or not pays
        if "pays where" in found:
            need = float(found.split("more than ")[1].split(" %")[0])
            assert (100 * gain > need) == pays or abs(100 * gain - need) < 0.1  # it is written with one digit
        verdicts[pays] = verdicts.get(pays, 0) + 1
    assert min(verdicts.values()) > 50


@pytest.fixture
def root(top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return workspace.make(tmp_path, top, "shenzhen")


def planned(root: Path, **changes: str) -> tuple[parameters.Params, list[Run]]:
    own = {"benchmark.tasks": "[shenzhen]", "benchmark.inits": "[random]", "benchmark.seeds": "[0, 1, 2]"}
    here = parameters.load(root / "params.yaml", own | {name.replace("__", "."): v for name, v in changes.items()})
    return here, plan(here, root, ["random"], ["shenzhen"], here.benchmark.seeds)


def finish(run: Run, **cost: float) -> None:
    """Leaves what a finished run took."""
    cell: dict[str, Any] = {"task": run.task, "init": run.init.canonical, "device": run.device, "params": run.shown}
    files.write_text(run.folder / "cell.json", json.dumps({**cell, "cost": cost}))


def lines(root: Path, params: parameters.Params, runs: list[Run]) -> list[str]:
    return dry_run.compiling(runs, costs.measured(root), params)


def test_a_kind_is_of_one_precision_one_batch_and_one_way_of_computing(root: Path) -> None:
    _, (eager, *_) = planned(root)
    finish(eager, seconds=9.0)
    (kind,) = costs.measured(root)
    assert costs.kind(eager) == kind == kind.uncompiled
    for change in (
        {"engine__compile": "true"},
        {"classification__batch_size": "5"},
        {"execution__threads_per_run": "2"},
    ):
        _, (other, *_) = planned(root, **change)
        assert costs.kind(other) != kind
    _, (compiled, *_) = planned(root, engine__compile="true")
    assert costs.kind(compiled).uncompiled == kind
    graphs = costs.kind(compiled)._replace(settings=(*costs.kind(compiled).settings, ("engine.graphs", "True")))
    assert graphs.uncompiled == kind
    half = {**dict(kind.settings), "engine.precision": "bf16"}
    assert kind._replace(settings=tuple(half.items())) != kind


def test_the_plan_reads_it_from_finished_runs_and_says_nothing_where_nothing_is_compiled(root: Path) -> None:
    """3 eager runs of 20 s; one compiled one took 16 s with 4 s of compiling, its worker's next one 12 s."""
    eager, before = planned(root)
    assert lines(root, eager, before) == []
    params, after = planned(root, engine__compile="true", execution__workers="2")
    assert "is not known yet" in lines(root, params, after)[0]
    for run in before:
        finish(run, seconds=20.0)
    for run, seconds, compiling in zip(after, (16.0, 12.0), (4.0, 0.0), strict=False):
        finish(run, seconds=seconds, compile_seconds=compiling)
    assert costs.measured(root)[costs.kind(after[0])][::2] == (12.0, 4.0)
    (found,) = lines(root, params, after)
    assert "1 shape (backbone, size, batch, outputs), once for each worker that trains it, so at most 2 times" in found
    assert "at most 8 s more of one worker. It pays where steps are more than 15.4 % faster" in found  # 8 / (60 - 8)
    assert "were 66.7 % faster compiled, which saves 16 s." in found  # 60 - 36 - 8
    assert found.endswith(break_even.ON_A_CPU)
    longer, more = planned(root, engine__compile="true", execution__workers="2", classification__max_epochs="9")
    (found,) = lines(root, longer, more)
    assert "at most 8 s more of one worker. How long these runs take is not known yet" in found
    assert lines(root, params, [run for run in after if not run.trains]) == []
