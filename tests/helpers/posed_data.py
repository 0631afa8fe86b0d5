"""A made scene of points seen by three cameras, written in the layouts of the pose benchmarks."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from geomatch.images import Image
from geomatch.types import Features

Array = NDArray[np.float64]
SIZE = (324, 242)
"""(width, height); a quarter of ScanNet's."""
STEMS = ("11", "12", "13")
MATRICES = np.array(
    [[[f, 0, 162], [0, 1.02 * f, 121], [0, 0, 1]] for f in (300.0, 340.0, 280.0)]
)  # the principal point differs from the middle by what the origin makes of it
_LENS = -0.08
POINTS = np.random.default_rng(5).uniform([-1.5, -1, 4], [1.5, 1, 8], (60, 3))


def _pose(turn: tuple[float, float, float], shift: tuple[float, float, float]) -> Array:
    matrix = np.eye(4)
    matrix[:3, :3] = cv2.Rodrigues(np.array(turn, np.float64))[0]
    matrix[:3, 3] = shift
    return matrix


POSES = [
    _pose((0, 0, 0), (0, 0, 0)),
    _pose((0.05, 0.2, 0), (-1, 0.1, 0.2)),
    _pose((0, -0.15, 0.3), (1, 0, 0.3)),
]
"""(4, 4) from the world to each camera."""


def relative(one: int, two: int) -> Array:
    """(4, 4) from one camera to another."""
    return np.asarray(POSES[two] @ np.linalg.inv(POSES[one]))


def project(k: int, lens: float = 0.0) -> Array:
    """(N, 2) pixels as the camera's matrix counts them, with COLMAP's radial parameter."""
    seen = POINTS @ POSES[k][:3, :3].T + POSES[k][:3, 3]
    flat = seen[:, :2] / seen[:, 2:]
    flat = flat * (1 + lens * (flat**2).sum(1, keepdims=True))
    return np.asarray(flat @ MATRICES[k][:2, :2].T + MATRICES[k][:2, 2])


@dataclass(frozen=True)
class Knows:
    """A `PairMatcher` that knows where points lie in images of these names, or finds nothing."""

    shift: float = 0.0  # subtracted in every frame: 0.5 from pixels that count from the corner
    lens: float = 0.0
    count: int = len(POINTS)

    def match_images(self, image0: Image, image1: Image) -> tuple[Features, Features]:
        first, second = (self._features(image) for image in (image0, image1))
        return first, second

    def _features(self, image: Image) -> Features:
        points = project(STEMS.index(Path(image.name).stem), self.lens)
        points = points * (np.array(image.size) / SIZE) - self.shift
        return Features(points[: self.count], np.ones(len(points))[: self.count], image.size)


def _images(folder: Path) -> None:
    folder.mkdir(parents=True)
    for k, stem in enumerate(STEMS):
        pixels = np.random.default_rng(k).integers(0, 255, (*SIZE[::-1], 3), np.uint8)
        PILImage.fromarray(pixels).save(folder / f"{stem}.jpg")


PAIRS = ((0, 1), (1, 2), (0, 2))


def make_megadepth(folder: Path) -> Path:
    """Two index files, as old numpy pickled them; images 1 and 3 of the scene are not used."""
    _images(folder / "Undistorted_SfM" / "0015" / "images")
    for name, pairs in (("0015_0.1_0.3", PAIRS[:2]), ("0015_0.3_0.5", PAIRS[2:])):
        content: dict[str, Any] = {}
        paths = [f"Undistorted_SfM/0015/images/{stem}.jpg" for stem in STEMS]
        for key, values in (("image_paths", paths), ("poses", POSES), ("intrinsics", list(MATRICES))):
            content[key] = np.empty(5, object)
            for place, value in zip((0, 2, 4), values, strict=True):
                content[key][place] = value
        content["pair_infos"] = [((2 * i, np.int64(2 * k)), np.float64(0.2), None) for i, k in pairs]
        data = pickle.dumps(content, 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        (folder / f"{name}.npz").write_bytes(data)
    return folder


def make_scannet(folder: Path, own: bool = False) -> Path:
    """``intrinsics.npz`` for images of 640 x 480 as LoFTR has it, or each scene's ``own`` file."""
    scene = folder / "scans_test" / "scene0707_00"
    _images(scene / "color")
    names = [(707, 0, int(STEMS[i]), int(STEMS[k])) for i, k in PAIRS]
    poses = [relative(i, k)[:3].ravel() for i, k in PAIRS]
    np.savez(folder / "test.npz", name=np.array(names, np.uint16), rel_pose=np.array(poses, np.float32))
    if own:
        matrix = np.eye(4)
        matrix[:3, :3] = MATRICES[0]
        (scene / "intrinsic").mkdir()
        np.savetxt(scene / "intrinsic" / "intrinsic_color.txt", matrix)
    else:
        small = np.diag([640 / SIZE[0], 480 / SIZE[1], 1]) @ MATRICES[0]
        np.savez(folder / "intrinsics.npz", scene0707_00=small.astype(np.float32))
    return folder


def make_list(folder: Path) -> Path:
    """SuperGlue's 38 columns, beside a text that is no list."""
    _images(folder / "images")
    lines = [
        [f"images/{STEMS[i]}.jpg", f"images/{STEMS[k]}.jpg", 0, 0,
         *MATRICES[i].ravel(), *MATRICES[k].ravel(), *relative(i, k).ravel()]
        for i, k in PAIRS
    ]  # fmt: skip
    (folder / "pairs_with_gt.txt").write_text("\n".join(" ".join(map(str, line)) for line in lines) + "\n")
    (folder / "README.txt").write_text("About\n")
    return folder


def make_model(folder: Path) -> Path:
    """COLMAP's text files, with distortion; image 0 and 2 share too few points for a pair."""
    _images(folder / "images")
    (folder / "sparse" / "0").mkdir(parents=True)
    cameras, images, points = [], [], []
    for k, (stem, pose, m) in enumerate(zip(STEMS, POSES, MATRICES, strict=True), 1):
        numbers = [m[0, 0], m[1, 1], m[0, 2], m[1, 2], _LENS, 0, 0, 0]
        cameras.append(f"{k} OPENCV {SIZE[0]} {SIZE[1]} " + " ".join(map(str, numbers)))
        turn = cv2.Rodrigues(pose[:3, :3])[0].ravel()
        angle = float(np.linalg.norm(turn))
        axis = turn / angle if angle else turn
        quaternion = [np.cos(angle / 2), *(np.sin(angle / 2) * axis)]
        images.append(f"{k} {' '.join(map(str, [*quaternion, *pose[:3, 3]]))} {k} {stem}.jpg")
        seen = project(k - 1, _LENS)
        images.append(" ".join(f"{x} {y} {n}" for n, (x, y) in enumerate(seen.tolist(), 1)))
    for n, point in enumerate(POINTS.tolist(), 1):
        track = (1, 2) if n % 2 else (2, 3)
        elements = " ".join(f"{k} {n - 1}" for k in track)
        points.append(f"{n} {' '.join(map(str, point))} 0 0 0 0.1 {elements}")
    for k in (1, 3):  # a point is in the tracks of its image only
        rows = images[2 * k - 1].split(" ")
        images[2 * k - 1] = " ".join(
            part if place % 3 != 2 or (int(part) % 2 == (k == 1)) else "-1" for place, part in enumerate(rows)
        )
    for name, lines in (("cameras", cameras), ("images", images), ("points3D", points)):
        (folder / "sparse" / "0" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder
