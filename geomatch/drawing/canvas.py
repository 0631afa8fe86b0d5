"""Pictures of photographs, lines and words, written as pixels (PNG) or as vectors (SVG, PDF)."""

import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from geomatch.errors import require
from geomatch.files import replacing
from geomatch.images import Image, write_png

FORMATS = ("png", "svg", "pdf")
SIDE = 1000
"""Long side in pixels of each photograph, which is reduced or enlarged to it."""
GAP = 20
"""Pixels between the parts of a picture."""
Colour = tuple[int, ...]
BLACK: Colour = (0, 0, 0)
_TEXT, _LINE = 26, 40  # pixels: size of the letters, and from line to line
_NARROW = 700  # a caption is no narrower
_POINT = 72 / 200  # of a pixel: two photographs side by side are ten inches wide
_VECTORS = "report", "writing SVG and PDF"
_SETTINGS = {
    "svg.fonttype": "none", "svg.hashsalt": "geomatch", "pdf.fonttype": 42, "image.composite_image": False,
    "lines.solid_capstyle": "round",
}  # fmt: skip


@dataclass(frozen=True, eq=False, slots=True)
class Line:
    """Points (x, y) that are joined; twice the same is a dot."""

    points: ArrayLike
    colour: Colour
    width: int


@dataclass(frozen=True, eq=False, slots=True)
class Words:
    """One line of text."""

    text: str
    place: tuple[float, float]
    """(x, y) in the middle of its height, at the end that ``anchor`` names."""
    anchor: Literal["left", "center", "right"] = "left"


@dataclass(frozen=True, eq=False, slots=True)
class Picture:
    """Parts on white, and lines over them; words over all."""

    size: tuple[int, int]
    """(width, height) in pixels."""
    parts: "tuple[tuple[NDArray[np.uint8] | Picture, tuple[int, int]], ...]" = ()
    """Photographs (H, W, 3) RGB and pictures, and where (x, y) their first pixel comes."""
    marks: tuple[Line | Words, ...] = ()

    def flat(self, x: int = 0, y: int = 0) -> Iterator[tuple[Any, int, int]]:
        """Every photograph and mark, and how far (x, y) it is moved."""
        for part, (right, down) in self.parts:
            if isinstance(part, Picture):
                yield from part.flat(x + right, y + down)
            else:
                yield part, x + right, y + down
        yield from ((mark, x, y) for mark in self.marks)

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB."""
        drawn = np.full((self.size[1], self.size[0], 3), 255, np.uint8)
        for part, x, y in self.flat():
            if isinstance(part, Line):
                points = np.round(np.add(part.points, (x, y)) * 8).astype(np.int32)
                cv2.polylines(drawn, [points], False, part.colour, part.width, cv2.LINE_AA, 3)
            elif not isinstance(part, Words):
                drawn[y : y + part.shape[0], x : x + part.shape[1]] = part
        shown = PILImage.fromarray(drawn)
        pen, font = ImageDraw.Draw(shown), _font()
        for part, x, y in self.flat():
            if isinstance(part, Words):
                place = np.add(part.place, (x, y)).tolist()
                pen.text(place, part.text, BLACK, font, f"{part.anchor.replace('c', 'm')[0]}m")
        return np.array(shown)

    def write(self, path: Path) -> None:
        """Write PNG, SVG or PDF, as the suffix says; equal pictures give equal files.

        In vectors words remain text. Raises `MissingDependencyError` without the extra ``report``.
        """
        if path.suffix == ".png":
            return write_png(path, self.pixels())
        style, figures = (require(f"matplotlib.{name}", *_VECTORS) for name in ("style", "figure"))
        silent = warnings.catch_warnings(action="ignore", category=UserWarning)  # of letters no font here has
        with silent, style.context(["default", _SETTINGS]), replacing(path) as temporary:
            figure = figures.Figure(np.multiply(self.size, _POINT / 72))
            axes = figure.add_axes((0, 0, 1, 1))
            for order, (part, x, y) in enumerate(self.flat()):
                if isinstance(part, Line):
                    points, rgb = np.add(part.points, (x, y)), np.divide(part.colour, 255)
                    axes.plot(*points.T, color=rgb, lw=part.width * _POINT, zorder=order)
                elif isinstance(part, Words):
                    place, size = np.add(part.place, (x, y)), _TEXT * _POINT
                    axes.text(*place, part.text, size=size, ha=part.anchor, va="center_baseline",
                              parse_math=False, zorder=1e6)  # fmt: skip
                else:
                    sides = np.array([x, x + part.shape[1], y + part.shape[0], y]) - 0.5
                    axes.imshow(part, extent=sides, interpolation="none", zorder=order)
            axes.set(xlim=(-0.5, self.size[0] - 0.5), ylim=(self.size[1] - 0.5, -0.5), aspect="auto")
            axes.axis("off")
            dated = {".svg": "Date", ".pdf": "CreationDate"}[path.suffix]
            figure.savefig(temporary, format=path.suffix[1:], metadata={dated: None})


@cache
def _font() -> Any:
    """That of matplotlib where it is installed: Pillow's own has the letters of English only."""
    found = find_spec("matplotlib")
    if found is None or found.origin is None:
        return ImageFont.load_default(_TEXT)
    return ImageFont.truetype(Path(found.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf", _TEXT)


def photograph(image: Image) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of an image with its long side `SIDE` pixels."""
    factor = SIDE / max(image.size)
    size = [max(1, round(side * factor)) for side in image.size]
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image.pixels, size, interpolation=how), np.uint8)


def framed(photo: Any, *marks: Line | Words) -> Picture:
    """A photograph (H, W, 3) RGB with lines and words at its pixels."""
    pixels = np.asarray(photo, np.uint8)
    return Picture((pixels.shape[1], pixels.shape[0]), ((pixels, (0, 0)),), marks)


def arranged(parts: Sequence[Picture], across: bool) -> Picture:
    """Pictures in a row, aligned at the top, or in a column, aligned at the left."""
    x = y = 0
    placed = []
    for part in parts:
        placed.append((part, (x, y)))
        x, y = (x + part.size[0] + GAP, 0) if across else (0, y + part.size[1] + GAP)
    ends = [(place[0] + part.size[0], place[1] + part.size[1]) for part, place in placed]
    return Picture((max(end[0] for end in ends), max(end[1] for end in ends)), tuple(placed))


def captioned(picture: Picture, text: str, *legend: Picture) -> Picture:
    """A picture above a text, in as many lines as it needs, and a legend on the right."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    room = max(picture.size[0], _NARROW) - sum(part.size[0] + GAP for part in legend)
    lines = textwrap.wrap(text, int(0.93 * room * len(text) / _font().getlength(text)))
    words = tuple(Words(line, (0, (number + 0.5) * _LINE)) for number, line in enumerate(lines))
    below = [Picture((room, len(lines) * _LINE), marks=words), *legend]
    return arranged([picture, arranged(below, across=True)], across=False)


def legend(colours: NDArray[np.uint8], low: str, name: str, high: str) -> Picture:
    """A bar of colours (N, 3), with what it shows and the values at its ends."""
    bar = np.asarray(cv2.resize(colours[None], (420, 22)), np.uint8)
    words = Words(low, (0, 42)), Words(name, (210, 42), "center"), Words(high, (420, 42), "right")
    return Picture((420, 62), ((bar, (0, 0)),), words)


def colour_map(number: int) -> NDArray[np.uint8]:
    """(256, 3) RGB of one of OpenCV's maps."""
    return np.asarray(cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], number)[:, 0, ::-1])
