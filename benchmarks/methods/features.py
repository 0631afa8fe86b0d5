"""Where features come from besides geomatch: OpenCV, and files that somebody else's program has written."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np

from geomatch.colmap.formats.hloc import image_arrays
from geomatch.errors import FeaturesError, MissingDependencyError, reading
from geomatch.files import fingerprint_of, read_npz, sha256_of
from geomatch.images import Image
from geomatch.keypoints.detector import no_keypoints, select_best
from geomatch.keypoints.opencv import available_opencv_detectors, create_feature2d
from geomatch.opencv.convert import from_keypoints
from geomatch.places import user_path
from geomatch.provenance import settings_key
from geomatch.types import Features

MIN_SIDE = 32  # images with a shorter side have no keypoints: OpenCV fails


@dataclass(frozen=True)
class OpenCVFeatures:
    """SIFT, RootSIFT, ORB or AKAZE of OpenCV; binary descriptors become one number per bit."""

    name: Literal["sift", "rootsift", "orb", "akaze"]
    max_keypoints: int = 2000
    reentrant: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.name.removeprefix("root") not in available_opencv_detectors():
            raise MissingDependencyError(f"OpenCV {cv2.__version__} has no {self.name}")

    def detect(self, image: Image) -> Features:
        """Keypoints with descriptors, scale and orientation."""
        if min(image.size) < MIN_SIDE:
            return no_keypoints(image)
        grey = cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY)
        feature2d: Any = create_feature2d(self.name.removeprefix("root"))
        if self.name == "orb":
            feature2d.setMaxFeatures(self.max_keypoints)
        found, rows = feature2d.detectAndCompute(grey, None)
        if rows is None or not len(found):
            return no_keypoints(image)
        descriptors = (np.unpackbits(rows, axis=1) if rows.dtype == np.uint8 else rows).astype(np.float32)
        if self.name == "rootsift":  # Arandjelovic, Zisserman, 2012
            descriptors = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-12))
        return select_best(from_keypoints(found, image.size, descriptors), self.max_keypoints)


@dataclass(frozen=True)
class FeatureFiles:
    """Keypoints and descriptors in files, in pixels of the original images, pixel centres at integers.

    ``npz``: ``ROOT/<sequence>/<image>.<suffix>`` with ``keypoints`` (N, 2 or more), ``descriptors``
    (N, D) and perhaps ``scores`` (N,), as D2-Net's notebook reads them (``np.savez`` files). ``h5``:
    one file with a group ``<sequence>/<image>`` holding ``keypoints`` (N, 2), ``descriptors`` (D, N)
    and perhaps ``scores``, as hloc writes them. Without scores the order of the file is that of merit.
    ``<sequence>`` is the folder of the image, or the one above ``images`` or ``color``.
    """

    kind: Literal["npz", "h5"]
    root: str  # the folder, or the h5 file
    suffix: str = ""  # the method's name in the names of npz files
    max_keypoints: int = 2000

    def cache_key(self) -> Any:
        """The settings, and the files by their content."""
        root = user_path(self.root)
        if self.kind == "h5":
            if not root.is_file():
                raise FeaturesError(f"{root}: no such file of features")
            return [settings_key(self, leave_out=("root",)), sha256_of(root)]
        files = sorted(root.glob(f"*/*.{self.suffix}")) if self.suffix else []
        if not files:
            raise FeaturesError(f"{root}: no files of features <sequence>/<image>.{self.suffix} there")
        return [settings_key(self, leave_out=("root",)), fingerprint_of(files)]

    def read(self, image: Path, size: tuple[int, int]) -> Features:
        """Features of one image file, best first."""
        own = image.parent.parent if image.parent.name in ("images", "color") else image.parent
        name = f"{own.name}/{image.name}"
        path = user_path(self.root)
        if self.kind == "npz":
            path = path / f"{name}.{self.suffix}"
            with reading(path, ".npz file of features", FeaturesError):
                arrays = read_npz(path.read_bytes())
                found = _features(arrays, arrays["descriptors"], size)
        else:
            with image_arrays(path, name) as arrays:
                found = _features(arrays, arrays["descriptors"].T, size)
        return found[np.argsort(-found.scores, kind="stable")[: self.max_keypoints]]


def _features(arrays: Mapping[str, Any], descriptors: Any, size: tuple[int, int]) -> Features:
    points = np.asarray(arrays["keypoints"], np.float32)[:, :2]
    scores = np.asarray(arrays.get("scores", -np.arange(len(points))), np.float32).reshape(-1)
    return Features(points, scores, size, descriptors=np.asarray(descriptors, np.float32))
