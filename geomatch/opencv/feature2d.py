"""An object with the methods of ``cv2.Feature2D``."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.describers import Describer
from geomatch.dift import DIFTExtractor
from geomatch.dift.head.projection import LinearHead
from geomatch.images import Image
from geomatch.keypoints import Detector
from geomatch.keypoints.opencv import MIN_SIDE
from geomatch.opencv.arguments import check_image, check_images, check_keypoints, check_mask
from geomatch.opencv.convert import from_bgr, keypoint_rows, to_keypoints
from geomatch.types import Features

KeyPoints = tuple[cv2.KeyPoint, ...]
Descriptors = NDArray[np.float32] | None
"""(N, D) float32, or None without keypoints."""

_MAX_SIZE = 4.0
"""Larger keypoints are taken as so large, in units of the image's long side: all there is lies within."""


@dataclass(frozen=True)
class Feature2D:
    """Keypoints of a detector and descriptors of another, by the methods of ``cv2.Feature2D``.

    Made by `DIFT_create`, `SuperPoint_create` and `Grid_create`. Images are
    uint8 and grey, BGR or BGRA. Descriptors are float32 rows of unit length,
    to be compared by ``NORM_L2``; those of models that are compared without
    normalising (``dift-adm``) are the activations themselves.
    """

    detector: Detector | cv2.Feature2D | Callable[[], cv2.Feature2D]
    """Where keypoints come from: an object of OpenCV, a function that makes one (which can be pickled,
    as OpenCV's objects cannot), or a detector of geomatch."""
    describer: Describer
    """What describes keypoints, anybody's."""
    name: str = "DIFT"
    """For `getDefaultName`."""
    nfeatures: int = 0
    """Keep at most so many of the keypoints that the mask allows, the best by their response; 0 for all."""
    pca: LinearHead | None = field(default=None, repr=False)
    """Makes the descriptors shorter; see `geomatch.opencv.with_pca`."""

    def detect(self, image: Any, mask: Any = None) -> Any:
        """Keypoints of an image, or of each in a list.

        Args:
            image: one image, or a list of images.
            mask: uint8 of the image's size, zero where no keypoint is wanted; with
                a list of images a list of these; or None.

        Returns:
            A tuple of ``cv2.KeyPoint``; for a list a tuple of tuples.

        Raises:
            TypeError: for images and masks that are no uint8 arrays.
            ValueError: for wrong shapes.
        """
        if isinstance(image, (list, tuple)):
            masks = check_images(image, "masks", mask)
            return tuple(self._detect(one, own) for one, own in zip(image, masks, strict=True))
        return self._detect(image, mask)

    def compute(self, image: Any, keypoints: Any, descriptors: Any = None) -> Any:
        """Descriptors at any keypoints, each image's or those of a list of images.

        Keypoints outside the image or with a position that is not finite are left out. Scale and
        orientation are used where a keypoint has both (a positive size and an angle that is not negative).

        Args:
            image: one image, or a list of images.
            keypoints: a sequence of ``cv2.KeyPoint`` of whatever detector, or a list of these.
            descriptors: an array to fill when it has the right shape; for a list it is not used.

        Returns:
            The keypoints described, and (N, D) float32 or None when there are none;
            for a list tuples of these.

        Raises:
            TypeError: for images that are no uint8 arrays and keypoints that are none.
            ValueError: for wrong shapes.
            WeightsError: when the model cannot be loaded.
        """
        if isinstance(image, (list, tuple)):
            lists = check_images(image, "keypoints", keypoints)
            pairs = [self._compute(one, own) for one, own in zip(image, lists, strict=True)]
            return tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)
        kept, rows = self._compute(image, keypoints)
        return kept, _filled(descriptors, rows)

    def detectAndCompute(
        self, image: Any, mask: Any, descriptors: Any = None, useProvidedKeypoints: bool = False
    ) -> Any:
        """`detect`, then `compute`.

        Args:
            image: one image; unlike OpenCV's also a list of images.
            mask: see `detect`.
            descriptors: see `compute`.
            useProvidedKeypoints: as in OpenCV's Python nothing can be provided here: the result is empty.

        Returns:
            As `compute`.

        Raises:
            ValueError: also for an empty image.
        """
        if isinstance(image, (list, tuple)):
            masks = check_images(image, "masks", mask)
            pairs = [
                self.detectAndCompute(one, own, None, useProvidedKeypoints)
                for one, own in zip(image, masks, strict=True)
            ]
            return tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)
        array = check_image(image)
        if array.size == 0:
            raise ValueError("the image is empty")
        if useProvidedKeypoints:
            return (), None
        kept, rows = self._compute(array, self._detect(array, mask))
        return kept, _filled(descriptors, rows)

    def descriptorSize(self) -> int:
        """Dimensions of a descriptor; the model is loaded where only it knows."""
        return self._dimension

    def descriptorType(self) -> int:
        """``cv2.CV_32F``."""
        return cv2.CV_32F

    def defaultNorm(self) -> int:
        """``cv2.NORM_L2``."""
        return cv2.NORM_L2

    def empty(self) -> bool:
        """True, as of every ``cv2.Feature2D``."""
        return True

    def getDefaultName(self) -> str:
        """``Feature2D.`` and the name."""
        return f"Feature2D.{self.name}"

    @cached_property
    def _dimension(self) -> int:
        if self.pca is not None:
            return int(self.pca.projection.shape[1])
        if isinstance(self.describer, DIFTExtractor):
            return self.describer.dimension
        blank = Image(np.zeros((64, 64, 3), np.uint8), "blank")
        middle = Features(np.full((1, 2), 32, np.float32), np.ones(1, np.float32), (64, 64))
        return int(_rows(self.describer, blank, middle).shape[1])

    def _detect(self, image: object, mask: object) -> KeyPoints:
        array = check_image(image)
        if array.size == 0:
            return ()
        allowed = check_mask(mask, array)
        source = self._source()
        if not isinstance(source, cv2.Feature2D):
            found = to_keypoints(source.detect(from_bgr(array)))
            found = found if allowed is None else tuple(point for point in found if _inside(point, allowed))
        elif min(array.shape[:2]) < MIN_SIDE:
            return ()  # some detectors fail on so few pixels
        else:
            try:
                found = tuple(source.detect(array, allowed))
            except cv2.error as error:
                raise ValueError(f"the detector of OpenCV failed: {error}") from error
        if self.nfeatures and len(found) > self.nfeatures:
            order = np.argsort([-point.response for point in found], kind="stable")
            found = tuple(found[index] for index in order[: self.nfeatures])
        return found

    def _source(self) -> Detector | cv2.Feature2D:
        if not isinstance(self.detector, cv2.Feature2D) and not hasattr(self.detector, "detect"):
            try:
                return self.detector()
            except cv2.error as error:
                raise ValueError(f"OpenCV cannot make the detector: {error}") from error
        return self.detector

    def _compute(self, image: object, keypoints: object) -> tuple[KeyPoints, Descriptors]:
        array, given = check_image(image), check_keypoints(keypoints)
        if array.size == 0 or not given:
            return given, None
        picture, rows = from_bgr(array), keypoint_rows(given)
        size = np.array(picture.size)
        inside = (rows[:, :2] >= -0.5) & (rows[:, :2] <= size - 0.5)  # false for NaN
        usable = np.asarray(inside.all(axis=1))
        if not usable.any():
            return (), None
        rows = rows[usable]
        framed = (rows[:, 2] > 0) & (rows[:, 3] >= 0) & np.isfinite(rows[:, 2:4]).all(axis=1)
        described: NDArray[np.float32] | None = None
        for group in (framed, ~framed):  # so that no keypoint's descriptor depends on its company
            if not group.any():
                continue
            own = rows[group]
            oriented = bool(framed[group].all())
            scales = np.minimum(own[:, 2], _MAX_SIZE * size.max()).astype(np.float32)
            features = Features(
                keypoints=own[:, :2].astype(np.float32),
                scores=np.where(np.isfinite(own[:, 4]), own[:, 4], 0).astype(np.float32),
                image_size=picture.size,
                scales=scales if oriented else None,
                orientations=np.radians(own[:, 3] % 360).astype(np.float32) if oriented else None,
            )
            new = _rows(self.describer, picture, features)
            if described is None:
                described = np.empty((len(rows), new.shape[1]), np.float32)
            described[group] = new
        assert described is not None
        if self.pca is not None:
            described = self.pca.apply(described)
        return tuple(point for point, used in zip(given, usable, strict=True) if used), described


def _rows(describer: Describer, image: Image, features: Features) -> NDArray[np.float32]:
    descriptors = describer.describe(image, features).descriptors
    if descriptors is None:
        raise ValueError("the descriptor returned features without descriptors")
    return descriptors


def _inside(point: cv2.KeyPoint, mask: NDArray[np.uint8]) -> bool:
    """As OpenCV's filter: the pixel nearest to the point must not be zero."""
    x, y = (int(value + 0.5) for value in point.pt)
    return bool(0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x])


def _filled(target: object, rows: Descriptors) -> Descriptors:
    """The rows, in the caller's array when it fits, as OpenCV does."""
    if not isinstance(target, np.ndarray) or rows is None or not target.flags.writeable:
        return rows
    if target.shape != rows.shape or target.dtype != np.float32:
        return rows
    target[...] = rows
    return target
