"""Files of tracked points and masks: a video with the tracks drawn in, a table, and masks."""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.files import replacing
from geomatch.geometry import resize_points
from geomatch.video.masks import write_mask
from geomatch.video.overlay import draw_mask, draw_trails, overlay_size, video_writer
from geomatch.video.track import TrackedMask, TrackedPoints

MASKS = "masks"
"""Folder of the masks of all frames."""
TAIL = 12
"""Frames whose places of a point are drawn behind it."""


@dataclass(frozen=True, slots=True)
class SavedTracks:
    """What was written."""

    paths: tuple[Path, ...]
    """The overlay, the table and, for objects, the folder of masks."""
    frames: int
    """Number of frames."""
    seen: tuple[int, ...]
    """Number of frames that show each point or object."""


def save_tracks(
    tracked: Iterable[TrackedPoints] | Iterable[TrackedMask], folder: Path, rate: float
) -> SavedTracks:
    """Write ``overlay.mp4``, ``tracks.csv`` and, of objects, ``masks/00000.png`` and so on.

    The table has frame, point, x, y, confidence, without x and y where it is lost; or frame, object, area_px,
    the centre of mass x and y, and the bounding box left, top, width and height, all in pixels of the frame;
    for an object that is not there only the area, 0. The masks are indexed PNGs of the frames' size, written
    one by one; the rest appears in the folder, which exists, when all frames are done, and replaces that of
    an earlier result. ``rate`` is the overlay's frames per second.
    """
    rest = iter(tracked)
    first = next(rest)
    size, masks = overlay_size(first.image.size), folder / MASKS
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
        video_writer(paths[0], size, rate) as write,
    ):
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
            write(picture)
            for one, (shown, row) in rows.items():
                seen[one] += shown
                table.write(f"{frames - 1},{one},{row}\n")
    kept = frames if masks in paths else 0
    for path in masks.glob("[0-9]*.png"):  # of an earlier, longer result
        if path.stem.isdigit() and int(path.stem) >= kept:
            path.unlink()
    return SavedTracks(tuple(paths), frames, tuple(seen.values()))


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
