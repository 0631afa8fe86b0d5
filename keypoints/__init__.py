"""Keypoint detectors: a grid, SuperPoint, one of our own, kornia's learned ones, and all of OpenCV.

A detector is anything with a ``detect(image) -> Features`` method.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from geomatch.keypoints.detector import Detector, GridDetector
from geomatch.keypoints.mixed import MixedDetector
from geomatch.keypoints.opencv import OpenCVDetector, available_opencv_detectors
from geomatch.lazy import lazy_names

if TYPE_CHECKING:
    from geomatch.keypoints.learned import KorniaFeatures
    from geomatch.keypoints.superpoint import MagicLeapSuperPoint, SuperPointDetector
    from geomatch.keypoints.tiny import TinyDetector

__all__ = [
    "Detector", "GridDetector", "KorniaFeatures", "MagicLeapSuperPoint", "MixedDetector", "OpenCVDetector",
    "SuperPointDetector", "TinyDetector", "create_detector", "detectors",
]  # fmt: skip

__getattr__ = lazy_names(__name__)

DEFAULT_DETECTOR = "mixed"
"""SIFT and the embedded network, interleaved."""
ORIENTED = ("mixed", "superpoint-tiny", "sift", "sift-large", "sift-faint", "orb", "akaze", "kaze", "brisk")
"""Names of the detectors whose keypoints have scale and orientation."""


def _network(name: str, max_keypoints: int, device: str) -> Detector:
    detector: Callable[..., Detector] = __getattr__(name)  # loads torch
    return detector(max_keypoints=max_keypoints, device=device)


def _kornia(name: str, max_keypoints: int, device: str) -> Detector:
    detector: Detector = __getattr__("KorniaFeatures")(name, max_keypoints, device=device)
    return detector


def _opencv(name: str, max_keypoints: int, device: str) -> Detector:
    return OpenCVDetector(name, max_keypoints)


def detectors() -> dict[str, Callable[[int, str], Detector]]:
    """Every detector by name, as a function of the largest number of keypoints and the network's device."""
    return {
        "grid": lambda max_keypoints, device: GridDetector(max_keypoints=max_keypoints),
        "superpoint": partial(_network, "SuperPointDetector"),
        "superpoint-tiny": partial(_network, "TinyDetector"),
        "mixed": lambda max_keypoints, device: MixedDetector(max_keypoints=max_keypoints, device=device),
        "superpoint-magicleap": partial(_network, "MagicLeapSuperPoint"),
        **{name: partial(_kornia, name) for name in ("aliked", "disk", "xfeat")},
        "sift-large": lambda max_keypoints, device: OpenCVDetector("sift", max_keypoints, rank_by="size"),
        **{name: partial(_opencv, name) for name in available_opencv_detectors()},
    }


def create_detector(name: str, max_keypoints: int = 3000, device: str = "auto") -> Detector:
    """Create a detector by its name, whose network runs on the device; ValueError for another name."""
    known = detectors()
    if name not in known:
        raise ValueError(f"unknown detector {name!r}; choose one of: {', '.join(sorted(known))}")
    return known[name](max_keypoints, device)
