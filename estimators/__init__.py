"""Robust homography estimation: OpenCV, Kornia and PoseLib behind one gate; two-view geometry.

An estimator is anything with an ``estimate`` method like `Estimator`'s.
"""

from collections.abc import Callable
from functools import partial

from geomatch.estimators.estimator import Estimator as Estimator
from geomatch.estimators.estimator import threshold_of as threshold_of
from geomatch.estimators.gate import Gate as Gate
from geomatch.estimators.kornia import KorniaEstimator as KorniaEstimator
from geomatch.estimators.opencv import OPENCV_METHODS
from geomatch.estimators.opencv import OpenCVEstimator as OpenCVEstimator
from geomatch.estimators.poselib import PoseLibEstimator as PoseLibEstimator
from geomatch.estimators.two_view import estimate_two_view as estimate_two_view

__all__ = [
    "Estimator",
    "Gate",
    "KorniaEstimator",
    "OpenCVEstimator",
    "PoseLibEstimator",
    "create_estimator",
    "estimate_two_view",
    "estimators",
    "threshold_of",
]


def estimators() -> dict[str, Callable[[float], Estimator]]:
    """Every estimator by name, as a function of the inlier threshold in pixels."""
    return {
        **{name: partial(OpenCVEstimator, name) for name in OPENCV_METHODS},
        "kornia": KorniaEstimator,
        "poselib": PoseLibEstimator,
    }


def create_estimator(name: str, threshold: float = 3.0) -> Estimator:
    """Create an estimator by its name.

    Raises:
        ValueError: listing the names, when there is none of that name.
    """
    known = estimators()
    if name not in known:
        raise ValueError(f"unknown estimator {name!r}; choose one of: {', '.join(sorted(known))}")
    return known[name](threshold)
