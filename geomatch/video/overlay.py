"""Tracks drawn over frames, and the video file that they are written to."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.errors import GeomatchError
from geomatch.files import replacing
from geomatch.video.masks import object_colours

MAX_SIDE = 960
"""Longest side of an overlay's frames in pixels."""
CODECS = ((".mp4", "mp4v"), (".avi", "MJPG"))
"""Containers and codecs, in the order in which they are tried. Motion JPEG is OpenCV's own."""


@contextmanager
def video_writer(
    path: Path, size: tuple[int, int], rate: float
) -> Iterator[tuple[Callable[[NDArray[np.uint8]], object], Path]]:
    """Give a function that writes frames, each (H, W, 3) RGB, and the path of the finished file.

    The file is ``path`` as MPEG-4 (.mp4) or, where OpenCV cannot write that, Motion JPEG (.avi); one of the
    other format from an earlier run is removed.

    Args:
        path: of the file; the suffix is the codec's.
        size: (width, height) of all frames, both even.
        rate: frames per second.

    Raises:
        GeomatchError: when neither can be written.
        OSError: when the folder cannot be written.
    """
    suffix, codec = _usable_codec(size, rate)
    target = path.with_suffix(suffix)
    with replacing(target) as temporary:
        writer = _open_writer(temporary, codec, size, rate)
        try:
            yield lambda rgb: writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)), target
        finally:
            writer.release()
    for other, _ in CODECS:
        if other != suffix:
            path.with_suffix(other).unlink(missing_ok=True)


def _usable_codec(size: tuple[int, int], rate: float) -> tuple[str, str]:
    with TemporaryDirectory() as folder:
        for suffix, codec in CODECS:
            writer = _open_writer(Path(folder) / f"probe{suffix}", codec, size, rate)
            opened = writer.isOpened()
            writer.release()
            if opened:
                return suffix, codec
    raise GeomatchError("OpenCV can write neither MPEG-4 (mp4v) nor Motion JPEG (MJPG) videos here")


def _open_writer(path: Path, codec: str, size: tuple[int, int], rate: float) -> cv2.VideoWriter:
    return cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, size)


def overlay_size(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) reduced to a long side of at most `MAX_SIDE`, both even, as codecs want them."""
    factor = min(1.0, MAX_SIDE / max(size))
    return max(2, round(size[0] * factor / 2) * 2), max(2, round(size[1] * factor / 2) * 2)


def draw_trails(rgb: NDArray[np.uint8], places: Sequence[NDArray[np.floating]]) -> NDArray[np.uint8]:
    """Draw points as coloured dots with the way they came.

    Args:
        rgb: (H, W, 3).
        places: (N, 2) pixels of the same points in the last frames, this frame's last; NaN where a point is
            lost.
    """
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
