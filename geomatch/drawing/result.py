"""A match result as files, as pictures, and as lines for the screen."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.files import make_folder, replacing, write_whole
from geomatch.geometry import resize_points, warp_points
from geomatch.images import reduce_image, write_png
from geomatch.results import MatchResult
from geomatch.types import HomographyEstimate, RelativePose

PICTURE_SIDE = 1280
"""Images are reduced to this long side before drawing."""
MAX_LINES = 150
"""Best inliers drawn; more would hide the photographs."""
RIGHT, WRONG = (60, 220, 90), (230, 80, 70)


def save_result(result: MatchResult, folder: Path) -> list[Path]:
    """Write ``result.json``, ``matches.npz``, ``matches.png`` and, with a homography, ``overlay.png``.

    Without one the ``overlay.png`` of an earlier result is removed. The paths written are returned.
    """
    make_folder(folder)
    written = [folder / "result.json", folder / "matches.npz", folder / "matches.png"]
    write_whole(written[0], json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n")
    inliers = result.geometry.inliers if result.geometry else np.zeros(len(result.matches), np.bool_)
    with replacing(written[1]) as temporary:
        np.savez_compressed(
            temporary,
            indices=result.matches.indices,
            similarity=result.matches.similarity,
            points0=result.points0,
            points1=result.points1,
            inliers=inliers,
        )
    write_png(written[2], draw_matches(result))
    overlay = folder / "overlay.png"
    if result.homography:
        write_png(overlay, draw_overlay(result))
        written.append(overlay)
    else:
        overlay.unlink(missing_ok=True)
    return written


def summary(result: MatchResult) -> str:
    """Summarise a result in a few lines."""
    found = result.geometry
    detector, descriptor = result.settings["detector"], result.settings["descriptor"]
    matcher = result.settings["matching"]["matcher"]
    lines = [
        *(f"image {n}     {one.note}" for n, one in enumerate((result.image0, result.image1)) if one.note),
        f"keypoints   {len(result.features0)} and {len(result.features1)} ({_name(detector)})",
        f"descriptor  {_name(descriptor)}",
        f"matches     {len(result.matches)} ({_name(matcher)}), inliers {found.num_inliers}",
    ]
    if tilts := result.settings["tilts"]:
        lines.append(f"views       tilts of {', '.join(f'{tilt:g}' for tilt in tilts)} were searched")
    model = result.settings["model"].get("name", result.settings["model"]["type"].lower())
    if isinstance(found, RelativePose):
        lines += [f"rotation    (camera 0 to 1), uncertain by {found.rotation_deviation:.2g} degrees"]
        lines += _rows(found.rotation)
        if found.translation is not None:
            shift = f"its direction uncertain by {found.translation_deviation:.2g} degrees"
            lines += [f"translation (camera 0 to 1), {shift}", *_rows(found.translation[None])]
        if found.second is not None:
            lines += ["second      (rotation and translation)", *_rows(found.second)]
    elif found:
        model = found.model if isinstance(found, HomographyEstimate) else model
        lines += [f"{model:11} (image 0 to image 1)", *_rows(found.matrix)]
    if isinstance(found, HomographyEstimate):
        if model != "homography":
            spread = found.parameter_deviations
            each = (f"{name} {value:.6g} +- {spread[name]:.2g}" for name, value in found.parameters.items())
            lines += [f"parameters  {', '.join(each)}"] * bool(spread)
        if found.corner_deviations is not None:
            corners = ", ".join(f"{deviation:.2g}" for deviation in found.corner_deviations)
            lines.append(
                f"corners     uncertain by {corners} px (standard deviation, clockwise from the first)"
            )
        if found.score is not None:
            lines.append(f"score       {found.score:.2f} (probability of less than 1 % of the diagonal)")
    if found:
        lines += [f"remark      {remark}" for remark in found.remarks]
    else:
        lines.append(f"{model:11} not found: {found.reason}")
    if note := result.settings["cameras"]:
        lines.append(f"remark      {note}")
    if result.settings["remark"]:
        lines.append(f"remark      {result.settings['remark']}")
    spent = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in result.seconds.items())
    lines.append(f"seconds     {sum(result.seconds.values()):.2f} ({spent})")
    return "\n".join(lines)


def _rows(matrix: NDArray[np.float64]) -> list[str]:
    return ["  ".join(f"{value: .6g}".rjust(13) for value in row) for row in matrix]


def _name(part: Any) -> str:
    """The name of a recorded detector, descriptor or matcher."""
    if not isinstance(part, dict):
        return str(part)
    if part["type"] == "DIFTExtractor":
        config = part["config"]
        return f"{config['model']} ({config['sampling']}, t={config['timestep']})"
    return str(part["feature"] if part["type"] == "OpenCVDetector" else part.get("name", part["type"]))


def draw_matches(result: MatchResult) -> NDArray[np.uint8]:
    """Both images side by side, (H, W, 3) RGB, with lines between inliers, or all matches."""
    chosen, colour = np.arange(len(result.matches)), WRONG
    if result.geometry:
        chosen, colour = np.flatnonzero(result.geometry.inliers), RIGHT
    chosen = chosen[:MAX_LINES]
    small0, small1 = (reduce_image(image, PICTURE_SIDE) for image in (result.image0, result.image1))
    points0 = resize_points(result.points0[chosen], result.features0.image_size, small0.size)
    points1 = resize_points(result.points1[chosen], result.features1.image_size, small1.size)
    fresh: Any = None  # which OpenCV's type stubs do not know
    canvas = cv2.drawMatches(
        small0.pixels,
        [cv2.KeyPoint(x, y, 1.0) for x, y in points0.tolist()],
        small1.pixels,
        [cv2.KeyPoint(x, y, 1.0) for x, y in points1.tolist()],
        [cv2.DMatch(index, index, 0.0) for index in range(len(chosen))],
        fresh,
        matchColor=colour,
        flags=cv2.DRAW_MATCHES_FLAGS_NOT_DRAW_SINGLE_POINTS,
    )
    return np.asarray(canvas, np.uint8)


def draw_overlay(result: MatchResult) -> NDArray[np.uint8]:
    """Image 1 warped onto image 0, half and half, (H, W, 3) RGB; image 0 alone where image 1 ends.

    Raises ValueError for a result without homography.
    """
    if not result.homography:
        raise ValueError(f"there is no homography: {result.homography.reason}")
    small0, small1 = (reduce_image(image, PICTURE_SIDE) for image in (result.image0, result.image1))
    rows, columns = np.mgrid[: small0.size[1], : small0.size[0]]
    points = np.stack([columns, rows], axis=-1).reshape(-1, 2)
    whole = resize_points(points, small0.size, result.features0.image_size)
    places = warp_points(result.homography.matrix, whole)
    shown = resize_points(places, result.features1.image_size, small1.size)
    x, y = np.clip(shown, -2, np.array(small1.size) + 1).astype(np.float32).T.reshape(2, *rows.shape)
    warped = cv2.remap(small1.pixels, x, y, cv2.INTER_LINEAR)
    covered = cv2.remap(np.ones(small1.pixels.shape[:2], np.float32), x, y, cv2.INTER_LINEAR)
    share = 0.5 * covered[:, :, None]
    mixed = small0.pixels * (1 - share) + warped * share
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8)
