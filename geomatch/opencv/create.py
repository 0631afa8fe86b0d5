"""Factories in the style of ``cv2.SIFT_create``."""

import os
from collections.abc import Callable
from functools import partial

import cv2

from geomatch.describers import Describer, create_describer
from geomatch.dift import DIFTConfig
from geomatch.dift.head.projection import LinearHead
from geomatch.keypoints import Detector, GridDetector, SuperPointDetector, create_detector
from geomatch.keypoints.opencv import available_opencv_detectors, create_feature2d
from geomatch.opencv.arguments import check_bool, check_number, check_whole
from geomatch.opencv.feature2d import Feature2D

MANY = 1_000_000
"""More keypoints than any image has: no limit, where a detector wants a number."""


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
    pca: LinearHead | None = None,
) -> Feature2D:
    """Diffusion features in place of ``cv2.SIFT_create``: by default SIFT's keypoints, described by DIFT.

    Args:
        nfeatures: keep the best so many keypoints; 0 for all. Time grows with their number. OpenCV's SIFT
            counts before it looks at the mask, and returns a few more where responses are equal.
        nOctaveLayers: of SIFT, as are the next four.
        contrastThreshold: least contrast of a keypoint.
        edgeThreshold: largest ratio of curvatures of a keypoint.
        sigma: blur of the first layer.
        enable_precise_upscale: unlike OpenCV's default true, since SIFT's points lie a quarter of
            a pixel off without it.
        detector: another source of keypoints: a name (`geomatch.keypoints.detectors`), an object of
            OpenCV or of geomatch.
        descriptor: as in `geomatch.match`: a preset, a diffusers folder or hub id, a `DIFTConfig`, or an
            object with a ``describe`` method. The model is loaded on first use and stays in memory.
        pca: see `geomatch.opencv.with_pca`.

    Raises:
        TypeError: for arguments of the wrong type.
        ValueError: for values that make no sense, and for arguments of SIFT beside another detector.
    """
    limit = _limit(nfeatures)
    sift = (
        check_whole("nOctaveLayers", nOctaveLayers, 1),
        check_number("contrastThreshold", contrastThreshold),
        check_number("edgeThreshold", edgeThreshold),
        check_number("sigma", sigma),
        check_bool("enable_precise_upscale", enable_precise_upscale),
    )
    if not 0 < sigma < float("inf"):
        raise ValueError(f"sigma must be positive, got {sigma}")
    source: Detector | cv2.Feature2D | Callable[[], cv2.Feature2D]
    if detector is None:
        # made anew for every call: OpenCV's objects cannot be pickled, and creation costs microseconds
        source = partial(_sift, limit, *sift)
        return Feature2D(source, create_describer(descriptor), pca=pca)
    if sift != (3, 0.04, 10.0, 1.6, True):
        raise ValueError("only nfeatures goes with another detector: the other arguments are SIFT's")
    if isinstance(detector, str):
        if detector in available_opencv_detectors():
            source = partial(create_feature2d, detector)
        else:
            # the mask comes before the limit, but a grid has no best points to keep
            source = create_detector(detector, limit or MANY if detector == "grid" else MANY)
    else:
        source = detector
    return Feature2D(source, create_describer(descriptor), nfeatures=limit, pca=pca)


def SuperPoint_create(
    nfeatures: int = 0,
    detectionThreshold: float = 0.005,
    nmsRadius: int = 4,
    *,
    weights: str | os.PathLike[str] | None = None,
    descriptor: str | DIFTConfig | Describer | None = None,
    pca: LinearHead | None = None,
) -> Feature2D:
    """SuperPoint's keypoints with its own descriptors (256), or with others.

    Args:
        nfeatures: keep the best so many keypoints; 0 for all.
        detectionThreshold: least score.
        nmsRadius: half side in pixels of the square in which a keypoint must be the best.
        weights: a weights file; None looks in the cache and then downloads.
        descriptor: see `DIFT_create`; None for SuperPoint's own.
        pca: see `geomatch.opencv.with_pca`.

    Raises:
        TypeError: for arguments of the wrong type.
        ValueError: for values that make no sense.
        WeightsError: on first use, when the weights are missing.
    """
    detector = SuperPointDetector(
        weights=None if weights is None else os.fspath(weights),
        max_keypoints=None,
        nms_radius=check_whole("nmsRadius", nmsRadius, 0),
        detection_threshold=check_number("detectionThreshold", detectionThreshold),
    )
    describer = detector if descriptor is None else create_describer(descriptor)
    return Feature2D(detector, describer, "SuperPoint", _limit(nfeatures), pca)


def Grid_create(
    step: int = 16,
    border: int = 0,
    nfeatures: int = 0,
    *,
    descriptor: str | DIFTConfig | Describer = "dift-tiny-dense",
    pca: LinearHead | None = None,
) -> Feature2D:
    """The centres of square cells, described by DIFT from one map of the image.

    Args:
        step: side of a cell in pixels.
        border: pixels left free on every side.
        nfeatures: the step grows until the image has no more keypoints than this; 0 for no limit.
        descriptor: see `DIFT_create`.
        pca: see `geomatch.opencv.with_pca`.

    Raises:
        TypeError: for arguments of the wrong type.
        ValueError: for values that make no sense.
    """
    sides = check_whole("step", step, 1), check_whole("border", border, 0)
    detector = GridDetector(*sides, max_keypoints=_limit(nfeatures) or None)
    return Feature2D(detector, create_describer(descriptor), "Grid", pca=pca)


def _limit(nfeatures: int) -> int:
    """What is not positive is no limit, as in OpenCV."""
    return min(max(0, check_whole("nfeatures", nfeatures, -(2**63))), MANY)


def _sift(
    nfeatures: int, layers: int, contrast: float, edge: float, sigma: float, precise: bool
) -> cv2.Feature2D:
    create: Callable[..., cv2.Feature2D] = cv2.SIFT_create  # type: ignore[attr-defined]
    return create(nfeatures, layers, contrast, edge, sigma, enable_precise_upscale=precise)
