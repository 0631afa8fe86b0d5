"""A result on disk and on the screen."""

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.draw import draw_matches, draw_overlay
from geomatch.files import replacing
from geomatch.images import Image
from geomatch.pipeline import MatchResult


def save_result(image0: Image, image1: Image, result: MatchResult, folder: Path) -> list[Path]:
    """Write ``result.json``, ``matches.npz``, ``matches.png`` and, with a homography, ``overlay.png``.

    Returns:
        The paths written. An ``overlay.png`` of an earlier result does not
        survive a failure.

    Raises:
        OSError: when the folder cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "result.json", folder / "matches.npz", folder / "matches.png"]
    with replacing(written[0]) as temporary:
        temporary.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    inliers = result.homography.inliers if result.homography else np.zeros(len(result.matches), np.bool_)
    with replacing(written[1]) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            indices=result.matches.indices,
            similarity=result.matches.similarity,
            points0=result.points0,
            points1=result.points1,
            inliers=inliers,
        )
    _write_png(written[2], draw_matches(image0, image1, result))
    overlay = folder / "overlay.png"
    if result.homography:
        _write_png(overlay, draw_overlay(image0, image1, result.homography))
        written.append(overlay)
    else:
        overlay.unlink(missing_ok=True)
    return written


def summary(result: MatchResult) -> str:
    """A few lines for the screen."""
    settings, found = result.settings, result.homography
    descriptor = settings["descriptor"]
    config = descriptor.get("config", {}) if isinstance(descriptor, dict) else {}
    name = config.get("model", descriptor)
    if config:
        name = f"{name} ({config['sampling']}, t={config['timestep']})"
    detector = settings["detector"]
    kind = detector.get("feature", detector["type"]) if isinstance(detector, dict) else detector
    lines = [
        f"keypoints   {len(result.features0)} and {len(result.features1)} ({kind})",
        f"descriptor  {name}",
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


def _write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    with replacing(path) as temporary:
        if not cv2.imwrite(str(temporary), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)):
            raise OSError(f"OpenCV could not write {path}")
