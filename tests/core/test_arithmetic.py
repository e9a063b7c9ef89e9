from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from medtransfer import params
from medtransfer.cli import main
from medtransfer.core import arithmetic, schema
from medtransfer.core.arithmetic import UnpinnedError
from medtransfer.core.errors import UserError
from tests.conftest import TOP
from tests.support import fakes, workspace

FOUND = {
    "device": "cpu", "cpu": "one", "torch": "AVX2", "oneDNN": "AVX2", "MKL": "COMPATIBLE", "threads": "1",
    "versions": "torch 2",
}  # fmt: skip
LOW = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "AUTO"}
"""less than any machine's own"""
AVX2 = bool(torch.cpu.get_capabilities().get("avx2"))


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in arithmetic.PINNED.items():
        monkeypatch.setenv(name, value)


def test_what_is_in_force_is_said() -> None:
    torch.set_num_threads(1)
    found = arithmetic.in_force("cpu")
    assert found["torch"] == torch.backends.cpu.get_cpu_capability()
    assert (found["device"], found["threads"]) == ("cpu", "1")
    assert f"torch {torch.__version__}" in found["versions"]
    for word in ("device", "torch", "oneDNN", "MKL", "threads"):
        assert found[word] in arithmetic.kind(found)


@pytest.mark.parametrize("name", ["torch", "oneDNN", "MKL", "threads"])
def test_another_instruction_set_or_number_of_threads_is_another_kind(name: str) -> None:
    assert arithmetic.kind(FOUND | {name: "other"}) != arithmetic.kind(FOUND)


def test_another_cpu_of_the_same_instructions_is_none_and_on_a_gpu_its_model_decides() -> None:
    assert arithmetic.kind(FOUND | {"cpu": "two", "versions": "torch 3"}) == arithmetic.kind(FOUND)
    assert arithmetic.kind(FOUND | {"device": "A100", "torch": "AVX512"}) == "A100"
    assert arithmetic.kind({}) == "unknown"


def test_a_training_that_goes_on_elsewhere_is_of_neither_kind() -> None:
    other = FOUND | {"torch": "AVX512"}
    assert arithmetic.joined({}, FOUND) == arithmetic.joined(FOUND, FOUND) == FOUND
    both = arithmetic.joined(FOUND, other)
    assert both == FOUND | {"torch": "AVX2, then AVX512"} == arithmetic.joined(both, other)


