"""What scripts get: OpenCV's `findHomography` and ours on the same matches, right, wrong, and refused.

``python -m geomatch.benchmarks.studies.opencv_scripts FOLDER...`` reads pairs whose truth is known, folders
of HPatches (``1.ppm``, ``H_1_2``, ...) and of WxBS (``01.png``, ``corrs.txt``, ...) at any depth. The second
image of each is also matched with the first of every later one: unrelated, so that every answer is wrong.
"""

import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch import opencv
from geomatch.benchmarks.studies.record import Row, markdown, study_parser, write_record
from geomatch.geometry import image_corners, warp_points

RATIO, THRESHOLD, KEYPOINTS = 0.8, 3.0, 2000
RIGHT, WRONG = 10.0, 50.0  # pixels: at most, and more than
SCRIPTS: dict[str, tuple[str, Any]] = {
    "SIFT, ratio test, `cv2.findHomography`": ("sift", cv2.findHomography),
    "SIFT, ratio test, `geomatch.opencv.findHomography`": ("sift", opencv.findHomography),
    "`DIFT_create`, `crossCheck`, `geomatch.opencv.findHomography`": ("dift", opencv.findHomography),
}
Pair = tuple[str, Path, Path, NDArray[np.float64] | None]
"""Name, two images, and points (N, 4) x0 y0 x1 y1 that belong together; None for unrelated images."""


def pairs_of(folders: Sequence[Path]) -> Iterator[Pair]:
    """Those of every scene, then the unrelated ones."""
    found = sorted(path for folder in folders for path in folder.rglob("*") if path.stem in ("1", "01"))
    for first in found:
        scene = first.parent
        for path in sorted(scene.glob("H_1_*")):
            height, width = cv2.imread(str(first), cv2.IMREAD_GRAYSCALE).shape  # type: ignore[union-attr]
            corners = image_corners((width, height))
            truth = np.hstack([corners, warp_points(np.loadtxt(path), corners)])
            yield f"{scene.name} {path.name}", first, scene / f"{path.name[4:]}{first.suffix}", truth
        if (scene / "corrs.txt").exists():
            yield scene.name, first, scene / f"02{first.suffix}", np.loadtxt(scene / "corrs.txt")
    for one, other in combinations(found, 2):
        yield f"{one.parent.name}, {other.parent.name}", one.with_stem(one.stem[:-1] + "2"), other, None


@cache
def _features(kind: str, path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    sift: Any = cv2.SIFT_create()  # type: ignore[attr-defined]
    feature = sift if kind == "sift" else opencv.DIFT_create(KEYPOINTS)
    keypoints, descriptors = feature.detectAndCompute(cv2.imread(str(path)), None)
    return cv2.KeyPoint.convert(keypoints), descriptors  # type: ignore[call-overload, no-any-return]


def measure(pair: Pair, method: int) -> Row:
    """The median error in pixels at the true points under each script's matrix; None where it has none."""
    name, path0, path1, truth = pair
    row: Row = {"name": name, "related": truth is not None}
    for script, (kind, find) in SCRIPTS.items():
        (points0, rows0), (points1, rows1) = _features(kind, path0), _features(kind, path1)
        if kind == "sift":
            near = cv2.BFMatcher().knnMatch(rows0, rows1, k=2)
            matches = [first for first, second in near if first.distance < RATIO * second.distance]
        else:
            matches = list(opencv.BFMatcher(crossCheck=True).match(rows0, rows1))
        matrix, row[script] = None, None
        if len(matches) >= 4:
            source = points0[[match.queryIdx for match in matches]]
            target = points1[[match.trainIdx for match in matches]]
            matrix, _ = find(source, target, method, THRESHOLD)
        if matrix is not None:
            errors = [1e6] if truth is None else warp_points(matrix, truth[:, :2]) - truth[:, 2:]
            row[script] = round(min(1e6, float(np.median(np.linalg.norm(errors, axis=-1)))), 2)
    return row


def table(rows: Sequence[Row]) -> str:
    """One line per script."""
    related = [row for row in rows if row["related"]]
    lines = []
    for script in SCRIPTS:
        errors = [row[script] for row in related if row[script] is not None]
        right, wrong = sum(error <= RIGHT for error in errors), sum(error > WRONG for error in errors)
        fooled = sum(row[script] is not None for row in rows if not row["related"])
        lines.append((script, *map(str, (right, wrong, len(related) - len(errors), fooled))))
    heads = f"within {RIGHT:.0f} px", f"more than {WRONG:.0f} px off", "refused"
    unrelated = f"{len(rows) - len(related)} unrelated pairs: answered"
    return markdown(("script", f"{len(related)} pairs: {heads[0]}", *heads[1:], unrelated), lines)


if __name__ == "__main__":
    parser = study_parser("opencv_scripts", __doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--method", default="RANSAC", help="a robust method of OpenCV")
    options = parser.parse_args()
    warnings.simplefilter("ignore", opencv.HomographyWarning)
    rows = []
    for pair in pairs_of(options.folders):
        rows.append(measure(pair, getattr(cv2, options.method)))
        print(rows[-1], flush=True)
    settings = {"method": options.method, "ratio": RATIO, "threshold": THRESHOLD, "keypoints": KEYPOINTS}
    write_record(options.out, "opencv-scripts", rows, settings, [table(rows)])
