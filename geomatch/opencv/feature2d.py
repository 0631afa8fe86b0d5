"""An object with the methods of ``cv2.Feature2D``, and its factory in the style of ``cv2.SIFT_create``."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.describers import Describer, create_describer, traits_of
from geomatch.dift import DIFTConfig
from geomatch.errors import first_line
from geomatch.images import Image
from geomatch.keypoints import Detector, create_detector
from geomatch.keypoints.opencv import (
    MIN_SIDE,
    available_opencv_detectors,
    create_feature2d,
    features_of_rows,
    keypoint_rows,
)
from geomatch.opencv.arguments import (
    check_image,
    check_images,
    check_keypoints,
    check_mask,
    check_number,
    check_whole,
)
from geomatch.opencv.convert import from_bgr, to_keypoints
from geomatch.types import Features

_MANY = 1_000_000  # more keypoints than any image has: no limit, where a detector wants a number
_MAX_SIZE = 4.0  # of a keypoint, in units of the image's long side: larger ones see no more of the image


@dataclass(frozen=True, repr=False)
class Feature2D:
    """Keypoints of a detector and descriptors of another, by the methods of ``cv2.Feature2D``.

    Made by `DIFT_create`. An image is uint8, grey, BGR or BGRA; all
    methods also take a list of images, with a list of masks or of keypoints, and return tuples of results.
    Descriptors are float32 rows of unit length, to be compared by ``NORM_L2``; those of ``dift-adm`` are the
    activations themselves. All methods raise TypeError for arguments of the wrong type, ValueError for wrong
    shapes, and WeightsError when a model cannot be loaded.
    """

    detector: Detector | cv2.Feature2D | Callable[[], cv2.Feature2D]
    """An object of OpenCV, a function that makes one (which can be pickled), or a detector of geomatch."""
    describer: Describer
    """Describes the keypoints; `descriptorSize` reads its ``dimension``, if it has one."""
    nfeatures: int = 0
    """Most keypoints detected, the best by their response where the mask allows; 0 for all."""

    def detect(self, image: Any, mask: Any = None) -> Any:
        """A tuple of ``cv2.KeyPoint``; none where ``mask``, uint8 of the image's size, is zero."""
        if isinstance(image, (list, tuple)):
            return tuple(map(self.detect, image, check_images(image, "masks", mask)))
        return self._detect(check_image(image), mask)[0]

    def compute(self, image: Any, keypoints: Any, descriptors: Any = None) -> Any:
        """The keypoints described, which may be any detector's, and (N, D) float32, or None for none.

        Keypoints outside the image or not finite are left out. Scale and orientation are used where a
        keypoint has both. ``descriptors`` is not filled.
        """
        if isinstance(image, (list, tuple)):
            return _unzipped(map(self.compute, image, check_images(image, "keypoints", keypoints)))
        array, given = check_image(image), check_keypoints(keypoints)
        if array.size == 0 or not given:
            return given, None
        picture, rows = from_bgr(array), keypoint_rows(given)
        inside = (rows[:, :2] >= -0.5) & (rows[:, :2] <= np.array(picture.size) - 0.5)  # false for NaN
        usable = np.flatnonzero(inside.all(axis=1))
        if not len(usable):
            return (), None
        rows = rows[usable]
        oriented = (rows[:, 2] > 0) & (rows[:, 3] >= 0) & np.isfinite(rows[:, 2:4]).all(axis=1)
        rows[~np.isfinite(rows[:, 4]), 4] = 0
        rows[~oriented, 2:4] = -1
        rows[oriented, 2] = np.minimum(rows[oriented, 2], _MAX_SIZE * max(picture.size))
        rows[oriented, 3] %= 360
        # so that no keypoint's descriptor depends on its company
        groups = [group for group in (oriented, ~oriented) if group.any()]
        found = [features_of_rows(rows[group], picture.size) for group in groups]
        parts = [_rows(self.describer, picture, features) for features in found]
        described = np.empty((len(rows), parts[0].shape[1]), np.float32)
        for group, part in zip(groups, parts, strict=True):
            described[group] = part
        return tuple(given[index] for index in usable), described

    def detectAndCompute(
        self, image: Any, mask: Any, descriptors: Any = None, useProvidedKeypoints: bool = False
    ) -> Any:
        """`detect`, then `compute`; ValueError for an empty image.

        As in OpenCV's Python no keypoints can be provided: the result is empty then.
        """
        if isinstance(image, (list, tuple)):
            each = partial(self.detectAndCompute, useProvidedKeypoints=useProvidedKeypoints)
            return _unzipped(map(each, image, check_images(image, "masks", mask)))
        array = check_image(image)
        if array.size == 0:
            raise ValueError("the image is empty")
        if useProvidedKeypoints:
            return (), None
        found, rows = self._detect(array, mask)
        if not found:
            rows = None
        elif rows is None:
            found, rows = self.compute(image, found)
        return found, rows

    def descriptorSize(self) -> int:
        """Dimensions of a descriptor; the model is loaded where only it knows."""
        dimension: int | None = getattr(self.describer, "dimension", None)
        if dimension is not None:
            return dimension
        blank = Image(np.zeros((64, 64, 3), np.uint8), "blank")
        middle = Features(np.full((1, 2), 32, np.float32), np.ones(1, np.float32), (64, 64))
        return int(_rows(self.describer, blank, middle).shape[1])

    def descriptorType(self) -> int:
        """``cv2.CV_32F``."""
        return cv2.CV_32F

    def defaultNorm(self) -> int:
        """``cv2.NORM_L2``."""
        return cv2.NORM_L2

    def empty(self) -> bool:
        """True, as for every ``cv2.Feature2D``."""
        return True

    def getDefaultName(self) -> str:
        """``Feature2D.DIFT``."""
        return "Feature2D.DIFT"

    def __repr__(self) -> str:
        limit = f", nfeatures={self.nfeatures}" if self.nfeatures else ""
        return f"<{self.getDefaultName()}, described by {type(self.describer).__name__}{limit}>"

    def _detect(self, array: NDArray[np.uint8], mask: Any) -> tuple[tuple[cv2.KeyPoint, ...], Any]:
        """Keypoints, and their rows where the detector is the describer and gives both at once."""
        if array.size == 0:
            return (), None
        allowed, rows, source = check_mask(mask, array.shape[:2]), None, self._source()
        if not isinstance(source, cv2.Feature2D):
            features = source.detect(from_bgr(array))
            found = to_keypoints(features)
            rows = features.descriptors if id(self.describer) == id(source) else None
            kept = [i for i, point in enumerate(found) if allowed is None or _inside(point, allowed)]
        elif min(array.shape[:2]) < MIN_SIDE:
            return (), None  # some detectors fail on so few pixels
        else:
            try:
                found = tuple(source.detect(array, allowed))
            except cv2.error as error:
                raise ValueError(f"the detector of OpenCV failed: {first_line(error)}") from error
            kept = list(range(len(found)))
        if self.nfeatures and len(kept) > self.nfeatures:
            kept.sort(key=lambda index: -found[index].response)
            kept = kept[: self.nfeatures]
        return tuple(found[index] for index in kept), None if rows is None else rows[kept]

    def _source(self) -> Detector | cv2.Feature2D:
        if not isinstance(self.detector, cv2.Feature2D) and not hasattr(self.detector, "detect"):
            try:
                return self.detector()
            except cv2.error as error:
                raise ValueError(f"OpenCV cannot make the detector: {first_line(error)}") from error
        return self.detector


