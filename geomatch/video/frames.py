"""Frames of a video file or a folder of images, one at a time."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from geomatch.errors import ImageError
from geomatch.files import natural_order
from geomatch.images import IMAGE_SUFFIXES, Image, load_image

DEFAULT_RATE = 25.0
"""Frames per second of a folder, and of a file that states none."""
_MISSING, _MISSING_SHARE = 2, 0.02
"""Frames, or their share, that may be missing from what a file announces: some only estimate it."""


def frames_of(video: Path, limit: int | None = None) -> Iterator[Image]:
    """Read at most ``limit`` frames in order, RGB, all of one size; only one is in memory at a time.

    The video is a file that OpenCV can read, or a folder of images, read with `geomatch.load_image` in
    natural order of their names (``9.png`` before ``10.png``). An `ImageError` names the file or frame when
    there is none (at once), it cannot be read or is of another size, or the video ends before it should.
    """
    if not video.is_dir() and not video.is_file():
        raise ImageError(f"{video}: no such file, nor a folder of frames")
    frames = map(load_image, _images_of(video)) if video.is_dir() else _frames_of_file(video)
    return _of_one_size(islice(frames, limit))


def video_properties(video: Path, limit: int | None = None) -> tuple[int | None, float]:
    """How many frames `frames_of` will give, None when a file does not tell; and frames per second."""
    if video.is_dir():
        count, rate = len(_images_of(video)), DEFAULT_RATE
    else:
        capture = cv2.VideoCapture(str(video))
        count, rate = (int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), float(capture.get(cv2.CAP_PROP_FPS)))
        capture.release()
    known = None if count < 1 else min(count, limit or count)
    return known, rate if 0 < rate <= 1000 else DEFAULT_RATE


def _images_of(folder: Path) -> list[Path]:
    found = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."]
    if not found:
        raise ImageError(f"{folder}: no frames there ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [folder / name for name in natural_order(path.name for path in found)]


def _frames_of_file(video: Path) -> Iterator[Image]:
    capture, number = cv2.VideoCapture(str(video)), 0
    try:
        announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        while (read := capture.read())[0]:
            rgb = cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)
            yield Image(np.asarray(rgb, np.uint8), f"{video}, frame {number}")
            number += 1
    finally:
        capture.release()
    if number == 0:
        raise ImageError(f"{video}: no video that OpenCV can read frames of; give images in a folder")
    if announced - number > max(_MISSING, _MISSING_SHARE * announced):
        raise ImageError(
            f"{video}: ends early, after {number} of the {announced} frames that it announces; "
            f"what is there can be used with --frames {number}"
        )


def _of_one_size(frames: Iterable[Image]) -> Iterator[Image]:
    size = None
    for frame in frames:
        if size is not None and frame.size != size:
            raise ImageError(
                f"{frame.name}: all frames must be of the first one's size, {size[0]}x{size[1]} pixels; "
                f"this one has {frame.size[0]}x{frame.size[1]}"
            )
        size = frame.size
        yield frame
