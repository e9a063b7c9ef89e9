"""The verb `export`: a registered fine-tuned model as ONNX, checked by running it."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow import MlflowClient
from torch import nn

from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.registry import aliases, network, serve
from medtransfer.weights.fingerprint import fixed_input

TOLERANCE = 1e-4
"""largest difference of a logit, absolute and relative, that is rounding"""
NEEDED = ("onnx", "onnxscript", "onnxruntime")


def export(model: str, alias: str, folder: Path, root: Path) -> str:
    """Writes `<model>-v<version>.onnx` and beside it what its inputs and outputs are; returns a sentence on it.

    The input is (images, 3, side, side), cropped and normalized as the JSON file says; the output is logits.

    Raises:
        UserError: a library is missing, the model is not there or no fine-tuned one, or the outputs differ.
    """
    runtime = _libraries()
    with aliases.opened(root) as client:
        version = aliases.version_of(client, model, alias)
        if version is None:
            raise UserError(f"looked for {alias} of {model}, found none; `mlflow ui` shows what there is")
        source = _download(client, version.source, model)
    target = folder / f"{model}-v{version.version}.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    said, module = network.read(source), network.load(source)
    with files.replacing(target) as temporary:
        _write(module, said.image_size, temporary)
        deviation = check(module, said.image_size, temporary, runtime)
    files.write_text(target.with_suffix(".json"), json.dumps(dataclasses.asdict(said), indent=1) + "\n")
    return f"wrote {target}; its outputs differ from torch's by {deviation:.0e} at most"


def _libraries() -> Any:
    try:
        return [importlib.import_module(name) for name in NEEDED][-1]
    except ImportError as error:
        raise UserError(f"ONNX needs {', '.join(NEEDED)}: {error}; say `pip install {' '.join(NEEDED)}`") from error


def _download(client: MlflowClient, source: str, model: str) -> Path:
    import mlflow

    with aliases.default_of(client):
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=source)) / "artifacts"
    found = sorted(folder.glob(f"*/{network.SPEC}"))
    if not found:
        raise UserError(f"{model} is no fine-tuned model of medtransfer: it lacks {network.SPEC}")
    return found[0].parent


def _write(module: nn.Module, side: int, target: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    inputs = fixed_input(side).repeat(2, 1, 1, 1)
    torch.onnx.export(
        module,
        (inputs,),
        str(target),
        input_names=[serve.COLUMN],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("images")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def check(module: nn.Module, side: int, path: Path, runtime: Any) -> float:
    """Runs the written network and torch's on one image and on three; returns the largest difference.

    Raises:
        UserError: they differ by more than rounding.
    """
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for count in (1, 3):
        inputs = fixed_input(side) * torch.linspace(0.5, 1.5, count).reshape(-1, 1, 1, 1)
        with torch.inference_mode():
            wanted = module(inputs).numpy()
        found = session.run(None, {serve.COLUMN: inputs.numpy()})[0]
        if not np.allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE):
            gap = np.abs(found - wanted).max()
            raise UserError(f"the ONNX network differs from torch's by {gap:.1e}, at most {TOLERANCE:.0e} is rounding")
        worst = max(worst, float(np.abs(found - wanted).max()))
    return worst
