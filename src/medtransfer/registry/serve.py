"""A fine-tuned network that answers requests: images in, named probabilities or masks out.

An image goes through the code that prepared the task's own images (decoding, windows, cache size) and through the
test's crops and normalization, so an image of the test split gets the numbers of the run's own predictions.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from numpy.typing import NDArray
from PIL import Image

from medtransfer.core.errors import UserError
from medtransfer.data import decode
from medtransfer.data.images.formats import READABLE
from medtransfer.data.readers.reading import Picture, Sample
from medtransfer.registry import network
from medtransfer.registry.network import Spec
from medtransfer.training.objectives import Collected, on_host

COLUMN = "image"
ARTIFACT = "network"
"""name of the folder among the model's artifacts"""


class Served(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow ships no types
    """What `mlflow models serve` loads."""

    def load_context(self, context: Any) -> None:
        """Loads the network from the model's artifacts."""
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        folder = Path(context.artifacts[ARTIFACT])
        self.spec, self.model = network.read(folder), network.load(folder, self.device)

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Answers for each row of the column `image`: a column per label, as `answer` says.

        Args:
            context: not used.
            model_input: bytes of a file, the same in base64, or arrays of pixels.
            params: not used.

        Raises:
            MlflowException: an image cannot be read; the server answers 400 with these words.
        """
        try:
            return answer(self.model, self.spec, list(model_input[COLUMN]), self.device)
        except UserError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error


def answer(model: torch.nn.Module, spec: Spec, images: Sequence[Any], device: str = "cpu") -> pd.DataFrame:
    """Answers for images: a row each, a column per label.

    A classifier gives probabilities, averaged over the test's views. A segmenter gives masks at the image's own size,
    as PNG in base64: 255 where the label is, else 0.

    Args:
        model: by `network.load`.
        spec: of the same folder.
        images: bytes of PNG, JPEG, DICOM, ... files, the same in base64, or arrays (height, width) or (height, width,
            3): bytes as they are, other numbers through the task's windows, or else scaled to their own range.
        device: where the model is.

    Raises:
        UserError: an image cannot be read.
    """
    found = [_decode(spec, image, number) for number, image in enumerate(images)]
    if not found:
        return pd.DataFrame(columns=list(spec.labels))
    goal = network.objective(spec, torch.device(device))
    batches = network.loader(spec, [one.image for one in found], torch.device(device)).evaluate(
        np.arange(len(found)), goal.test_views
    )
    parts: list[Collected] = []
    masks: list[list[str]] = []
    for batch in batches:
        logits = network.logits(model, spec, batch.inputs)
        if spec.segmentation:
            masks += [_masks(one, found[row].size) for one, row in zip(logits, batch.rows, strict=True)]
        else:
            parts.append(goal.collect(logits, batch.targets, batch.rows, False))
    return pd.DataFrame(masks if spec.segmentation else np.concatenate(on_host(parts)), columns=list(spec.labels))


def _decode(spec: Spec, image: Any, number: int) -> decode.Decoded:
    """Decodes as `prepare` does, masks left out."""
    task = dataclasses.replace(spec.record, kind="multilabel")
    with tempfile.TemporaryDirectory() as folder:
        sample = Sample(id=str(number), patient="", split="test", image=_picture(image, number, Path(folder), spec))
        try:
            return decode.decode(task, sample, spec.cache_size)
        except Exception as error:  # decoders raise nearly anything on damaged bytes
            words = str(error).replace(folder, "").strip()
            raise UserError(f"image {number} cannot be decoded: {words or type(error).__name__}") from error


def _picture(image: Any, number: int, folder: Path, spec: Spec) -> Picture:
    """Puts an image where the readers of files find it."""
    if isinstance(image, list | np.ndarray):
        values = np.asarray(image)
        bytes_in_json = isinstance(image, list) and values.dtype.kind == "i" and not spec.windows and values.size
        if bytes_in_json and values.min() >= 0 and values.max() <= 255:
            values = values.astype(np.uint8)
        np.savez(folder / "image.npz", images=values[None])
        return Picture(folder / "image.npz", member="images")
    if isinstance(image, str):
        try:
            image = base64.b64decode(image, validate=True)
        except binascii.Error as error:
            raise UserError(
                f"image {number} is text, but not base64 ({error}); send a file's bytes in base64"
            ) from error
    if not isinstance(image, bytes | bytearray):
        wanted = f"bytes of a file ({READABLE}), the same in base64, or an array of pixels"
        raise UserError(f"image {number} must be {wanted}, got {type(image).__name__}")
    (folder / "image").write_bytes(image)
    return Picture(folder / "image")


def _masks(logits: torch.Tensor, size: tuple[int, int]) -> list[str]:
    """Enlarges an image's logits, (L, S, S), to its own (width, height), as the test does, and cuts them at 0."""
    enlarged = F.interpolate(logits[None], (size[1], size[0]), mode="bilinear", align_corners=False)[0] > 0
    return [_png(plane.cpu().numpy().astype(np.uint8) * np.uint8(255)) for plane in enlarged]


def _png(pixels: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
