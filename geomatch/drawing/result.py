"""A result on disk and on the screen."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.drawing.pairs import draw_matches, draw_overlay
from geomatch.files import replacing
from geomatch.pipeline import MatchResult


def save_result(result: MatchResult, folder: Path) -> list[Path]:
    """Write ``result.json``, ``matches.npz``, ``matches.png`` and, with a homography, ``overlay.png``.

    Returns:
        The paths written. An ``overlay.png`` of an earlier result does not
        survive a failure.

    Raises:
        OSError: when the folder cannot be made or written.
    """
    make_folder(folder)
    written = [folder / "result.json", folder / "matches.npz", folder / "matches.png"]
    with replacing(written[0]) as temporary:
        temporary.write_text(json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    inliers = result.homography.inliers if result.homography else np.zeros(len(result.matches), np.bool_)
    with replacing(written[1]) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            indices=result.matches.indices,
            similarity=result.matches.similarity,
            points0=result.points0,
            points1=result.points1,
            inliers=inliers,
        )
    write_png(written[2], draw_matches(result))
    overlay = folder / "overlay.png"
    if result.homography:
        write_png(overlay, draw_overlay(result.image0, result.image1, result.homography))
        written.append(overlay)
    else:
        overlay.unlink(missing_ok=True)
    return written


def summary(result: MatchResult) -> str:
    """A few lines for the screen."""
    found = result.homography
    detector, descriptor = result.settings["detector"], result.settings["descriptor"]
    lines = [
        f"keypoints   {len(result.features0)} and {len(result.features1)} ({_name(detector)})",
        f"descriptor  {_name(descriptor)}",
        f"matches     {len(result.matches)}, inliers {found.num_inliers}",
    ]
    if found:
        rows = ["  ".join(f"{value: .6g}".rjust(13) for value in row) for row in found.matrix]
        lines += ["homography  (image 0 to image 1)", *rows]
    else:
        lines.append(f"homography  not found: {found.reason}")
    spent = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in result.seconds.items())
    lines.append(f"seconds     {sum(result.seconds.values()):.2f} ({spent})")
    return "\n".join(lines)


def make_folder(folder: Path) -> None:
    """Create the folder for results.

    Raises:
        OSError: when there is a file of that name, or no permission.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OSError(f"{folder} is a file; give a folder for the results") from error


def _name(part: Any) -> str:
    """Of a recorded detector or descriptor."""
    if not isinstance(part, dict):
        return str(part)
    if part["type"] == "DIFTExtractor":
        config = part["config"]
        return f"{config['model']} ({config['sampling']}, t={config['timestep']})"
    return str(part["feature"] if part["type"] == "OpenCVDetector" else part["type"])


def write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write a picture (H, W, 3) RGB."""
    # OpenCV writes no file itself: it crashes on names that are not UTF-8
    _, code = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    with replacing(path) as temporary:
        temporary.write_bytes(code.tobytes())