def _unzipped(pairs: Iterable[tuple[Any, Any]]) -> tuple[Any, ...]:
    return tuple(zip(*pairs, strict=True)) or ((), ())


def _rows(describer: Describer, image: Image, features: Features) -> NDArray[np.float32]:
    descriptors = describer.describe(image, features).descriptors
    if descriptors is None:
        raise ValueError("the descriptor returned features without descriptors")
    return descriptors


def _inside(point: cv2.KeyPoint, mask: NDArray[np.uint8]) -> bool:
    """True if the pixel nearest to the point is not zero, as in OpenCV's filter."""
    x, y = (int(value + 0.5) for value in point.pt)
    return bool(0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x])


def DIFT_create(
    nfeatures: int = 0,
    nOctaveLayers: int = 3,
    contrastThreshold: float = 0.04,
    edgeThreshold: float = 10.0,
    sigma: float = 1.6,
    enable_precise_upscale: bool = True,
    *,
    detector: str | Detector | cv2.Feature2D | None = None,
    descriptor: str | DIFTConfig | Describer = "dift-tiny",
) -> Feature2D:
    """Diffusion features in place of ``cv2.SIFT_create``: by default SIFT's keypoints, described by DIFT.

    Args:
        nfeatures: keep the best so many keypoints; 0 for all. Time grows with their number. OpenCV's SIFT
            counts before it looks at the mask, and returns a few more where responses are equal.
        nOctaveLayers: SIFT's, as are the three that follow.
        contrastThreshold: least contrast of a keypoint.
        edgeThreshold: largest ratio of curvatures of a keypoint.
        sigma: blur of the first layer.
        enable_precise_upscale: without it, OpenCV's default, SIFT's points lie a quarter of a pixel off.
        detector: another source of keypoints: a name (`geomatch.keypoints.detectors`), or an object of OpenCV
            or of geomatch. SIFT's arguments do not go with it.
        descriptor: as in `geomatch.match`; a model is loaded on first use and stays in memory. A detector
            that is given here, too, such as a `geomatch.keypoints.SuperPointDetector`, runs once for both.

    Raises TypeError for arguments of the wrong type, ValueError for values that make no sense.
    """
    limit = min(max(0, check_whole("nfeatures", nfeatures, -(2**63))), _MANY)  # any below 1 is none
    sift = (
        check_whole("nOctaveLayers", nOctaveLayers, 1), check_number("contrastThreshold", contrastThreshold),
        check_number("edgeThreshold", edgeThreshold), check_number("sigma", sigma), enable_precise_upscale,
    )  # fmt: skip
    if not isinstance(enable_precise_upscale, (bool, np.bool_)):  # a number means another of SIFT's arguments
        raise TypeError(f"enable_precise_upscale must be True or False, got {enable_precise_upscale!r}")
    if not 0 < sigma < float("inf"):
        raise ValueError(f"sigma must be positive, got {sigma}")
    describer = create_describer(descriptor)
    if detector is None:  # made anew for every call: OpenCV's objects cannot be pickled
        create: Callable[..., cv2.Feature2D] = cv2.SIFT_create  # type: ignore[attr-defined]
        return Feature2D(partial(create, limit, *sift[:4], enable_precise_upscale=sift[4]), describer)
    if sift != (3, 0.04, 10.0, 1.6, True):
        raise ValueError("only nfeatures goes with another detector: the other arguments are SIFT's")
    source: Detector | cv2.Feature2D | Callable[[], cv2.Feature2D]
    if not isinstance(detector, str):
        source = detector
    elif detector in available_opencv_detectors():
        source = partial(create_feature2d, detector)
    else:  # the mask is applied before the limit, but a grid has no best points to keep
        most = limit or _MANY if detector == "grid" else _MANY
        source = create_detector(detector, most, traits_of(describer).device)
    return Feature2D(source, describer, nfeatures=limit)


DIFT = SimpleNamespace(create=DIFT_create)  # as OpenCV has SIFT.create beside SIFT_create
