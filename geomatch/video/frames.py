"""Frames of a video file or a folder of images, one at a time, and the writing of videos and masks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from colorsys import hsv_to_rgb
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from geomatch.errors import GeomatchError, ImageError
from geomatch.files import natural_order, replacing
from geomatch.images import IMAGE_SUFFIXES, Image, load_image

MAX_OBJECTS = 254
"""Objects in a mask: 0 is the background, 255 the single object of a black and white one."""
DEFAULT_RATE = 25.0
"""Frames per second where none are known: a folder has no rate, and some files tell none."""
GOLDEN = (3 - 5**0.5) / 2
"""The golden angle as a share of the circle."""
OVERLAY_SIDE = 960
"""Long side, in pixels, that frames of an overlay have at most."""
FEWER, FEWER_SHARE = 2, 0.02
"""Frames, or their share, that may be missing from what a file announces: some only estimate it."""
CODECS = ((".mp4", "mp4v"), (".avi", "MJPG"))
"""Containers and codecs, in the order in which they are tried. Motion JPEG is OpenCV's own."""


def frames_of(video: Path, limit: int | None = None) -> Iterator[Image]:
    """The frames in order, RGB, all of one size; only one is in memory at a time.

    Args:
        video: a file that OpenCV can read, or a folder of images, taken in natural order of their names
            (``9.png`` before ``10.png``) by the rules of `geomatch.load_image`.
        limit: stop after so many.

    Raises:
        ImageError: naming the file or frame, when there is none, it cannot be read, its size differs from
            the first frame's, or the video ends before the number of frames that it announces.
        ValueError: for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"the number of frames must be at least 1, got {limit}")
    frames = _of_images(images_of(video)) if video.is_dir() else _of_file(video)
    return _of_one_size(islice(frames, limit))


def images_of(folder: Path) -> list[Path]:
    """The images of a folder in natural order of their names, hidden files left out.

    Raises:
        ImageError: when there is none.
    """
    found = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."]
    if not found:
        raise ImageError(f"{folder}: no frames there ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [folder / name for name in natural_order(path.name for path in found)]


def count_frames(video: Path, limit: int | None = None) -> int | None:
    """How many frames `frames_of` will give, as far as a file tells; None when it does not."""
    if video.is_dir():
        known = len(images_of(video))
    else:
        capture = cv2.VideoCapture(str(video))
        known = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
    if known < 1:
        return None
    return known if limit is None else min(known, limit)


def frame_rate(video: Path) -> float:
    """Frames per second; `DEFAULT_RATE` for a folder and for a file that tells none."""
    if video.is_dir():
        return DEFAULT_RATE
    capture = cv2.VideoCapture(str(video))
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    return rate if 0 < rate <= 1000 else DEFAULT_RATE


def load_mask(path: Path) -> NDArray[np.uint8]:
    """(H, W) numbers of objects, 0 for the background.

    The indices of a palette image and the values of a grey one are the numbers, as in DAVIS; an image with
    no values but 0 and 255 (or one bit) has one object, number 1.

    Raises:
        ImageError: when it cannot be read, is in colour, is deeper than 8 bits, shows nothing, or has numbers
            above 254.
    """
    load_image(path)  # says in one line what is wrong with a file
    with PILImage.open(path) as picture:
        if picture.mode not in ("1", "L", "P"):
            raise ImageError(
                f"{path}: a mask must be a palette or grey image of 8 bits, whose values number the objects; "
                f"got mode {picture.mode}"
            )
        black_white = picture.mode == "1"
        mask = np.array(picture).astype(np.uint8)
    if not mask.any():
        raise ImageError(f"{path}: the mask is empty; mark the objects by values from 1, or one by 255")
    if black_white or set(np.unique(mask).tolist()) <= {0, 255}:
        return (mask > 0).astype(np.uint8)
    if mask.max() > MAX_OBJECTS:
        raise ImageError(
            f"{path}: numbers of objects must lie in 1..{MAX_OBJECTS}, got {mask.max()} "
            "(255 is for a mask of one object, without other values)"
        )
    return mask


def object_colours(count: int) -> NDArray[np.uint8]:
    """(count, 3) RGB colours, black first and then hues a golden angle apart, so that neighbours differ."""
    rows = [(0.0, 0.0, 0.0)]
    for number in range(1, count):
        rows.append(hsv_to_rgb(number * GOLDEN % 1, 0.75, 1.0 if number // 8 % 2 == 0 else 0.7))
    return (np.array(rows[:count]) * 255).round().astype(np.uint8)


def write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    """Write (H, W) numbers of objects as a PNG whose palette is that of `object_colours`."""
    picture = PILImage.fromarray(mask, "P")
    picture.putpalette(object_colours(256).tobytes())
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


@contextmanager
def video_writer(
    path: Path, size: tuple[int, int], rate: float
) -> Iterator[tuple[Callable[[NDArray[np.uint8]], None], Path]]:
    """What takes the frames of a video, each (H, W, 3) RGB, and the file that is there in the end.

    That is ``path`` as MPEG-4 (.mp4) or, where OpenCV cannot write it, as Motion JPEG (.avi).

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

        def write(rgb: NDArray[np.uint8]) -> None:
            writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))

        try:
            yield write, target
        finally:
            writer.release()
    for other, _ in CODECS:
        if other != suffix:
            path.with_suffix(other).unlink(missing_ok=True)  # of an earlier run


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


def even_size(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) reduced to a long side of at most `OVERLAY_SIDE`, both even, as codecs want them."""
    factor = min(1.0, OVERLAY_SIDE / max(size))
    return max(2, round(size[0] * factor / 2) * 2), max(2, round(size[1] * factor / 2) * 2)


def draw_trails(rgb: NDArray[np.uint8], places: Sequence[NDArray[np.floating]]) -> NDArray[np.uint8]:
    """Points as coloured dots with the way they came.

    Args:
        rgb: (H, W, 3).
        places: (N, 2) pixels of the same points in the last frames, the last entry being this frame's; NaN
            where a point is lost.
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
    """Objects as transparent colours with an outline.

    Args:
        rgb: (H, W, 3).
        mask: (h, w) numbers of objects, of any size.
    """
    small = cv2.resize(mask, rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    colours = object_colours(256)
    inside = (small > 0)[:, :, None]
    drawn = np.where(inside, (rgb * 0.55 + colours[small] * 0.45).round().astype(np.uint8), rgb)
    for number in np.unique(small[small > 0]).tolist():
        outlines, _ = cv2.findContours(
            (small == number).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(drawn, outlines, -1, colours[number].tolist(), 2)
    return np.asarray(drawn, np.uint8)


def _of_images(paths: Iterable[Path]) -> Iterator[Image]:
    for path in paths:
        yield load_image(path)


def _of_file(video: Path) -> Iterator[Image]:
    if not video.is_file():
        raise ImageError(f"{video}: no such file, nor a folder of frames")
    capture = cv2.VideoCapture(str(video))
    try:
        announced, number = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0
        while True:
            read, pixels = capture.read()
            if not read:
                break
            yield Image(
                np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8), f"{video}, frame {number}"
            )
            number += 1
    finally:
        capture.release()
    if number == 0:
        raise ImageError(
            f"{video}: no video that OpenCV can read, or one without frames; give images in a folder"
        )
    if announced - number > max(FEWER, FEWER_SHARE * announced):
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
