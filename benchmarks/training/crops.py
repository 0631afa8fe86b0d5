"""Random crops of the training images at any place, scale and rotation, mirrored or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from geomatch.benchmarks.training.sources import TrainingImage

PHOTO_SHARE = 0.55
"""Share of crops from photographs; the rest comes from textures."""
MAX_SIDE = 2048
"""Larger images are reduced to this many pixels before cropping."""


@dataclass(frozen=True, slots=True)
class CropSource:
    """Images in memory as pyramids, level k reduced by 2^k."""

    photos: Sequence[Sequence[NDArray[np.uint8]]]
    textures: Sequence[Sequence[NDArray[np.uint8]]]

    def batch(self, rng: np.random.Generator, count: int, side: int) -> NDArray[np.uint8]:
        """``count`` crops of shape (side, side, 3), RGB."""

        def edges(crop: NDArray[np.uint8]) -> float:
            return float(np.abs(np.diff(crop.astype(np.float32), axis=1)).mean())

        # the strongest edges of three: empty sky teaches little
        return np.stack([max((self._crop(rng, side) for _ in range(3)), key=edges) for _ in range(count)])

    def _crop(self, rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
        group = self.photos if rng.random() < PHOTO_SHARE or not self.textures else self.textures
        pyramid = group[int(rng.integers(len(group)))]
        height, width = pyramid[0].shape[:2]
        largest = min(height, width) / (side * 1.45)  # the rotated crop stays inside
        scale = float(np.exp(rng.uniform(0.0, np.log(max(1.0, largest)))))
        level = min(int(np.log2(scale)), len(pyramid) - 1)
        image = pyramid[level]
        step = scale / 2**level
        angle = rng.uniform(0, 2 * np.pi)
        mirror = -1.0 if rng.random() < 0.5 else 1.0
        cosine, sine = step * np.cos(angle), step * np.sin(angle)
        linear = np.array([[cosine * mirror, -sine], [sine * mirror, cosine]])
        reach = 0.5 * side * step * 1.42
        centre = np.array(
            [rng.uniform(min(reach, n / 2), max(n - reach, n / 2)) for n in (image.shape[1], image.shape[0])]
        )
        offset = centre - linear @ np.full(2, (side - 1) / 2)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        matrix = np.hstack([linear, offset[:, None]])
        crop = cv2.warpAffine(image, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        if rng.random() < 0.5:  # exposure and contrast
            gain, shift = np.exp(rng.uniform(-0.5, 0.5)), rng.uniform(-30, 30)
            mean = crop.mean()
            crop = np.clip((crop - mean) * gain + mean + shift, 0, 255)
        return crop.astype(np.uint8)


def load_crops(images: Sequence[tuple[TrainingImage, Path]]) -> CropSource:
    """Decode the images once and keep their pyramids in memory (about 1 GB for the recipe)."""
    groups: dict[str, list[list[NDArray[np.uint8]]]] = {"photo": [], "texture": []}
    for image, path in tqdm(images, desc="reading images", unit="image"):
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if pixels is None:
            raise ValueError(f"OpenCV cannot read the training image {path}")
        rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        factor = MAX_SIDE / max(rgb.shape[:2])
        if factor < 1:
            rgb = cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        pyramid = [np.asarray(rgb, dtype=np.uint8)]
        while min(pyramid[-1].shape[:2]) >= 128:
            pyramid.append(np.asarray(cv2.pyrDown(pyramid[-1]), dtype=np.uint8))
        groups[image.kind].append(pyramid)
    return CropSource(photos=groups["photo"], textures=groups["texture"])
