"""Pictures of what was found between two images: the matches, and image 0 warped onto image 1."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.drawing import canvas
from geomatch.estimators.two_view import transfer_errors
from geomatch.geometry import image_corners, resize_homography, resize_points, warp_points
from geomatch.images import reduce_image
from geomatch.keypoints.detector import spread
from geomatch.results import MatchResult
from geomatch.types import HomographyEstimate, RelativePose, TwoViewGeometry

Style = Literal["checkerboard", "red-cyan", "blend", "quad"]
_MOST, _MOST_WRONG = 150, 50  # lines between inliers and others; more would hide the photographs
_WIDEST = 3.6  # by the height: wider pairs stand one below the other
_GREY, _FRAME = (200, 200, 200), (255, 190, 0)
_ERRORS = canvas.colour_map(cv2.COLORMAP_VIRIDIS)[:50:-1]  # yellow, green, blue


def draw_matches(result: MatchResult) -> canvas.Picture:
    """Both images, inliers coloured by their error, some other matches in grey, and the counts below.

    Without a geometry all are grey, and the reason stands below. A relative pose has no errors in pixels: its
    inliers have one colour.
    """
    found, images = result.geometry, (result.image0, result.image1)
    shown = [canvas.framed(canvas.photograph(image)) for image in images]
    wide = shown[0].size[0] + shown[1].size[0] > _WIDEST * max(one.size[1] for one in shown)
    pair = canvas.arranged(shown, across=not wide)
    sides = zip((result.points0, result.points1), images, shown, pair.parts, strict=True)
    ends = [resize_points(points, image.size, one.size) + place for points, image, one, (_, place) in sides]
    paths = np.stack(ends, axis=1)
    inliers = found.inliers if found else np.zeros(len(paths), np.bool_)
    right = _spread(ends[0], inliers, _MOST)
    wrong = _spread(ends[0], ~inliers, _MOST_WRONG if found else _MOST)
    lines = [canvas.Line(paths[index], _GREY, 1) for index in wrong]
    levels, legends, errors = np.zeros(len(paths)), [], _errors(result)
    if errors is not None:
        made = result.settings["estimator"] or result.settings["model"]
        limit = made.get("threshold") if isinstance(made, dict) else None
        limit = max(limit or errors[inliers].max(), 1e-9)
        levels = np.clip(errors / limit, 0, 1)
        legends = [canvas.legend(_ERRORS, "0", "error of inliers", f"{limit:.3g} px")]
    for index in right[::-1]:  # the best are on top
        colour = tuple(_ERRORS[int(levels[index] * (len(_ERRORS) - 1))].tolist())
        for end in paths[index]:
            lines += [canvas.Line([end, end], canvas.BLACK, 9), canvas.Line([end, end], colour, 7)]
        lines.append(canvas.Line(paths[index], colour, 2))
    caption = _counts(result, errors, len(right) if found else len(lines))
    return canvas.captioned(replace(pair, marks=tuple(lines)), caption, *legends)


def _spread(points: NDArray[np.floating], which: NDArray[np.bool_], most: int) -> NDArray[np.intp]:
    """Indices of at most so many of these points (N, 2) that lie apart, from all over the image."""
    chosen = np.flatnonzero(which)
    if len(chosen) > most:
        area = np.prod(np.ptp(points[chosen], axis=0))
        chosen = chosen[spread(points[chosen], max(1.0, float(np.sqrt(area / most / 2))))]
    return chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), most)).astype(np.intp)]


def _errors(result: MatchResult) -> NDArray[np.float64] | None:
    """(M,) pixels of image 1, of a fundamental matrix from the epipolar lines; None without such errors."""
    match result.geometry:
        case HomographyEstimate() | TwoViewGeometry(config="uncalibrated" | "planar") as found:
            return transfer_errors(found, result.points0, result.points1)
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
    asked = result.settings["model"]
    return str(getattr(result.geometry, "model", None) or asked.get("name", asked["type"].lower()))


def draw_overlay(result: MatchResult, styles: Sequence[Style] = ("checkerboard",)) -> canvas.Picture:
    """Image 0 warped onto image 1, with the outline of image 0; a panel for each style.

    - ``checkerboard``: squares of both in turn.
    - ``red-cyan``: image 0 in red, image 1 in cyan, so that they give grey where they agree.
    - ``blend``: the mean of both.
    - ``quad``: image 1 alone.

    Raises ValueError for a result without homography.
    """
    found, image0, below = result.homography, result.image0, canvas.photograph(result.image1)
    if not found:
        raise ValueError(f"there is no homography: {found.reason}")
    size = (below.shape[1], below.shape[0])
    matrix = resize_homography(result.image1.size, size) @ found.matrix
    corners = warp_points(matrix, image_corners(image0.size)[[0, 1, 2, 3, 0]]).clip(-1e6, 1e6)
    extent = np.ptp(corners, axis=0).max()
    small = reduce_image(image0, int(np.clip(extent, 8, canvas.SIDE)))  # else sampling would alias
    above, warp = below.copy(), matrix @ resize_homography(small.size, image0.size)
    cv2.warpPerspective(small.pixels, warp, size, above, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT)
    rows, columns = np.indices((*below.shape[:2], 1))[:2] // max(8, max(small.size) // 8)
    grey0, grey1 = (cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (above, below))
    drawn = {
        "checkerboard": np.where((rows + columns) % 2, above, below), "quad": below,
        "red-cyan": np.dstack([grey0, grey1, grey1]), "blend": cv2.addWeighted(above, 0.5, below, 0.5, 0),
    }  # fmt: skip
    sides = [cv2.clipLine((0, 0, *size), *ends) for ends in pairwise(np.round(corners).astype(int).tolist())]
    kinds = (canvas.BLACK, 6), (_FRAME, 3)
    lines = [canvas.Line(ends, *kind) for kind in kinds for seen, *ends in sides if seen]
    panels = [canvas.framed(drawn[style], *lines) for style in styles]
    grid = [canvas.arranged(panels[start : start + 2], across=True) for start in range(0, len(panels), 2)]
    names = [f"image {n} ({Path(image.name).name})" for n, image in enumerate((image0, result.image1))]
    text = f"{' warped onto '.join(names)} · {', '.join(styles)} · outline: the frame of image 0"
    return canvas.captioned(canvas.arranged(grid, across=False), text)
