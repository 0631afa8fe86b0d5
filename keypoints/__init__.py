"""Keypoint detectors: a grid, SuperPoint, one of our own, and every detector of OpenCV.

A detector is anything with a ``detect(image) -> Features`` method.
"""

from collections.abc import Callable

from geomatch.keypoints.detector import Detector as Detector
from geomatch.keypoints.grid import GridDetector as GridDetector
from geomatch.keypoints.mixed import MixedDetector as MixedDetector
from geomatch.keypoints.opencv import OpenCVDetector as OpenCVDetector
from geomatch.keypoints.opencv import available_opencv_detectors
from geomatch.keypoints.superpoint import MagicLeapSuperPoint as MagicLeapSuperPoint
from geomatch.keypoints.superpoint import SuperPointDetector as SuperPointDetector
from geomatch.keypoints.tiny import TinyDetector as TinyDetector


def _opencv(name: str) -> Callable[[int], Detector]:
    return lambda max_keypoints: OpenCVDetector(name, max_keypoints=max_keypoints)


def detectors() -> dict[str, Callable[[int], Detector]]:
    """Every detector by name, as a function of the largest number of keypoints."""
    return {
        "grid": lambda max_keypoints: GridDetector(max_keypoints=max_keypoints),
        "superpoint": lambda max_keypoints: SuperPointDetector(max_keypoints=max_keypoints),
        "superpoint-tiny": lambda max_keypoints: TinyDetector(max_keypoints=max_keypoints),
        "mixed": lambda max_keypoints: MixedDetector(max_keypoints=max_keypoints),
        "superpoint-magicleap": lambda max_keypoints: MagicLeapSuperPoint(max_keypoints=max_keypoints),
        "sift-large": lambda max_keypoints: OpenCVDetector("sift", max_keypoints, rank_by="size"),
        **{name: _opencv(name) for name in available_opencv_detectors()},
    }


def create_detector(name: str, max_keypoints: int = 3000) -> Detector:
    """A detector by its name.

    Raises:
        ValueError: listing the names, when there is none of that name.
    """
    known = detectors()
    if name not in known:
        raise ValueError(f"unknown detector {name!r}; choose one of: {', '.join(sorted(known))}")
    return known[name](max_keypoints)


__all__ = [
    "Detector",
    "GridDetector",
    "MagicLeapSuperPoint",
    "MixedDetector",
    "OpenCVDetector",
    "SuperPointDetector",
    "TinyDetector",
    "create_detector",
    "detectors",
]
