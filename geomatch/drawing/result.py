"""A match result as files, as pictures, and as lines for the screen."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.drawing.canvas import FORMATS
from geomatch.drawing.pair import Style, draw_matches, draw_overlay, model_of
from geomatch.files import make_folder, replacing, write_whole
from geomatch.results import MatchResult
from geomatch.types import HomographyEstimate, RelativePose

_PICTURES = tuple(f"{name}.{suffix}" for name in ("matches", "overlay") for suffix in FORMATS)
FILES = ("result.json", "matches.npz", *_PICTURES)
"""All that `save_result` may write or remove."""


def save_result(
    result: MatchResult, folder: Path, styles: Sequence[Style] = ("checkerboard",), suffix: str = "png"
) -> list[Path]:
    """Write ``result.json``, ``matches.npz``, ``matches.png`` and, with a homography, ``overlay.png``.

    ``styles`` are those of `draw_overlay`, ``suffix`` is one of `FORMATS`. Such pictures of an earlier result
    are removed. The paths written are returned.
    """
    make_folder(folder)
    written = [folder / "result.json", folder / "matches.npz", folder / f"matches.{suffix}"]
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
    draw_matches(result).write(written[2])
    if result.homography:
        written.append(folder / f"overlay.{suffix}")
        draw_overlay(result, styles).write(written[3])
    for name in _PICTURES:
        if folder / name not in written:
            (folder / name).unlink(missing_ok=True)
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
    model = model_of(result)
    if isinstance(found, RelativePose):
        lines += [f"rotation    (camera 0 to 1), uncertain by {found.rotation_deviation:.2g} degrees"]
        lines += _rows(found.rotation)
        if found.translation is not None:
            shift = f"its direction uncertain by {found.translation_deviation:.2g} degrees"
            lines += [f"translation (camera 0 to 1), {shift}", *_rows(found.translation[None])]
        if found.second is not None:
            lines += ["second      (rotation and translation)", *_rows(found.second)]
    elif found:
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
    if not found:
        lines.append(f"{model:11} not found: {found.reason}")
    remarks = [*(found.remarks if found else ()), result.settings["cameras"], result.settings["remark"]]
    lines += [f"remark      {remark}" for remark in remarks if remark]
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
