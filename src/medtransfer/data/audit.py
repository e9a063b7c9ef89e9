"""The verb `audit`: what is known of a task's data, and images that another task's images resemble."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from medtransfer.core import files
from medtransfer.core.errors import quantity
from medtransfer.data import catalog, contact_sheets, duplicates, prepare
from medtransfer.data.cache import Manifest, Prepared, counted
from medtransfer.data.overlap import Finding
from medtransfer.params import Params

log = logging.getLogger("medtransfer")


def report(task: str, against: str, params: Params, root: Path) -> None:
    """Logs what `prepare` found of a task; with another task also look-alikes between the two, with a contact sheet.

    Raises:
        UserError: a task is unknown or cannot be prepared.
    """
    prepared = prepare.prepare(catalog.lookup(task, root), params, root)
    for line in _summary(prepared.manifest):
        log.info("%s", line)
    for name in ("samples.png", "near_duplicates.png"):
        if (prepared.folder / name).is_file():
            log.info("look at %s", prepared.folder / name)
    if against == "none":
        return
    other = prepare.prepare(catalog.lookup(against, root), params, root)
    found = between(prepared, other)
    folder = root / "data/audits" / f"{task}-{against}"
    folder.mkdir(parents=True, exist_ok=True)
    left, right = _by_id(prepared), _by_id(other)
    contact_sheets.pairs(
        folder / "pairs.png", found, lambda i: prepared.images[left[i]], lambda i: other.images[right[i]]
    )
    lines = [f"{p['a']},{p['b']},{p.get('correlation', 1.0)}" for p in found["examples"]]
    files.write_text(folder / "pairs.csv", "\n".join([f"{task},{against},correlation", *lines]) + "\n")
    log.info(
        "%s against %s: %s alike (likeness above %.2f)%s",
        task,
        against,
        quantity(found["count"], "pair", "look"),
        duplicates.NEAR,
        f"; the {len(lines)} most alike are in {folder}" if lines else "",
    )


def between(one: Prepared, two: Prepared) -> Finding:
    """Counts the pairs of an image of one task and an image of another that look the same, identical ones too."""
    parts = [np.load(prepared.folder / "thumbnails.npy", mmap_mode="r") for prepared in (one, two)]
    ids = np.concatenate([prepared.samples["id"].to_numpy(dtype=np.str_) for prepared in (one, two)])
    names = f"{one.manifest['task']}/{two.manifest['task']}"
    rows, half = np.arange(len(ids)), len(parts[0])
    first, second, likeness = duplicates.Looks(*parts).alike(rows[:half], rows[half:])
    return Finding(count=len(first), examples=duplicates.closest([], first, second, likeness, ids, names))


def _by_id(prepared: Prepared) -> dict[str, int]:
    return {str(name): row for row, name in enumerate(prepared.samples["id"])}


def _summary(manifest: Manifest) -> list[str]:
    """Words a manifest for people."""
    found, statistics, folds = manifest["audit"], manifest["statistics"], manifest["folds"]
    sizes = " x ".join(
        f"{statistics[side]['low']:.0f} to {statistics[side]['high']:.0f}" for side in ("width", "height")
    )
    lines = [
        f"{manifest['task']} ({manifest['source']}{''.join(f', {mark}' for mark in manifest['marks'])})",
        f"  images: {counted(manifest['counts'], folds)}; {manifest['unit']}s: {counted(manifest['units'], folds)}",
        f"  split: {manifest['split_recipe']}; hash {manifest['split_hash'][:12]}",
        *(
            f"  split {one['number']}: {_counts(one['counts'])}; {one['split_recipe']}"
            for one in manifest.get("splits", ())
        ),
        f"  originals: {sizes} pixels; prepared: {manifest['cache_size']}",
    ]
    for split, totals in manifest["label_totals"].items():
        gray = statistics["intensity"].get(split)
        if gray is None:  # no image: with folds neither val nor test has one of its own
            continue
        level = f"mean gray level {gray['low']:.0f} to {gray['high']:.0f}, median {gray['median']:.0f}"
        name = "all folds" if folds and split == "train" else split
        lines.append(f"  {name}: positives {_counts(totals)}; {level}")
    patients, exact, near = found["shared_patients"], found["exact_duplicates"], found["near_duplicates"]
    lines.append(
        f"  in more than one split: {patients['count']} {manifest['unit']}s, {exact['count']} identical images, "
        f"{near['count']} look-alikes; dropped: {_counts(found['dropped'])}; skipped: {len(manifest['skipped'])}"
    )
    return lines + [
        f"    {p['a']} and {p['b']} ({p['splits']}, {p.get('correlation', 1)})" for p in near["examples"][:5]
    ]


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in numbers.items())
