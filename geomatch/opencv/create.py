"""A factory in the style of ``cv2.SIFT_create``."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np

from geomatch.describers import Describer, create_describer, traits_of
from geomatch.dift import DIFTConfig
from geomatch.keypoints import Detector, create_detector
from geomatch.keypoints.opencv import available_opencv_detectors, create_feature2d
from geomatch.opencv.arguments import check_number, check_whole
from geomatch.opencv.feature2d import Feature2D

_MANY = 1_000_000  # more keypoints than any image has: no limit, where a detector wants a number


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
    limit = _limit(nfeatures)
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
        return Feature2D(partial(_sift, limit, *sift), describer)
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


def _limit(nfeatures: int) -> int:
    """0 for no limit, which any number below 1 stands for, as in OpenCV."""
    return min(max(0, check_whole("nfeatures", nfeatures, -(2**63))), _MANY)


def _sift(*arguments: int | float) -> cv2.Feature2D:
    """Call ``cv2.SIFT_create``, whose sixth argument is another one."""
    create: Callable[..., cv2.Feature2D] = cv2.SIFT_create  # type: ignore[attr-defined]
    return create(*arguments[:5], enable_precise_upscale=arguments[5])
