"""Features that somebody else's program has written, so that anybody's method can be scored."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geomatch.colmap.formats.hloc import image_arrays
from geomatch.errors import FeaturesError, reading
from geomatch.files import fingerprint_of, read_npz, sha256_of
from geomatch.places import user_path
from geomatch.provenance import settings_key
from geomatch.types import Features


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
