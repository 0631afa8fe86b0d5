"""What a method sees of the images of one unit in one frame: features, and where original pixels go there."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from geomatch.benchmarks.harness.task import Entry, key_of
from geomatch.benchmarks.methods.features import FeatureFiles
from geomatch.benchmarks.methods.functions import MatchFiles
from geomatch.benchmarks.methods.method import feature_key
from geomatch.geometry import warp_points
from geomatch.images import Image, ImageFile
from geomatch.store import Store
from geomatch.types import Features

Matrix = NDArray[np.float64]
Frame = str
"""``original``; ``short480``: the short side is 480 pixels; ``long1200``: the long one 1200; ``size640x480``:
squeezed to that (width, height);
``crop640x480``: grey, reduced until it just covers (width, height), and the centre cut out (SuperPoint's
protocol)."""
KIND = "views"  # kind of the features in the store
SMALL: Frame = "crop320x240"  # only keypoints are looked at there


@dataclass(frozen=True)
class FramedPair:
    """Features of two images in a frame, and the matrices (3, 3) from original pixels there."""

    features0: Features
    features1: Features
    matrix0: Matrix
    matrix1: Matrix

    def homography(self, original: Matrix) -> Matrix:
        """A homography between the original images as one between pixels of the frame."""
        return self.matrix1 @ original @ np.linalg.inv(self.matrix0)


@dataclass
class Views:
    """Features of one unit's images by a method, each made or read once."""

    entry: Entry
    store: Store  # where they are cached, by content
    _images: dict[tuple[Path, Frame], tuple[Image, Matrix]] = field(default_factory=dict)
    _views: dict[tuple[Path, Frame, bool], Features] = field(default_factory=dict)

    def pair(self, name: str, paths: tuple[Path, Path], frame: Frame, paper: bool) -> FramedPair:
        """Features of a pair; ``paper`` says that descriptors are sampled as in the paper's code."""
        (image0, matrix0), (image1, matrix1) = (self._image(path, frame) for path in paths)
        matcher = self.entry.method.pair_matcher
        if isinstance(matcher, MatchFiles):
            whole = matcher.read(name, *(self._image(path, "original")[0] for path in paths))
            moved0, inside0 = _moved(whole[0], matrix0, image0)
            moved1, inside1 = _moved(whole[1], matrix1, image1)
            both = [moved0[inside0 & inside1], moved1[inside0 & inside1]]
        elif matcher is not None:

            def make(places: list[int]) -> list[Features]:
                both = matcher.match_images(image0, image1)
                seen = image0.within(both[0].keypoints) & image1.within(both[1].keypoints)
                return [both[place][seen] for place in places]

            keys = [self._key(paths, frame, side) for side in (0, 1)]
            both = self.store.cached(KIND, keys, make, Features.to_bytes, Features.from_bytes)
        else:
            both = [self._features(path, frame, paper) for path in paths]
        return FramedPair(both[0], both[1], matrix0, matrix1)

    def _features(self, path: Path, frame: Frame, paper: bool) -> Features:
        place, method = (path, frame, paper), self.entry.method
        image, matrix = self._image(path, frame)
        if place in self._views:
            return self._views[place]
        if isinstance(method.source, FeatureFiles):
            whole = method.source.read(path, self._image(path, "original")[0].size)
            moved, inside = _moved(whole, matrix, image)
            found = moved[inside]
        else:

            def make(_: list[int]) -> list[Features]:
                found = [method.detect(image)]
                return found if frame == SMALL else method.describe([image], found, paper)

            keys = [self._key([path], frame, paper)]
            (found,) = self.store.cached(KIND, keys, make, Features.to_bytes, Features.from_bytes)
        self._views[place] = found
        return found

    def _key(self, paths: Sequence[Path], frame: Frame, how: bool | int) -> str:
        return key_of([with_mask(p).checksum() for p in paths], frame, how, feature_key(self.entry.key))

    def _image(self, path: Path, frame: Frame) -> tuple[Image, Matrix]:
        """The image in the frame, and the matrix from original pixels to it."""
        if (path, frame) not in self._images:
            whole = with_mask(path).load() if frame == "original" else self._image(path, "original")[0]
            self._images[path, frame] = framed(whole, frame)
        return self._images[path, frame]


def with_mask(path: Path) -> ImageFile:
    """An image, and where no keypoints are wanted: ``masks/1.ppm.png`` beside ``1.ppm``, if it is there."""
    mask = path.parent / "masks" / f"{path.name}.png"
    return ImageFile(path, mask if mask.is_file() else None)


def _moved(features: Features, matrix: Matrix, image: Image) -> tuple[Features, NDArray[np.bool_]]:
    """Features of the original image in a frame, and (N,) which lie inside it and are not masked."""
    points = warp_points(matrix, features.keypoints).astype(np.float32)
    inside = ((points >= -0.5) & (points <= np.array(image.size) - 0.5)).all(axis=1)
    moved = Features(points, features.scores, image.size, descriptors=features.descriptors)
    return moved, inside & image.within(points)


def framed(image: Image, frame: Frame) -> tuple[Image, Matrix]:
    """The image in that frame, and the (3, 3) matrix from its original pixels there.

    The matrix only scales and shifts: the published harnesses do not move pixel centres by (s - 1)/2, and so
    neither do their protocols here. Resizing is bilinear, smoothed where it shrinks.
    """
    if frame == "original":
        return image, np.eye(3)
    width, height = image.size
    picture = PILImage.fromarray(image.pixels)
    if frame.startswith("crop"):
        target: Any = tuple(map(int, frame.removeprefix("crop").split("x")))
        factor = max(target[0] / width, target[1] / height)
        size = max(target[0], int(width * factor)), max(target[1], int(height * factor))
        scales, picture = (factor, factor), picture.convert("L").convert("RGB")
    else:
        target = size = scaled_size(image.size, frame)
        scales = size[0] / width, size[1] / height
    left, top = (size[0] - target[0]) // 2, (size[1] - target[1]) // 2
    part = slice(top, top + target[1]), slice(left, left + target[0])
    pixels = np.ascontiguousarray(np.asarray(picture.resize(size, PILImage.Resampling.BILINEAR))[part])
    mask = image.mask
    if mask is not None:
        mask = np.asarray(PILImage.fromarray(mask).resize(size, PILImage.Resampling.NEAREST))[part]
    matrix = np.array([[scales[0], 0.0, -left], [0.0, scales[1], -top], [0.0, 0.0, 1.0]])
    return Image(pixels, image.name, mask=mask), matrix


def scaled_size(size: tuple[int, int], frame: Frame) -> tuple[int, int]:
    """The (width, height) of an image of that size in a frame that does not crop it."""
    kind, first, second = re.fullmatch(r"([a-z]+)(\d*)x?(\d*)", frame).groups()  # type: ignore[union-attr]
    if kind in ("original", "size"):
        return size if kind == "original" else (int(first), int(second))
    factor = int(first) / (min(size) if kind == "short" else max(size))
    return round(size[0] * factor), round(size[1] * factor)
