"""What a COLMAP database says of keypoints and descriptors; only one row is in memory at a time."""

import sqlite3

import numpy as np

from geomatch.colmap.doctor.findings import Array, Photo, Tally, columns, decoded, lengths

_ENOUGH = 20
"""Numbers that share a rare property by chance with a probability below one in a million."""
_NO_IMAGE = "the image of {} does not exist; delete these rows"


def check_keypoints(connection: sqlite3.Connection, photos: dict[int, Photo], tally: Tally) -> dict[int, int]:
    """Examine every row of keypoints; return the number of each image's."""
    numbers: dict[int, int] = {}
    for image_id, rows, cols, data in connection.execute("SELECT image_id, rows, cols, data FROM keypoints"):
        numbers[image_id] = max(rows, 0) if isinstance(rows, int) else 0
        photo = photos.get(image_id)
        table = decoded(rows, cols, data, "<f4")
        if photo is None:
            tally.add("warning", "row", _NO_IMAGE.format("keypoints"), f"image_id {image_id}")
        elif table is None:
            text = "keypoints have another length than rows x columns x 4 bytes; write float32"
            tally.add("error", "image", text, f"{photo.name}, {lengths(rows, cols, data)}")
        elif len(table):
            if cols not in (2, 4, 6):
                text = "COLMAP reads keypoints of 2, 4 or 6 columns only; write x and y"
                tally.add("error", "image", text, f"{photo.name}, {cols} columns")
            if cols >= 2:
                _check_points(table, photo, tally)
    return numbers


def _check_points(table: Array, photo: Photo, tally: Tally) -> None:
    if not np.isfinite(table).all():
        tally.add("error", "image", "keypoints are NaN or infinite; drop them", photo.name)
        table = table[np.isfinite(table).all(axis=1)]
    points = table[:, :2].astype(np.float64)
    if photo.size is not None:
        _check_inside(points, np.array(photo.size, np.float64), photo.name, tally)
        if max(photo.size) > 1024 and any(_is_float16(points.ravel() - shift) for shift in (0.0, 0.5)):
            text = "keypoints were stored as float16; extract again and store float32 (hloc: as_half=False)"
            tally.add("warning", "image", text, photo.name)
    if len(points) >= _ENOUGH // 2 and (points % 1 == 0).all() and not _is_centred_grid(points, photo.size):
        text = "all keypoints have integer coordinates, but COLMAP's pixel centres lie at .5: add 0.5 to both"
        tally.add("warning", "image", text, photo.name)


def _check_inside(points: Array, size: Array, name: str, tally: Tally) -> None:
    outside = int(((points < 0) | (points > size)).any(axis=1).sum())
    if outside and not ((points < 0) | (points > size[::-1])).any():
        text = "keypoints lie outside the image, but inside when x and y are exchanged; write x first"
        tally.add("error", "image", text, name)
    elif outside:
        text = "keypoints lie outside the image; write those of the original, not a reduced or rotated image"
        tally.add("warning", "image", text, f"{name}, {outside} of {len(points)}")
    elif len(points) >= _ENOUGH and size.min() > 16 and points.max() <= 1:
        tally.add("error", "image", "all keypoints lie within 0 and 1; write pixels", name)


def _is_float16(values: Array) -> bool:
    """True if the numbers have the steps of float16, coarser where they are large, and no others."""
    with np.errstate(over="ignore"):
        if not (values.astype(np.float16) == values).all():
            return False
    # integers prove nothing below 2048: they fit whatever the detector does
    if (values[values < 1024] % 1 != 0).any():
        return int((values >= 1024).sum()) >= _ENOUGH
    return bool((values[values < 2048] % 2 == 1).any()) and int((values >= 2048).sum()) >= _ENOUGH


def _is_centred_grid(points: Array, size: tuple[int, int] | None) -> bool:
    """True if integers are right: centres of cells of an even number of pixels."""
    low, high = points.min(axis=0), points.max(axis=0)
    if np.abs([low, high]).max() > 2**31:
        return False
    step = np.gcd.reduce((points - low).astype(np.int64), axis=0)
    if (step < 2).any():
        return False
    return bool((low % step * 2 == step).all()) or (size is not None and (low + high == size).all())


def check_descriptors(
    connection: sqlite3.Connection, photos: dict[int, Photo], numbers: dict[int, int], tally: Tally
) -> int:
    """Examine every row of descriptors but for their values; return their number."""
    present = columns(connection, "descriptors")
    if not present:
        return 0
    kind = "type" if "type" in present else "0"
    total = 0
    for image_id, rows, cols, type_, length in connection.execute(
        f"SELECT image_id, rows, cols, {kind}, coalesce(length(data), 0) FROM descriptors"
    ):
        photo = photos.get(image_id)
        if photo is None:
            tally.add("warning", "row", _NO_IMAGE.format("descriptors"), f"image_id {image_id}")
            continue
        if not (isinstance(rows, int) and isinstance(cols, int) and length == rows * cols):
            text = "descriptors have another length than rows x columns bytes; write uint8"
            tally.add("error", "image", text, f"{photo.name}, {length} bytes for {rows} x {cols}")
            continue
        total += rows
        if rows != numbers.get(image_id, 0):
            text = "descriptors and keypoints differ in number; write both from one extraction"
            tally.add("error", "image", text, photo.name)
        if rows and (type_ == -1 or (type_ == 0 and cols != 128)):
            text = "descriptors are not SIFT's 128 bytes: COLMAP's matchers abort; do not call them"
            tally.add("warning", "image", text, f"{photo.name}, {cols} bytes each")
    return total
