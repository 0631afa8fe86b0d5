"""What a method sees of one sequence in one frame: features, and where the truth goes there."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.benchmarks.harness.keys import SCHEMA
from geomatch.benchmarks.methods import Method
from geomatch.benchmarks.methods.feature_files import FeatureFiles
from geomatch.benchmarks.methods.matchers import LoFTRMatcher
from geomatch.benchmarks.tasks.homography.evaluation import Pair
from geomatch.benchmarks.tasks.homography.frames import Frame, framed
from geomatch.errors import DamagedError, ImageError
from geomatch.files import digest_of, sha256_of
from geomatch.geometry import warp_points
from geomatch.images import Image, load_image
from geomatch.provenance import versions
from geomatch.store import Store
from geomatch.types import Features

KIND = "views"
"""Of the features in the store."""
SMALL: Frame = "crop320x240"
"""Only keypoints are looked at there."""

View = tuple[Features, NDArray[np.float64]]
"""Features in a frame, and the (3, 3) matrix from original pixels to it."""


@dataclass
class Views:
    """Features of one sequence's images, each made or read once; kept in a store by content."""

    method: Method
    identity: dict[str, Any]
    """`Method.feature_identity`."""
    store: Store
    _images: dict[Path, Image] = field(default_factory=dict)
    _sums: dict[Path, str] = field(default_factory=dict)
    _views: dict[tuple[Any, ...], View] = field(default_factory=dict)

    def pair(
        self, path0: Path, path1: Path, truth: NDArray[np.float64], frame: Frame, paper_sampling: bool
    ) -> Pair:
        """Features of two images, and the truth between their frames.

        Raises:
            ImageError: when one cannot be read.
            FeaturesError: when its features cannot.
        """
        if isinstance(self.method.source, LoFTRMatcher):
            (features0, matrix0), (features1, matrix1) = self._matched(
                self.method.source, path0, path1, frame
            )
        else:
            features0, matrix0 = self._one(path0, frame, paper_sampling)
            features1, matrix1 = self._one(path1, frame, paper_sampling)
        return Pair(features0, features1, matrix1 @ truth @ np.linalg.inv(matrix0))

    def extract(self, paths: list[Path], frame: Frame, paper_sampling: bool) -> None:
        """Extract all that is not kept yet, in one batch; images that cannot be read are left out."""
        if isinstance(self.method.source, (LoFTRMatcher, FeatureFiles)):
            return
        wanted: list[tuple[str, Image]] = []
        for path in paths:
            kept = self._kept([path], frame, paper_sampling)
            if not self.store.has(KIND, kept):
                try:
                    wanted.append((kept, framed(self._image(path), frame)[0]))
                except ImageError:
                    continue
        if wanted:
            images = [image for _, image in wanted]
            found = self.method.extract(images, frame != SMALL, self._samples(paper_sampling))
            for (kept, _), features in zip(wanted, found, strict=True):
                self._save(kept, features)

    def _one(self, path: Path, frame: Frame, paper_sampling: bool) -> View:
        key = path, frame, self._samples(paper_sampling)
        if key not in self._views:
            self._views[key] = self._made(path, frame, paper_sampling)
        return self._views[key]

    def _made(self, path: Path, frame: Frame, paper_sampling: bool) -> View:
        source = self.method.source
        if isinstance(source, FeatureFiles):
            image, matrix = framed(self._image(path), frame)
            return _moved(source.read(path, self._image(path).size), matrix, image.size), matrix
        key = self._kept([path], frame, paper_sampling)
        kept = self._load(key)
        if kept is not None and frame == "original":
            return kept, np.eye(3)  # nothing to decode
        image, matrix = framed(self._image(path), frame)
        if kept is None:
            (kept,) = self.method.extract([image], frame != SMALL, self._samples(paper_sampling))
            self._save(key, kept)
        return kept, matrix

    def _matched(self, matcher: LoFTRMatcher, path0: Path, path1: Path, frame: Frame) -> tuple[View, View]:
        image0, matrix0 = framed(self._image(path0), frame)
        image1, matrix1 = framed(self._image(path1), frame)
        keys = [self._kept([path0, path1], frame, side) for side in (0, 1)]
        kept0, kept1 = map(self._load, keys)
        if kept0 is None or kept1 is None:
            kept0, kept1 = matcher.match_images(image0, image1)
            self._save(keys[0], kept0)
            self._save(keys[1], kept1)
        return (kept0, matrix0), (kept1, matrix1)

    def _samples(self, paper_sampling: bool) -> bool:
        return paper_sampling and self.method.dense  # others know no difference

    def _kept(self, paths: list[Path], frame: Frame, how: bool | int) -> str:
        for path in paths:
            if path not in self._sums:
                self._sums[path] = sha256_of(path)
        how = self._samples(how) if isinstance(how, bool) else how
        parts = [SCHEMA, [self._sums[path] for path in paths], frame, how, self.identity, versions()]
        return digest_of(parts)

    def _save(self, key: str, features: Features) -> None:
        self.store.write(KIND, key, features.to_bytes())

    def _load(self, key: str) -> Features | None:
        try:
            return Features.from_bytes(self.store.read(KIND, key), key)
        except KeyError:
            return None
        except DamagedError:  # made again
            self.store.remove(KIND, key)
            return None

    def _image(self, path: Path) -> Image:
        if path not in self._images:
            self._images[path] = load_image(path)
        return self._images[path]


def _moved(features: Features, matrix: NDArray[np.float64], size: tuple[int, int]) -> Features:
    """Features of the original image in a frame; those outside are gone."""
    points = warp_points(matrix, features.keypoints).astype(np.float32)
    inside = ((points >= -0.5) & (points <= np.array(size) - 0.5)).all(axis=1)
    moved = Features(points, features.scores, size, descriptors=features.descriptors)
    return moved[np.flatnonzero(inside)]
