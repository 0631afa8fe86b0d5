"""Robust plane models, two-view geometry, relative pose. An estimator has an ``estimate`` as `Estimator`."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from geomatch.estimators.gate import Gate
from geomatch.estimators.models import Essential, Fundamental
from geomatch.estimators.pose import relative_pose
from geomatch.estimators.solvers import (
    OPENCV_METHODS,
    Estimator,
    KorniaEstimator,
    OpenCVEstimator,
    PoseLibEstimator,
    threshold_of,
)
from geomatch.estimators.two_view import estimate_two_view

__all__ = [
    "Essential", "Estimator", "Fundamental", "Gate", "KorniaEstimator", "OpenCVEstimator",
    "PoseLibEstimator", "create_estimator", "estimate_two_view", "estimators",
    "relative_pose", "threshold_of",
]  # fmt: skip


def estimators() -> dict[str, Callable[[float], Estimator]]:
    """Every estimator by name, as a function of the inlier threshold in pixels."""
    return {
        **{name: partial(OpenCVEstimator, name) for name in OPENCV_METHODS},
        "kornia": KorniaEstimator,
        "poselib": PoseLibEstimator,
    }


def create_estimator(name: str, threshold: float = 3.0, model: str = "homography") -> Estimator:
    """Create an estimator by its name, of a model of `PLANES` or ``auto``; ValueError lists known ones."""
    known = estimators()
    if name not in known:
        raise ValueError(f"unknown estimator {name!r}; choose one of: {', '.join(sorted(known))}")
    estimator = known[name](threshold)
    if model != "homography":
        if not isinstance(estimator, OpenCVEstimator):
            others = ", ".join(OPENCV_METHODS)
            raise ValueError(
                f"{name} has homographies only, not the model {model!r}; choose one of: {others}"
            )
        estimator = replace(estimator, model=model)
    return estimator
