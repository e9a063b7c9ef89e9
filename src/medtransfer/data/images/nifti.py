"""NIfTI: one slice of a volume, upright, and where it lies in the patient."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import UserError
from medtransfer.data.images.grids import NEAR, Grid, elsewhere
from medtransfer.data.images.pixels import check_frame, check_size, gate


def read_slice(path: Path, frame: int | None, as_in: Path | None = None) -> tuple[NDArray[Any], Grid | None]:
    """Reads a slice along the last stored axis, scaled by the header: top is front (or up), right is right (or front).

    Without a place in space, which a header may leave out, the second stored axis points up.

    Args:
        path: of the file.
        frame: the slice, None: the only one.
        as_in: a file whose stored axes are those of this one, and whose header says where they point.

    Raises:
        UserError: the file is no image of numbers, too large, or has no such slice.
    """
    volume, shape, affine = _open(path)
    frame = check_frame(frame, shape[2], "slices")
    _reserve(volume, shape[:2])
    values = _scaled(volume, (slice(None), slice(None), frame))
    turn = affine if as_in is None else _open(as_in)[2]
    axes, signs = _upright(np.eye(4) if turn is None else turn)
    rows, columns = axes[1], axes[0]  # the canonical order: first axis to the right, second to the top
    turned = values if (columns, rows) == (0, 1) else values.T  # now (columns, rows)
    turned = turned[:: signs[columns], :: signs[rows]]
    picture = np.ascontiguousarray(np.rot90(turned))
    if affine is None or as_in is not None:
        return picture, None
    start = np.array([0.0, 0.0, frame])
    start[columns] = 0 if signs[columns] > 0 else shape[columns] - 1
    start[rows] = shape[rows] - 1 if signs[rows] > 0 else 0
    right, down = affine[:3, columns] * signs[columns], -affine[:3, rows] * signs[rows]
    return picture, Grid(affine[:3, :3] @ start + affine[:3, 3], down, right, (picture.shape[0], picture.shape[1]))


def read_on(path: Path, grid: Grid) -> NDArray[Any] | None:
    """Reads the voxels of a mask that lie under an image's pixels, however the volume is stored.

    Returns:
        None if the volume's header does not say where it lies.

    Raises:
        UserError: as `read_slice`, or its voxels are not the image's pixels.
    """
    volume, shape, affine = _open(path)
    if affine is None:
        return None
    inverse = np.linalg.inv(affine)
    start = inverse[:3, :3] @ grid.origin + inverse[:3, 3]
    down, right = inverse[:3, :3] @ grid.down, inverse[:3, :3] @ grid.right
    whole = [np.rint(vector).astype(int) for vector in (start, down, right)]
    ends = start + (grid.shape[0] - 1) * down + (grid.shape[1] - 1) * right
    rounded = whole[0] + (grid.shape[0] - 1) * whole[1] + (grid.shape[1] - 1) * whole[2]
    steps = [np.flatnonzero(vector) for vector in whole[1:]]
    exact = np.abs(start - whole[0]).max() <= NEAR and np.abs(ends - rounded).max() <= NEAR
    along = [len(step) == 1 and abs(vector[step[0]]) == 1 for step, vector in zip(steps, whole[1:], strict=True)]
    if not exact or not all(along) or steps[0][0] == steps[1][0]:
        raise elsewhere(f"a volume of {'x'.join(map(str, shape))} voxels that do not lie on these pixels", grid)
    rows, columns = int(steps[0][0]), int(steps[1][0])
    (across,) = {0, 1, 2} - {rows, columns}
    lengths = (shape[rows], shape[columns])
    inside = all(((corner >= 0) & (corner < shape)).all() for corner in (whole[0], rounded))
    if lengths != grid.shape or not inside:
        raise elsewhere(f"a volume of {'x'.join(map(str, shape))} voxels that do not cover these pixels alone", grid)
    _reserve(volume, lengths)
    place: list[Any] = [slice(None)] * 3
    place[across] = int(whole[0][across])
    plane = _scaled(volume, tuple(place))
    plane = plane if rows < columns else plane.T
    return np.ascontiguousarray(plane[:: int(whole[1][rows]), :: int(whole[2][columns])])


def _open(path: Path) -> tuple[Any, tuple[int, int, int], NDArray[np.float64] | None]:
    """Opens a volume: itself, its three lengths, and its place in space where its header says one."""
    import nibabel

    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it reports every oddity of a header
    try:
        volume: Any = nibabel.load(path)
    except nibabel.filebasedimages.ImageFileError as error:
        raise UserError(f"cannot be read as NIfTI: {error}; the file is damaged or has a wrong suffix") from error
    shape = volume.shape
    if len(shape) not in (2, 3, 4) or shape[3:] not in ((), (1,)) or not all(shape):
        raise UserError(f"looked for a NIfTI image of 2 or 3 dimensions, found {shape}; split the file by time first")
    if volume.get_data_dtype().kind not in "biuf":
        raise UserError(f"looked for a NIfTI image of numbers, found {volume.get_data_dtype()}; convert it to one")
    check_size(shape[0], shape[1])
    placed = any(int(volume.header[code]) > 0 for code in ("sform_code", "qform_code"))
    affine = np.asarray(volume.affine, dtype=np.float64) if placed else None
    if affine is not None and not (np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-12):
        raise UserError("its header gives it no volume in space (its affine cannot be inverted); write it anew")
    return volume, (shape[0], shape[1], shape[2] if len(shape) > 2 else 1), affine


def _reserve(volume: Any, lengths: tuple[int, int]) -> None:
    check_size(*lengths)
    gate.hold(lengths[0] * lengths[1] * (volume.get_data_dtype().itemsize + 12))  # 8 of them as a float


def _scaled(volume: Any, place: tuple[Any, ...]) -> NDArray[Any]:
    dimensions = len(volume.shape)
    return np.asarray(volume.dataobj[(*place, 0)[:dimensions]])


def _upright(affine: NDArray[np.float64]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Says which of the first two stored axes points to the right of the picture and which to its top, and their signs.

    Of a slice's two axes the one nearer to left-right goes across, else that nearer to back-front; the other goes up.

    Returns:
        (axis across, axis up), and per stored axis 1 where it points to the right, the front or the top, else -1.
    """
    from nibabel import orientations

    found = np.asarray(orientations.io_orientation(affine))[:2]  # type: ignore[no-untyped-call]  # it has none

    order = (0, 1) if found[0, 0] < found[1, 0] else (1, 0)
    return order, (int(found[0, 1]), int(found[1, 1]))
