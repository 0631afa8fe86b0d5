"""What scripts get: OpenCV's `findHomography` and ours on the same matches, right, wrong, and refused.

``python -m geomatch.benchmarks.studies.opencv_scripts FOLDER...`` reads pairs with known truth, in folders at
any depth: HPatches (``1.ppm``, ``H_1_2``, ...; error at the corners), WxBS (``01.png``, ``corrs.txt``, ...;
at the marked points) and ``pairs_with_gt.txt`` (38 columns, as for SuperGlue; distance from the true epipolar
lines over the whole image, since such scenes have depth). The second image of each scene of the first two is
also matched with the first of every later one: unrelated, so that every answer is wrong.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
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
Matrix = NDArray[np.float64]
Pair = tuple[str, Path, Path, Callable[[Matrix], float] | None]
"""Name, two images, and the median error of a homography in pixels; None for unrelated images."""


def pairs_of(folders: Sequence[Path]) -> Iterator[Pair]:
    """Those of every scene, then the unrelated ones."""
    paths = sorted(path for folder in folders for path in folder.rglob("*"))
    firsts = [path for path in paths if path.stem in ("1", "01")]
    for first in firsts:
        scene = first.parent
        for path in sorted(scene.glob("H_1_*")):
            corners = image_corners(_size(first))
            truth = np.hstack([corners, warp_points(np.loadtxt(path), corners)])
            name = f"{scene.name} {path.name}"
            yield name, first, scene / f"{path.name[4:]}{first.suffix}", partial(_transfer_error, truth)
        if (scene / "corrs.txt").exists():
            truth = np.loadtxt(scene / "corrs.txt")
            yield scene.name, first, scene / f"02{first.suffix}", partial(_transfer_error, truth)
    for path in (path for path in paths if path.name == "pairs_with_gt.txt"):
        for name0, name1, *rest in map(str.split, path.read_text("utf-8").splitlines()):
            k0, k1, pose = np.split(np.array(rest[2:], np.float64), [9, 18])
            rotation, (x, y, z) = pose.reshape(4, 4)[:3, :3], pose.reshape(4, 4)[:3, 3]
            essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
            inverse0, inverse1 = (np.linalg.inv(k.reshape(3, 3)) for k in (k0, k1))
            first = path.parent / name0
            error = partial(_epipolar_error, inverse1.T @ essential @ inverse0, _size(first))
            yield f"{name0}, {name1}", first, path.parent / name1, error
    for one, other in combinations(firsts, 2):
        yield f"{one.parent.name}, {other.parent.name}", one.with_stem(one.stem[:-1] + "2"), other, None


def _size(path: Path) -> tuple[int, int]:
    height, width = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).shape  # type: ignore[union-attr]
    return width, height


def _transfer_error(truth: Matrix, matrix: Matrix) -> float:
    """At points x0 y0 x1 y1 (N, 4)."""
    return float(np.median(np.linalg.norm(warp_points(matrix, truth[:, :2]) - truth[:, 2:], axis=1)))


def _epipolar_error(fundamental: Matrix, size: tuple[int, int], matrix: Matrix) -> float:
    """On a grid over the first image."""
    grid = np.stack(np.meshgrid(*(np.linspace(0, side - 1, 12) for side in size)), -1).reshape(-1, 2)
    lines = np.column_stack([grid, np.ones(len(grid))]) @ fundamental.T
    products = (lines[:, :2] * warp_points(matrix, grid)).sum(axis=1) + lines[:, 2]
    return float(np.median(np.abs(products) / np.linalg.norm(lines[:, :2], axis=1)))


@cache
def _features(kind: str, path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    sift: Any = cv2.SIFT_create()  # type: ignore[attr-defined]
    feature = sift if kind == "sift" else opencv.DIFT_create(KEYPOINTS)
    keypoints, descriptors = feature.detectAndCompute(cv2.imread(str(path)), None)
    return cv2.KeyPoint.convert(keypoints), descriptors  # type: ignore[call-overload, no-any-return]


def measure(pair: Pair, method: int) -> Row:
    """The error in pixels of each script's matrix; None where it has none."""
    name, path0, path1, error_of = pair
    row: Row = {"name": name, "related": error_of is not None}
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
            row[script] = round(min(1e6, error_of(matrix) if error_of else 1e6), 2)
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
    rows = []
    for pair in pairs_of(options.folders):
        rows.append(measure(pair, getattr(cv2, options.method)))
        print(rows[-1], flush=True)
    settings = {"method": options.method, "ratio": RATIO, "threshold": THRESHOLD, "keypoints": KEYPOINTS}
    write_record(options.out, "opencv-scripts", rows, settings, [table(rows)])