def test_a_checkpoint_knows_what_it_was_trained_under(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(arithmetic, "in_force", lambda device: FOUND)
    with pytest.raises(KeyboardInterrupt):
        fakes.trainer(top, tmp_path)[0].run(lambda *_: None, die)
    monkeypatch.setattr(arithmetic, "in_force", lambda device: FOUND | {"torch": "AVX512"})
    built, _ = fakes.trainer(top, tmp_path)
    assert built.resume() == 1
    assert built.run(lambda *_: None, lambda _: None).arithmetic["torch"] == "AVX2, then AVX512"


def test_only_true_enters_an_identity() -> None:
    plain = params.load(TOP / "params.yaml").engine
    assert set(plain.fields) == {f"engine.{n}" for n in ("precision", "channels_last", "compile", "deterministic")}
    portable = params.load(TOP / "params.yaml", {"engine.portable": "true"}).engine
    assert portable.fields == plain.fields | {"engine.portable": True}
    tree = schema.unflatten(schema.flatten(plain))
    del tree["portable"]  # a params.yaml of an earlier version
    assert schema.convert(tree, params.Engine) == plain


@pytest.mark.parametrize("change", [{"engine.precision": "bf16"}, {"engine.compile": "true"}])
def test_kernels_of_the_machine_s_own_are_refused(change: dict[str, str]) -> None:
    params.load(TOP / "params.yaml", change)
    with pytest.raises(UserError, match=r"engine.portable has precision fp32 and compile false"):
        params.load(TOP / "params.yaml", change | {"engine.portable": "true"})


def test_a_process_that_began_without_the_variables_is_told_which(
    top: Path, tmp_path: Path, pinned: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = workspace.make(tmp_path, top)
    arithmetic.check_environment(True)
    monkeypatch.setenv("MKL_CBWR", "AVX512")
    arithmetic.check_environment(False)
    with pytest.raises(UnpinnedError, match=r"python -m medtransfer .*ATEN_CPU_CAPABILITY=avx2 .*MKL_CBWR=COMPATIBLE"):
        main.run(["inits", "--engine.portable", "true"], root)


def test_the_command_line_begins_anew_under_them(monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[Any] = []
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx512")
    monkeypatch.setattr(sys, "argv", ["medtransfer", "inits", "--engine.portable=true"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "medtransfer", "inits", "--engine.portable=true"])
    monkeypatch.setattr(os, "execve", lambda *call: began.append(call))
    monkeypatch.chdir(TOP)
    main.main()
    ((program, words, environment),) = began
    assert [program, *words[1:]] == [sys.executable, "-m", "medtransfer", "inits", "--engine.portable=true"]
    assert environment == {**os.environ, **arithmetic.PINNED}


def test_a_gpu_is_refused(pinned: None) -> None:
    arithmetic.check(False, "cuda")
    with pytest.raises(UserError, match=r"pins .* nothing of a GPU.*execution.device to cpu"):
        arithmetic.check(True, "cuda")


@pytest.mark.parametrize("name", ["torch", "oneDNN", "MKL"])
def test_a_library_that_was_loaded_before_is_named(name: str, pinned: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "in_force", lambda device: FOUND)
    arithmetic.check(True, "cpu")
    monkeypatch.setattr(arithmetic, "_cpu", lambda: {"avx2": True})
    monkeypatch.setattr(arithmetic, "in_force", lambda device: FOUND | {name: "AVX512"})
    with pytest.raises(UserError, match=f"{name} uses AVX512, not .* loaded before the variables were set"):
        arithmetic.check(True, "cpu")
    monkeypatch.setattr(arithmetic, "_cpu", lambda: {})
    with pytest.raises(UserError, match=r"needs an x86 CPU with AVX2, this is one: .*another machine"):
        arithmetic.check(True, "cpu")


def test_actors_of_ray_get_the_variables(pinned: None) -> None:
    cluster = pytest.importorskip("medtransfer.runs.execution.ray_cluster")
    assert cluster._variables().items() >= arithmetic.PINNED.items()


def said(environment: dict[str, str], code: str) -> str:
    plain = {name: value for name, value in os.environ.items() if name not in arithmetic.PINNED}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**plain, "PYTHONPATH": str(TOP / "src"), **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


ASK = """
import torch
from medtransfer.core import arithmetic
torch.nn.functional.conv2d(torch.ones(2, 8, 32, 32), torch.ones(8, 8, 3, 3))
print(arithmetic.in_force("cpu")["oneDNN"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("most", ["", "SSE41", "AVX", "AVX2", "AVX512_CORE", "AVX512_CORE_AMX"])
def test_onednn_says_the_same_of_itself(most: str) -> None:
    """It has names of its own for them, of which the plain ones are alike."""
    words = said({"ONEDNN_MAX_CPU_ISA": most, "ONEDNN_VERBOSE": "1"}, ASK)
    own = next(line.partition("isa:")[2] for line in words.splitlines() if "cpu,isa:" in line)
    plain = {"Intel SSE4.1": "SSE41", "Intel AVX": "AVX", "Intel AVX2": "AVX2"}
    assert plain.get(own, "AVX512" if "AVX-512" in own else "AVX2_VNNI") in words.splitlines()[-1]


def study(top: Path, root: Path, workers: int, portable: bool) -> dict[str, Any]:
    """Runs the small study in processes of its own; returns scores, predictions and arithmetic of each run."""
    root.mkdir()
    workspace.make(root, top, "shenzhen")
    words = ("--engine.portable", str(portable).lower(), "--execution.workers", str(workers))
    changes = ("--benchmark.tasks", "[shenzhen]", "--benchmark.seeds", "[0, 1]", "--execution.device", "cpu")
    code, output = workspace.run(top, root, "benchmark", *words, *changes)
    assert code == 0, output
    found = {}
    for path in sorted(root.glob("data/runs/*/cell.json")):
        cell = json.loads(path.read_text())
        table = pd.read_parquet(path.parent / "predictions.parquet")
        measured = {key: cell[key] for key in ("scores", "history")}
        for epoch in measured["history"]:
            epoch.pop("images_per_second", None)
        found[path.parent.name] = {"measured": measured, "table": table, "arithmetic": cell["arithmetic"]}
    assert len(found) == 2
    return found


@pytest.mark.slow
@pytest.mark.skipif(not AVX2, reason="needs a CPU with AVX2")
def test_portable_runs_are_equal_to_the_digit_under_two_instruction_sets(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine's own, and less than it: without `portable` the numbers differ."""
    found: dict[tuple[bool, bool], dict[str, Any]] = {}
    for portable in (True, False):
        for low in (False, True):
            with monkeypatch.context() as outer:
                for name in arithmetic.PINNED:
                    outer.delenv(name, raising=False)
                for name, value in LOW.items() if low else ():
                    outer.setenv(name, value)
                found[portable, low] = study(top, tmp_path / f"{portable}-{low}", 2 if low else 1, portable)
    assert found[True, False].keys() == found[True, True].keys() != found[False, False].keys()
    for digest, one in found[True, False].items():
        other = found[True, True][digest]
        assert one["measured"] == other["measured"]
        pd.testing.assert_frame_equal(one["table"], other["table"], check_exact=True)
        assert one["arithmetic"] == other["arithmetic"]
        assert {n: one["arithmetic"][n] for n in arithmetic.PORTABLE} == arithmetic.PORTABLE
    for digest, one in found[False, False].items():
        other = found[False, True][digest]
        assert one["measured"] != other["measured"]
        assert arithmetic.kind(one["arithmetic"]) != arithmetic.kind(other["arithmetic"])
