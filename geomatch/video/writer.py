"""Files of tracked points and masks: a video with the tracks drawn in, a table, and masks."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import chain, pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.errors import GeomatchError
from geomatch.files import replacing
from geomatch.geometry import resize_points
from geomatch.video.masks import object_colours, write_mask
from geomatch.video.track import TrackedMask, TrackedPoints

MASKS = "masks"
MAX_SIDE = 960
"""Longest side of an overlay's frames in pixels."""
TAIL = 12
"""Frames whose places of a point are drawn behind it."""


def save_tracks(
    tracked: Iterable[TrackedPoints | TrackedMask], folder: Path, rate: float
) -> tuple[list[Path], int, list[int]]:
    """Write ``overlay.mp4``, ``tracks.csv`` and, of objects, ``masks/00000.png`` and so on.

    Returns these paths, the number of frames, and that of the frames that show each point or object.

    The table has frame, point, x, y, confidence, without x and y where it is lost; or frame, object, area_px,
    the centre of mass x and y, and the bounding box left, top, width and height, all in pixels of the frame;
    for an object that is not there only the area, 0. The masks are indexed PNGs of the frames' size, written
    one by one; the rest appears in the folder, which exists, when all frames are done, and replaces that of
    an earlier result. ``rate`` is the overlay's frames per second.
    """
    rest = iter(tracked)
    first = next(rest)
    factor = min(1.0, MAX_SIDE / max(first.image.size)) / 2
    width, height = (max(2, round(side * factor) * 2) for side in first.image.size)  # even, for codecs
    size, masks = (width, height), folder / MASKS
    paths, head = [folder / "overlay.mp4", folder / "tracks.csv"], "point,x,y,confidence"
    tail: deque[NDArray[np.floating]] = deque(maxlen=TAIL)
    seen: Counter[int] = Counter()
    frames = 0
    if isinstance(first, TrackedMask):
        masks.mkdir(exist_ok=True)
        paths, head = [*paths, masks], "object,area_px,x,y,left,top,width,height"
        seen.update(dict.fromkeys(np.unique(first.mask[first.mask > 0]).tolist(), 0))
    with (
        replacing(paths[1]) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as table,
        replacing(paths[0]) as film,
        ExitStack() as ending,
    ):
        writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
        ending.callback(writer.release)
        if not writer.isOpened():
            raise GeomatchError("OpenCV cannot write MPEG-4 videos (mp4v); install opencv-python from PyPI")
        table.write(f"frame,{head}\n")
        for frames, found in enumerate(chain([first], rest), 1):
            reduced = cv2.resize(found.image.pixels, size, interpolation=cv2.INTER_AREA)
            picture = np.asarray(reduced, np.uint8)
            if isinstance(found, TrackedPoints):
                tail.append(resize_points(found.points, found.image.size, size))
                picture, rows = draw_trails(picture, list(tail)), _point_rows(found)
            else:
                write_mask(masks / f"{frames - 1:05d}.png", found.mask)
                picture, rows = draw_mask(picture, found.mask), _object_rows(found.mask, [*seen])
            writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            for one, (shown, row) in rows.items():
                seen[one] += shown
                table.write(f"{frames - 1},{one},{row}\n")
    kept = frames if masks in paths else 0
    for path in masks.glob("[0-9]*.png"):  # of an earlier, longer result
        if path.stem.isdigit() and int(path.stem) >= kept:
            path.unlink()
    return paths, frames, list(seen.values())


def _point_rows(found: TrackedPoints) -> dict[int, tuple[bool, str]]:
    """By point: true if it is seen, and the rest of its row."""
    rows = {}
    for point, ((x, y), confidence) in enumerate(zip(found.points, found.confidence, strict=True)):
        place = f"{x:.2f},{y:.2f}" if confidence > 0 else ","
        rows[point] = bool(confidence > 0), f"{place},{confidence:.3f}"
    return rows


def _object_rows(mask: NDArray[np.uint8], objects: list[int]) -> dict[int, tuple[bool, str]]:
    """By object: true if it is seen, and the rest of its row."""
    rows = {}
    for one in objects:
        y, x = np.nonzero(mask == one)
        place = ",,,,,"
        if len(x):
            sides = np.ptp(x) + 1, np.ptp(y) + 1
            place = f"{x.mean():.2f},{y.mean():.2f},{x.min()},{y.min()},{sides[0]},{sides[1]}"
        rows[one] = len(x) > 0, f"{len(x)},{place}"
    return rows


def draw_trails(rgb: NDArray[np.uint8], places: Sequence[NDArray[np.floating]]) -> NDArray[np.uint8]:
    """Draw points over (H, W, 3) as dots with the way they came: (N, 2) pixels per frame, NaN where lost."""
    drawn = rgb.copy()
    radius = max(2, round(max(rgb.shape) / 160))
    colours = object_colours(1 + len(places[-1])).tolist()[1:]
    for point, colour in enumerate(colours):
        way = [
            tuple(np.round(step[point] * 16).astype(int).tolist()) if np.isfinite(step[point]).all() else None
            for step in places
        ]
        for start, end in pairwise(way):
            if start and end:
                cv2.line(drawn, start, end, colour, max(1, radius // 2), cv2.LINE_AA, 4)
        if way[-1]:
            cv2.circle(drawn, way[-1], (radius + 1) * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
            cv2.circle(drawn, way[-1], radius * 16, colour, -1, cv2.LINE_AA, 4)
    return drawn


def draw_mask(rgb: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw the objects of a mask (h, w), of any size, over (H, W, 3) as transparent outlined colours."""
    small = cv2.resize(mask, rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    colours = object_colours(256)
    inside = (small > 0)[:, :, None]
    drawn = np.where(inside, (rgb * 0.55 + colours[small] * 0.45).round().astype(np.uint8), rgb)
    for number in np.unique(small[small > 0]).tolist():
        shape = (small == number).astype(np.uint8)
        outlines, _ = cv2.findContours(shape, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outlines, -1, colours[number].tolist(), 2)
    return np.asarray(drawn, np.uint8)
