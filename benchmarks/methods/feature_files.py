"""Features that somebody else's program has written, so that anybody's method can be scored."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geomatch.errors import FeaturesError, ShapeError, require
from geomatch.files import fingerprint_of, sha256_of
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
        name = f"{image.parent.name}/{image.name}"
        arrays = self._npz(name) if self.kind == "npz" else self._h5(name)
        try:
            points = np.asarray(arrays["keypoints"], np.float32)[:, :2]
            scores = np.asarray(arrays.get("scores", -np.arange(len(points))), np.float32).reshape(-1)
            descriptors = np.asarray(arrays["descriptors"], np.float32)
            found = Features(points, scores, size, descriptors=descriptors)
        except (KeyError, IndexError, TypeError, ValueError, ShapeError) as error:
            raise FeaturesError(f"{self.root}: the features of {name} make no sense ({error})") from error
        return found[np.argsort(-scores, kind="stable")[: self.max_keypoints]]

    def _npz(self, name: str) -> Mapping[str, Any]:
        path = Path(self.root).expanduser() / f"{name}.{self.suffix}"
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        except Exception as error:  # zipfile and numpy raise many types
            raise FeaturesError(f"{path}: not a readable .npz file ({error})") from error

    def _h5(self, name: str) -> Mapping[str, Any]:
        h5py = require("h5py", "hloc", "reading features of hloc")
        path = Path(self.root).expanduser()
        try:
            with h5py.File(path, "r") as file:
                if name not in file:
                    raise KeyError(f"no group {name}")
                arrays = {key: np.asarray(value) for key, value in file[name].items()}
        except (OSError, KeyError, AttributeError) as error:
            raise FeaturesError(f"{path}: {error}") from error
        if "descriptors" in arrays:
            arrays["descriptors"] = arrays["descriptors"].T
        return arrays
