"""Pictures of photographs, lines and words, written as pixels (PNG) or as vectors (SVG, PDF)."""

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
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
Colour = tuple[int, int, int]
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
_TEXT, _LINE = 30, 40  # pixels: height of letters, and from line to line
_NARROW = 700  # a caption is no narrower
_DPI = 200  # a picture of two photographs is ten inches wide


@dataclass(frozen=True, eq=False, slots=True)
class Strokes:
    """Lines of one kind; a line without length is a dot."""

    paths: Sequence[NDArray[np.floating]]
    """Each (N, 2), (x, y) in pixels; the centre of the first pixel is (0, 0)."""
    colour: Colour
    width: int
    opacity: float = 1.0


@dataclass(frozen=True, eq=False, slots=True)
class Words:
    """One line of text, in the middle of whose height ``place`` lies."""

    text: str
    place: tuple[float, float]
    colour: Colour = BLACK
    anchor: Literal["left", "center", "right"] = "left"
    """Which end of the text ``place`` is."""
    ground: Colour | None = None
    """The colour of a box behind it."""


@dataclass(frozen=True, eq=False, slots=True)
class Picture:
    """On white, photographs below lines below words."""

    size: tuple[int, int]
    """(width, height) in pixels."""
    photographs: tuple[tuple[NDArray[np.uint8], tuple[int, int]], ...] = ()
    """Each (H, W, 3) RGB, with the place (x, y) of its first pixel."""
    strokes: tuple[Strokes, ...] = ()
    words: tuple[Words, ...] = ()

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB."""
        canvas = np.full((self.size[1], self.size[0], 3), 255, np.uint8)
        for photo, (x, y) in self.photographs:
            canvas[y : y + photo.shape[0], x : x + photo.shape[1]] = photo
        for stroke in self.strokes:
            below = canvas if stroke.opacity == 1 else canvas.copy()
            paths = [np.round(path * 8).astype(np.int32) for path in stroke.paths]
            cv2.polylines(canvas, paths, False, stroke.colour, stroke.width, cv2.LINE_AA, 3)
            if below is not canvas:
                cv2.addWeighted(canvas, stroke.opacity, below, 1 - stroke.opacity, 0, canvas)
        shown = PILImage.fromarray(canvas)
        draw, font = ImageDraw.Draw(shown), _font()
        for words in self.words:
            anchor = f"{words.anchor[0].replace('c', 'm')}m"
            if words.ground:
                left, top, right, bottom = draw.textbbox(words.place, words.text, font, anchor)
                draw.rounded_rectangle((left - 6, top - 5, right + 6, bottom + 5), 6, words.ground)
            draw.text(words.place, words.text, words.colour, font, anchor)
        return np.array(shown)

    def write(self, path: Path) -> None:
        """Write the file, of a format that its suffix tells; equal pictures give equal files.

        Raises `MissingDependencyError` for SVG and PDF without the extra ``report``.
        """
        if path.suffix == ".png":
            write_png(path, self.pixels())
        else:
            _write_vectors(self, path)


def check_format(suffix: str) -> None:
    """Raise `MissingDependencyError` for a format that needs matplotlib where that is not installed."""
    if suffix != "png":
        require("matplotlib", "report", f"writing {suffix.upper()}")


def photograph(image: Image) -> Picture:
    """An image with its long side `SIDE` pixels."""
    factor = SIDE / max(image.size)
    size = [max(1, round(side * factor)) for side in image.size]
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    pixels = np.asarray(cv2.resize(image.pixels, size, interpolation=how), np.uint8)
    return Picture((size[0], size[1]), ((pixels, (0, 0)),))


def arranged(parts: Sequence[Picture], across: bool) -> Picture:
    """Pictures in a row, aligned at the top, or in a column, aligned at the left."""
    x = y = 0
    moved = []
    for part in parts:
        shift = np.array([x, y])
        moved.append(
            Picture(
                (x + part.size[0], y + part.size[1]),
                tuple((photo, (left + x, top + y)) for photo, (left, top) in part.photographs),
                tuple(replace(one, paths=[path + shift for path in one.paths]) for one in part.strokes),
                tuple(replace(one, place=(one.place[0] + x, one.place[1] + y)) for one in part.words),
            )
        )
        x, y = (x + part.size[0] + GAP, 0) if across else (0, y + part.size[1] + GAP)
    width, height = (max(part.size[axis] for part in moved) for axis in (0, 1))
    photos, strokes, words = (
        tuple(one for part in moved for one in getattr(part, name))
        for name in ("photographs", "strokes", "words")
    )
    return Picture((width, height), photos, strokes, words)


def captioned(picture: Picture, text: str, legend: Picture | None = None) -> Picture:
    """A picture above a text, in as many lines as it needs, and a legend on the right."""
    text = "".join(map(_legible, text))
    room = max(picture.size[0], _NARROW) - (legend.size[0] + GAP if legend else 0)
    lines = textwrap.wrap(text, int(0.93 * room * len(text) / _font().getlength(text)))
    words = tuple(Words(line, (0, (number + 0.5) * _LINE)) for number, line in enumerate(lines))
    below = Picture((room, len(lines) * _LINE), words=words)
    return arranged([picture, arranged([below, legend], True) if legend else below], False)


def legend(colours: NDArray[np.uint8], low: str, name: str, high: str) -> Picture:
    """A bar of colours (256, 3), with what it shows and the values at its ends."""
    width, height = 420, 22
    bar = np.asarray(cv2.resize(colours[None], (width, height)), np.uint8)
    y = height + _LINE / 2
    ends = Words(low, (0, y)), Words(high, (width, y), BLACK, "right")
    words = *ends, Words(name, (width / 2, y), BLACK, "center")
    return Picture((width, height + _LINE), ((bar, (0, 0)),), words=words)


def colour_map(number: int) -> NDArray[np.uint8]:
    """(256, 3) RGB of one of OpenCV's maps."""
    return np.asarray(cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], number)[:, 0, ::-1])


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Matplotlib's, where that is installed: Pillow's has the letters of English only."""
    found = find_spec("matplotlib")
    if found is None or found.origin is None:
        return ImageFont.load_default(_TEXT)
    return ImageFont.truetype(Path(found.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf", 0.85 * _TEXT)


@cache
def _legible(letter: str) -> str:
    """The letter, or that without its accent, or a question mark, whichever the font has."""
    for one in (letter, unicodedata.normalize("NFKD", letter)[0]):
        if one.isprintable() and bytes(_font().getmask(one)) != bytes(_font().getmask("\uffff")):
            return one
    return "?"


def _write_vectors(picture: Picture, path: Path) -> None:
    """SVG or PDF: texts remain texts, photographs are pixels as in the PNG."""
    suffix = path.suffix[1:]
    check_format(suffix)
    from matplotlib import style
    from matplotlib.figure import Figure

    (width, height), point = picture.size, 72 / _DPI
    settings = {
        "svg.fonttype": "none", "svg.hashsalt": "geomatch", "pdf.fonttype": 42, "font.family": "DejaVu Sans",
        "image.composite_image": False,
    }  # fmt: skip
    with style.context(["default", settings]), replacing(path) as temporary:
        figure = Figure((width / _DPI, height / _DPI), _DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        for photo, (x, y) in picture.photographs:
            sides = x - 0.5, x + photo.shape[1] - 0.5, y + photo.shape[0] - 0.5, y - 0.5
            axes.imshow(photo, extent=sides, interpolation="none", zorder=0)
        for one in picture.strokes:
            for way in one.paths:
                axes.plot(
                    *way.T, color=np.divide(one.colour, 255), linewidth=one.width * point, alpha=one.opacity,
                    solid_capstyle="round",
                )  # fmt: skip
        for words in picture.words:
            box = words.ground and {"facecolor": np.divide(words.ground, 255), "linewidth": 0, "pad": 2}
            axes.text(
                *words.place, words.text, color=np.divide(words.colour, 255), size=0.85 * _TEXT * point,
                ha=words.anchor, va="center_baseline", bbox=box, parse_math=False,
            )  # fmt: skip
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="auto")
        axes.axis("off")
        day = "Date" if suffix == "svg" else "CreationDate"
        figure.savefig(temporary, format=suffix, metadata={day: None})
