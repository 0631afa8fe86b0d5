"""Tracks drawn over frames, and the video file that they are written to."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.errors import GeomatchError
from geomatch.files import replacing
from geomatch.video.masks import object_colours

MAX_SIDE = 960
"""Longest side of an overlay's frames in pixels."""


@contextmanager
def video_writer(
    path: Path, size: tuple[int, int], rate: float
) -> Iterator[Callable[[NDArray[np.uint8]], object]]:
    """Give a function that writes frames, each (H, W, 3) RGB, to an MPEG-4 file (.mp4).

    All have the (width, height) ``size``, both even. Raises `GeomatchError` where OpenCV cannot write MPEG-4.
    """
    with replacing(path) as temporary:
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
        if not writer.isOpened():
            raise GeomatchError(
                "OpenCV cannot write MPEG-4 videos (mp4v) here; install opencv-python from PyPI"
            )
        try:
            yield lambda rgb: writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        finally:
            writer.release()


def overlay_size(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) reduced to a long side of at most `MAX_SIDE`, both even, as codecs want them."""
    factor = min(1.0, MAX_SIDE / max(size))
    return max(2, round(size[0] * factor / 2) * 2), max(2, round(size[1] * factor / 2) * 2)


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
