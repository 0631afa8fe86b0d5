"""Files of tracked points and masks: a video with the tracks drawn in, a table, and masks."""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

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
Tracked = TypeVar("Tracked", TrackedPoints, TrackedMask)


@dataclass(frozen=True, slots=True)
class SavedTracks:
    """What was written."""

    paths: tuple[Path, ...]
    """The overlay, the table and, for objects, the folder of masks."""
    frames: int
    """Number of frames."""
    seen: tuple[int, ...]
    """Number of frames that show each point or object."""


def save_points(tracked: Iterable[TrackedPoints], folder: Path, rate: float) -> SavedTracks:
    """Write the overlay and ``tracks.csv``: frame, point, x, y, confidence, without x and y where it is lost.

    The files appear in the folder, which exists, when all frames are done, and replace those of an earlier
    result. ``rate`` is the overlay's frames per second.

    Raises:
        GeomatchError: when no video can be written.
        OSError: when a file cannot be written.
    """
    tail: deque[NDArray[np.floating]] = deque(maxlen=TAIL)
    seen: Counter[int] = Counter()

    def take(number: int, found: TrackedPoints, picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], str]:
        rows = ""
        for point, ((x, y), confidence) in enumerate(zip(found.points, found.confidence, strict=True)):
            seen[point] += bool(confidence > 0)
            place = f"{x:.2f},{y:.2f}" if confidence > 0 else ","
            rows += f"{number},{point},{place},{confidence:.3f}\n"
        tail.append(resize_points(found.points, found.image.size, picture.shape[1::-1]))
        return draw_trails(picture, list(tail)), rows

    paths, frames = _save(tracked, folder, rate, "frame,point,x,y,confidence\n", take)
    _remove_masks(folder, 0)
    return SavedTracks(paths, frames, tuple(seen.values()))


def save_masks(tracked: Iterable[TrackedMask], folder: Path, rate: float) -> SavedTracks:
    """Write the overlay, ``masks/00000.png`` and so on, and ``tracks.csv``.

    The table has frame, object, area_px, the centre of mass x and y, and the bounding box left, top, width
    and height, all in pixels of the frame; for an object that is not there only the area, 0. The masks are
    indexed PNGs of the frames' size, written one by one; the rest and the errors are as in `save_points`.
    """
    place = folder / MASKS
    place.mkdir(exist_ok=True)
    seen: Counter[int] = Counter()

    def take(number: int, found: TrackedMask, picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], str]:
        if number == 0:
            seen.update(dict.fromkeys(np.unique(found.mask[found.mask > 0]).tolist(), 0))
        rows = ""
        for one in seen:
            y, x = np.nonzero(found.mask == one)
            seen[one] += len(x) > 0
            rest = ",,,,,"
            if len(x):
                sides = np.ptp(x) + 1, np.ptp(y) + 1
                rest = f"{x.mean():.2f},{y.mean():.2f},{x.min()},{y.min()},{sides[0]},{sides[1]}"
            rows += f"{number},{one},{len(x)},{rest}\n"
        write_mask(place / f"{number:05d}.png", found.mask)
        return draw_mask(picture, found.mask), rows

    paths, frames = _save(tracked, folder, rate, "frame,object,area_px,x,y,left,top,width,height\n", take)
    _remove_masks(folder, frames)
    return SavedTracks((*paths, place), frames, tuple(seen.values()))


def _save(
    tracked: Iterable[Tracked],
    folder: Path,
    rate: float,
    header: str,
    take: Callable[[int, Tracked, NDArray[np.uint8]], tuple[NDArray[np.uint8], str]],
) -> tuple[tuple[Path, ...], int]:
    """Write the overlay and the table, whose pictures and rows ``take`` makes frame by frame."""
    rest = iter(tracked)
    first = next(rest)
    size = overlay_size(first.image.size)
    number, video, table = 0, folder / "overlay.mp4", folder / "tracks.csv"
    with (
        replacing(table) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as lines,
        video_writer(video, size, rate) as write,
    ):
        lines.write(header)
        for number, found in enumerate(chain([first], rest), 1):
            reduced = cv2.resize(found.image.pixels, size, interpolation=cv2.INTER_AREA)
            picture, rows = take(number - 1, found, np.asarray(reduced, np.uint8))
            write(picture)
            lines.write(rows)
    return (video, table), number


def _remove_masks(folder: Path, start: int) -> None:
    """Remove the masks of an earlier, longer result."""
    for path in (folder / MASKS).glob("[0-9]*.png"):
        if path.stem.isdigit() and int(path.stem) >= start:
            path.unlink()
