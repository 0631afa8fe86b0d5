"""A factory in the style of ``cv2.SIFT_create``."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import cv2

from geomatch.describers import Describer, create_describer, traits_of
from geomatch.dift import DIFTConfig
from geomatch.keypoints import Detector, create_detector
from geomatch.keypoints.opencv import available_opencv_detectors, create_feature2d
from geomatch.opencv.convert import check_whole
from geomatch.opencv.feature2d import Feature2D

_MANY = 1_000_000  # more keypoints than any image has: no limit, where a detector wants a number


def DIFT_create(
    nfeatures: int = 0,
    *,
    detector: str | Detector | cv2.Feature2D | None = None,
    descriptor: str | DIFTConfig | Describer = "dift-tiny",
) -> Feature2D:
    """Diffusion features in place of ``cv2.SIFT_create``: by default SIFT's keypoints, described by DIFT.

    Args:
        nfeatures: keep the best so many keypoints; 0 for all. Time grows with their number. OpenCV's SIFT
            counts before it looks at the mask, and returns a few more where responses are equal.
        detector: another source of keypoints: a name (`geomatch.keypoints.detectors`), or an object of OpenCV
            or of geomatch, such as SIFT with other settings.
        descriptor: as in `geomatch.match`; a model is loaded on first use and stays in memory. A detector
            that is given here, too, such as a `geomatch.keypoints.SuperPointDetector`, runs once for both.

    Raises TypeError for arguments of the wrong type, ValueError for values that make no sense.
    """
    limit = _limit(nfeatures)
    describer = create_describer(descriptor)
    if detector is None:  # made anew for every call: OpenCV's objects cannot be pickled
        return Feature2D(partial(_sift, limit), describer)
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


def _limit(nfeatures: int) -> int:
    """0 for no limit, which any number below 1 stands for, as in OpenCV."""
    return min(max(0, check_whole("nfeatures", nfeatures, -(2**63))), _MANY)


def _sift(limit: int) -> cv2.Feature2D:
    """OpenCV's, but for its default that places points a quarter of a pixel off."""
    create: Callable[..., cv2.Feature2D] = cv2.SIFT_create  # type: ignore[attr-defined]
    return create(limit, enable_precise_upscale=True)
