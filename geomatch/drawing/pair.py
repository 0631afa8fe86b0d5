"""Pictures of what was found between two images: the matches, and image 0 warped onto image 1."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.drawing.canvas import (
    BLACK,
    SIDE,
    Picture,
    Strokes,
    arranged,
    captioned,
    colour_map,
    legend,
    photograph,
)
from geomatch.estimators.two_view import transfer_errors
from geomatch.geometry import resize_homography, resize_points, thinned, warp_points
from geomatch.images import reduce_image
from geomatch.rasters.warping import through
from geomatch.results import MatchResult
from geomatch.types import HomographyEstimate, RelativePose, TwoViewGeometry

Style = Literal["checkerboard", "red-cyan", "blend", "quad"]
STYLES: tuple[Style, ...] = ("checkerboard", "red-cyan", "blend", "quad")
_MOST, _MOST_WRONG = 150, 50  # lines between inliers and others; more would hide the photographs
_WIDEST = 3.6  # by the height: wider pairs stand one below the other
_GREY, _FRAME = (225, 225, 225), (255, 190, 0)
_ERRORS = colour_map(cv2.COLORMAP_VIRIDIS)[:50:-1]  # yellow, green, blue


def draw_matches(result: MatchResult) -> Picture:
    """Both images, inliers coloured by their error, some other matches faded, and the counts below.

    Without a geometry all matches are grey, and the reason stands below. A relative pose has no errors in
    pixels: its inliers have one colour.
    """
    found, shown = result.geometry, [photograph(result.image0), photograph(result.image1)]
    wide = shown[0].size[0] + shown[1].size[0] > _WIDEST * max(one.size[1] for one in shown)
    picture = arranged(shown, across=not wide)
    places = [place for _, place in picture.photographs]
    ends0 = resize_points(result.points0, result.image0.size, shown[0].size)
    ends1 = resize_points(result.points1, result.image1.size, shown[1].size) + places[1]
    paths = np.stack([ends0, ends1], axis=1)
    inliers = found.inliers if found else np.zeros(len(paths), np.bool_)
    right, wrong = np.flatnonzero(inliers), np.flatnonzero(~inliers)
    right = right[thinned(ends0[right], _MOST)][::-1]  # the best are on top
    wrong = wrong[thinned(ends0[wrong], _MOST_WRONG if found else _MOST)]
    strokes = [Strokes(list(paths[wrong]), _GREY, 1, 0.6 if found else 1.0)]
    colours, bar, errors = np.tile(_ERRORS[:1], (len(paths), 1)), None, _errors(result)
    if errors is not None:
        made = result.settings["estimator"] or result.settings["model"]
        limit = made.get("threshold") if isinstance(made, dict) else None
        limit = max(limit or errors[inliers].max(), 1e-9)
        colours = _ERRORS[(np.clip(errors / limit, 0, 1) * (len(_ERRORS) - 1)).astype(int)]
        bar = legend(_ERRORS, "0", "error of inliers", f"{limit:.3g} px")
    for index in right:
        red, green, blue = colours[index].tolist()
        dots, colour = [end[None].repeat(2, axis=0) for end in paths[index]], (red, green, blue)
        strokes += [Strokes([paths[index]], colour, 2), Strokes(dots, BLACK, 9), Strokes(dots, colour, 7)]
    caption = _counts(result, errors, len(right) if found else len(wrong))
    return captioned(replace(picture, strokes=tuple(strokes)), caption, bar)


def _errors(result: MatchResult) -> NDArray[np.float64] | None:
    """(M,) pixels of image 1, of a fundamental matrix from the epipolar lines; None without such errors."""
    found = result.geometry
    points0, points1 = result.points0.astype(np.float64), result.points1.astype(np.float64)
    if isinstance(found, HomographyEstimate):
        return np.asarray(np.linalg.norm(warp_points(found.matrix, points0) - points1, axis=1))
    if isinstance(found, TwoViewGeometry) and found.config != "calibrated":
        return transfer_errors(found, points0, points1)
    return None


def _counts(result: MatchResult, errors: NDArray[np.float64] | None, drawn: int) -> str:
    """The caption of the matches, of which so many are drawn."""
    found, count, model = result.geometry, len(result.matches), model_of(result)
    some = f" ({drawn} drawn)" if drawn < (found.num_inliers if found else count) else ""
    if not found:
        return f"{count:,} matches{some} · {model} not found: {found.reason}"
    text = f"{found.num_inliers:,} of {count:,} matches are inliers{some} · {model}"
    if errors is not None:
        text += f", mean error {errors[found.inliers].mean():.2g} px"
    if isinstance(found, RelativePose):
        text += f" · rotation uncertain by {found.rotation_deviation:.2g}°"
    elif isinstance(found, HomographyEstimate) and found.corner_deviations is not None:
        text += f" · corner deviation {found.corner_deviations.max():.2g} px"
    return text


def model_of(result: MatchResult) -> str:
    """The name of the model that was found, or else asked for."""
    if isinstance(result.geometry, HomographyEstimate):
        return result.geometry.model
    asked = result.settings["model"]
    return str(asked.get("name", asked["type"].lower()))


def draw_overlay(result: MatchResult, styles: Sequence[Style] = STYLES[:1]) -> Picture:
    """Image 0 warped onto image 1, with the outline of image 0; a panel for each style.

    - ``checkerboard``: squares of both in turn.
    - ``red-cyan``: image 0 in red, image 1 in cyan, so that they give grey where they agree.
    - ``blend``: the mean of both.
    - ``quad``: image 1 alone.

    Raises ValueError for a result without homography.
    """
    found = result.homography
    if not found:
        raise ValueError(f"there is no homography: {found.reason}")
    size0, shown = np.array(result.image0.size), photograph(result.image1)
    matrix = resize_homography(result.image1.size, shown.size) @ found.matrix
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) * size0 - 0.5
    sides = [np.linspace(*ends, 1000) for ends in pairwise(corners)]
    outline = through(matrix, shown.size)(np.concatenate(sides))
    rows, columns = np.mgrid[: shown.size[1], : shown.size[0]]
    pixels = np.stack([columns, rows], axis=-1).reshape(-1, 2)
    places = through(np.linalg.inv(matrix), result.image0.size)(pixels)
    inside = _inside(places, size0)[:, None]
    extent = np.nan_to_num(np.ptp(outline, axis=0).max(), nan=SIDE)
    small = reduce_image(result.image0, int(np.clip(extent, 8, SIDE)))  # else sampling would alias
    sampled = resize_points(np.where(inside, places, 0), result.image0.size, small.size)
    x, y = sampled.T.reshape(2, *rows.shape)
    warped = cv2.remap(small.pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    below = shown.photographs[0][0]
    above = np.where(inside.reshape(*rows.shape, 1), warped, below)
    square = max(8, max(small.size) // 8)
    odd = (rows // square + columns // square)[:, :, None] % 2 > 0
    grey0, grey1 = (cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (above, below))
    drawn = {
        "checkerboard": np.where(odd, above, below), "red-cyan": np.dstack([grey0, grey1, grey1]),
        "blend": cv2.addWeighted(above, 0.5, below, 0.5, 0), "quad": below,
    }  # fmt: skip
    seen = _inside(outline, np.array(shown.size))
    parts = np.split(outline, np.flatnonzero(~seen))  # each but the first begins outside
    runs = [part[_inside(part, np.array(shown.size))] for part in parts if len(part) > 1]
    strokes = Strokes(runs, BLACK, 6), Strokes(runs, _FRAME, 3)
    panels = [Picture(shown.size, ((np.asarray(drawn[one], np.uint8), (0, 0)),), strokes) for one in styles]
    rows_of_two = [arranged(panels[start : start + 2], across=True) for start in range(0, len(panels), 2)]
    image0, image1 = (
        f"image {n} ({Path(one.name).name})" for n, one in enumerate((result.image0, result.image1))
    )
    said = f"{image0} warped onto {image1} · {', '.join(styles)} · outline: the frame of image 0"
    if set(styles) == {"quad"}:
        said = f"the frame of {image0} in {image1}"
    return captioned(arranged(rows_of_two, across=False), said)


def _inside(points: NDArray[np.float64], size: NDArray[np.int_]) -> NDArray[np.bool_]:
    """(N,) which points (N, 2) lie within an image of (width, height); not those that are NaN."""
    return np.asarray((np.abs(points - (size - 1) / 2) <= size / 2).all(axis=1))
