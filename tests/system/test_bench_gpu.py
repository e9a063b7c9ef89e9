"""The benchmark of a GPU runs to its end where there is none, and what only a GPU enters runs on a fake one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def gpu(top: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(str(top / "benchmarks"))
    import gpu

    return gpu


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A fake GPU; lists what was asked of it."""
    asked = list[str]()

    def says(name: str, answer: Any) -> Callable[..., Any]:
        def ask(*_: Any) -> Any:
            asked.append(name)
            return answer

        return ask

    for name, answer in (("get_device_name", "NVIDIA H200"), ("mem_get_info", (0, 141 << 30)), ("synchronize", None)):
        monkeypatch.setattr(torch.cuda, name, says(name, answer))
    return asked


def test_a_gpu_is_named_waited_for_and_tried_in_every_way(
    gpu: Any, card: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device("cuda")
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    assert gpu.title(device) == f"# One GPU\n\nNVIDIA H200, 141 GiB, torch {torch.__version__}, without MPS."
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/tmp/mps")
    assert gpu.title(device).endswith("with MPS.")
    card.clear()
    assert gpu.rate(lambda: 5, device, 2) > 0
    assert card == ["synchronize"] * 4  # before and after each round
    asked = list(gpu.settings(device, False))
    assert len(asked) == 3 * 3 * 3 * 2  # backbones, precisions, ways, batches
    assert {(one.way, one.precision) for one in asked} >= {("graphs", "tf32"), ("compiled", "bf16"), ("eager", "fp32")}


def test_ways_are_the_settings_of_a_run(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said = list[tuple[bool, bool, bool]]()

    def made(backbone: str, size: int, segmentation: bool, here: Any, device: Any) -> None:
        said.append((here.engine.deterministic, here.engine.compile, here.engine.graphs))

    monkeypatch.setattr(gpu.steps, "make_trainer", made)
    for way in ("eager", "compiled", "graphs"):
        setting = gpu.Setting(backbone="resnet18", precision="fp32", way=way, batch=8, size=64)
        gpu.trainer_of(setting, torch.device("cpu"))
    assert said == [(True, False, False), (True, True, False), (False, True, True)]


def test_what_does_not_fit_into_memory_is_a_row(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(gpu, "trainer_of", full)
    setting = gpu.Setting(backbone="resnet50", precision="fp32", way="eager", batch=128, size=224)
    found = gpu.measure_step(setting, torch.device("cpu"), 1.0, True)
    assert found.row == ("resnet50", "fp32", "eager", 128, "out of memory", *"-----")
    assert found.end_to_end == 0


def test_hours_of_the_grid_come_from_the_best_rate_of_resnet50(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(setting: Any, *_: Any) -> Any:
        fast = {"resnet50": 1000.0, "vit_small_patch16_224": 5000.0}.get(setting.backbone, 0.0)
        return gpu.Step(row=(setting.backbone, *"123456789"), end_to_end=fast / (1 + (setting.precision == "bf16")))

    def settings(*_: Any) -> list[Any]:
        names = [("resnet50", "bf16"), ("resnet50", "fp32"), ("vit_small_patch16_224", "fp32")]
        return [gpu.Setting(backbone=name, precision=kind, way="eager", batch=8, size=64) for name, kind in names]

    empty: dict[str, Callable[..., Any]] = {
        "matrix_limit": lambda *_: 2e12, "input_table": lambda *_: "", "run_table": lambda *_: "",
        "several": lambda *_: [], "settings": settings, "measure_step": measured,
    }  # fmt: skip
    for name, function in empty.items():
        monkeypatch.setattr(gpu, name, function)
    page = tmp_path / "gpu.md"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--quick", "--out", str(page)])
    gpu.main()
    text = page.read_text()
    images = sum(count * epochs for count, epochs in gpu.TRAINED.values())
    hours, rest = (210 * n / 1000 / 3600 for n in (images, images - 1_790_594 * 10))
    assert f"| all seven tasks | {hours:,.0f} | {0.35 * hours:,.0f} |" in text
    assert f"| without RSNA-PE | {rest:,.0f} | {0.35 * rest:,.0f} |" in text
    assert "| fp32 | 2.00 |" in text
    assert "Not estimated" in gpu.grid_table(0.0)


@pytest.mark.slow
def test_it_writes_a_page_that_says_what_it_is_of(top: Path, tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    command = [sys.executable, "benchmarks/gpu.py", "--quick", "--out", str(page)]
    subprocess.run(command, cwd=top, env={"PYTHONPATH": "src:.", "PATH": "", "HOME": str(tmp_path)}, check=True)
    text = page.read_text()
    titles = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "The card's limit, a product of matrices", "Input alone", "Training steps", "A small run, seconds",
        "Several runs at once, a process each", "Several runs in step, one process", "The paper's grid",
    ]  # fmt: skip
    assert text.count("| resnet18 |") == 2
