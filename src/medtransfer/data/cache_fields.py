"""What, beside the raw files, decides the content of a prepared cache: part of its digest."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from medtransfer.data.raw import Source
from medtransfer.data.splits import drawn_numbers
from medtransfer.data.tasks import Task
from medtransfer.params import Params, task_params

FORMAT = 2
"""Raised by hand when the same raw files would give another cache: part of the digest, older caches are rebuilt."""

READING = 1
"""Raised by hand when some files of own tasks are read otherwise: their older caches are rebuilt, and have another
digest where pixels changed, which are digested themselves, and only there."""

DIGESTED_RECIPE = (
    "gray tasks to 8-bit luminance, colour tasks to RGB, alpha dropped; with windows: each (level, width) of the stored"
    " values in their unit to 0..255, values outside clipped, one window per channel; without: 8-bit images as they"
    " are, a DICOM file's values rescaled, then through its first VOI table or window, those without either and all"
    " other images of more or fewer bits scaled so that their own smallest value is 0 and their largest 255; DICOM"
    " palettes and YBR to RGB, MONOCHROME1 inverted unless the task has windows; 16-bit colours of a palette or a PNG"
    " by their high byte; NIfTI slices along the last axis as they are stored, turned by 90 degrees; masks: the"
    " label's own value, else stored values above 0, of a palette all but a nearly black darkest colour, of JPEG those"
    " above 127; resized to a square by antialiased bilinear, aspect not kept; masks: union of a label's parts,"
    " resized likewise, set where at least half is covered"
)
"""What digests have held since there are any; how files are read today is `RECIPE`, see `READING`."""


def fields(task: Task, params: Params, origin: Source) -> dict[str, Any]:
    """Lists it by name, as plain data."""
    layout = _layout(task)
    return {
        "format": FORMAT,
        "recipe": DIGESTED_RECIPE,
        **({"reading": READING} if layout else {}),
        "task": task.name,
        "kind": task.kind,
        "source": origin.kind,
        "labels": list(task.labels),
        "uncertain": task.uncertain,
        "extras": list(task.extras),
        "channels": task.channels,
        "windows": [list(window) for window in task.windows],
        "unit": task.unit,
        "hashed_ids": task.hashed_ids,
        "layout": layout,
        "cache_size": task_params(params, task.name).cache_size,
        "split_seed": params.data.split_seed,
        **({"splits": list(numbers)} if (numbers := drawn_numbers(task, params.benchmark.splits)) else {}),
        "draw": dict(task.draw),
        "folds": [task.folds.count, task.folds.repeats] if task.folds else None,
        "on_leak": params.data.on_leak,
    }


def _layout(task: Task) -> dict[str, Any] | None:
    """Lists an own task's layout as JSON has it; keys that came later stand there only where they say something."""
    if task.layout is None:
        return None
    said: dict[str, Any] = json.loads(json.dumps(asdict(task.layout)))
    said["values"] = {label: some[0] if len(some) == 1 else some for label, some in said["values"].items()}
    del said["outside"]  # a place; what lies there is in the fingerprint
    later: dict[str, Any] = {
        "background": [],
        "threshold": None,
        "allow_empty": [],
        "allow_full": [],
        "align": "space",
        "subgroups": {},
    }
    return {name: value for name, value in said.items() if name not in later or value != later[name]}
