"""Keypoint detectors: anything with a ``detect(image) -> Features`` method."""

from collections.abc import Callable
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


def detectors() -> dict[str, Callable[[int, str], Detector]]:
    """Every detector by name, as a function of the largest number of keypoints and the network's device."""

    def network(name: str, *kind: str) -> Callable[[int, str], Detector]:
        # loads torch when it is called
        return lambda count, device: __getattr__(name)(*kind, max_keypoints=count, device=device)

    def opencv(name: str) -> Callable[[int, str], Detector]:
        return lambda count, device: OpenCVDetector(name, count)

    return {
        "grid": lambda count, device: GridDetector(max_keypoints=count),
        "superpoint": network("SuperPointDetector"),
        "superpoint-tiny": network("TinyDetector"),
        "mixed": lambda count, device: MixedDetector(max_keypoints=count, device=device),
        "superpoint-magicleap": network("MagicLeapSuperPoint"),
        **{name: network("KorniaFeatures", name) for name in ("aliked", "disk", "xfeat")},
        "sift-large": lambda count, device: OpenCVDetector("sift", count, rank_by="size"),
        **{name: opencv(name) for name in available_opencv_detectors()},
    }


def create_detector(name: str, max_keypoints: int = 3000, device: str = "auto") -> Detector:
    """Create a detector by its name, whose network runs on the device; ValueError for another name."""
    known = detectors()
    if name not in known:
        raise ValueError(f"unknown detector {name!r}; choose one of: {', '.join(sorted(known))}")
    return known[name](max_keypoints, device)
