"""Answers that take seconds and depend on installed libraries alone, kept in the user's cache folder.

Importing torch and timm takes seven seconds of CPU, so a question that only they can answer, such as which weights timm
knows of, is asked once per version of them. A cache that cannot be read or written only costs that time again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import platformdirs

from medtransfer.core import extras, files

Answer = TypeVar("Answer", bound="str | int | float | list[int] | dict[str, object]")


def remembered(*libraries: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Keeps what a function of plain arguments returns, plain data too, for one version of each of the libraries.

    What it raises is not kept. XDG_CACHE_HOME says where the cache is, if not in the user's own place.
    """

    def decorate(function: Callable[..., Answer]) -> Callable[..., Answer]:
        @functools.lru_cache(maxsize=1024)
        def answer(*arguments: str | int | None) -> Answer:
            key, path = json.dumps(arguments), _path(function.__qualname__, libraries)
            known = _read(path)
            if key not in known:
                known = {**known, key: function(*arguments)}
                with contextlib.suppress(OSError):
                    files.write_text(path, json.dumps(known))
            found: Answer = known[key]  # type: ignore[assignment]  # what JSON gives back of it
            return found

        return functools.wraps(function)(answer)

    return decorate


def _path(name: str, libraries: tuple[str, ...]) -> Path:
    try:
        versions = " ".join(f"{library} {metadata.version(library)}" for library in libraries)
    except metadata.PackageNotFoundError:
        extras.need("train", f"a question to {' and '.join(libraries)}")
        raise
    stamp = hashlib.sha256(versions.encode()).hexdigest()[:12]
    return platformdirs.user_cache_path("medtransfer") / f"{name.strip('_')}-{stamp}.json"


def _read(path: Path) -> dict[str, object]:
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
