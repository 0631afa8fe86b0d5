"""Kornia's RANSAC, with one meaning of the threshold for all its releases."""

import inspect
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from geomatch.estimators.gate import Gate, Points, check_threshold
from geomatch.types import EstimationFailure, HomographyEstimate


@dataclass(frozen=True, slots=True)
class KorniaEstimator:
    """``kornia.geometry.ransac.RANSAC('homography')`` behind the gate."""

    threshold: float = 3.0
    """Largest transfer error of an inlier, in pixels of image 1."""
    max_batches: int = 10
    """Batches of ``batch_size`` samples at most."""
    batch_size: int = 2048
    confidence: float = 0.9999
    """Wanted probability of having drawn one sample without outliers."""
    local_iterations: int = 5
    """Refinements of a better model on its inliers."""
    seed: int = 0
    device: str = "cpu"
    gate: Gate = field(default_factory=Gate)

    def __post_init__(self) -> None:
        check_threshold(self.threshold)

    def estimate(
        self,
        points0: NDArray[np.floating],
        points1: NDArray[np.floating],
        image_size: tuple[int, int] | None = None,
    ) -> HomographyEstimate | EstimationFailure:
        """Estimate as `geomatch.estimators.Estimator` says."""
        return self.gate.run(self._solve, points0, points1, self.threshold, image_size)

    def _solve(self, p0: Points, p1: Points) -> NDArray[np.floating] | None:
        import torch
        from kornia.geometry.ransac import RANSAC

        known = inspect.signature(RANSAC).parameters
        # Up to 0.8.2 the squared error is compared with inl_th as it is, and there is no seed
        # (read and run for 0.8.2, 0.8.3 and 0.9.0).
        modern = "seed" in known
        options: dict[str, object] = {
            "inl_th": self.threshold if modern else self.threshold**2,
            "batch_size": self.batch_size,
            "max_iter": self.max_batches,
            "confidence": self.confidence,
            "max_lo_iters": self.local_iterations,
        }
        if modern:
            # MSAC of 0.8.3 finds nothing among many outliers: its score starts below that of "none"
            score = "msac" if "local_optimization" in known else "ransac"
            options |= {"seed": self.seed, "score_type": score, "prosac_sampling": False}
        ransac = RANSAC("homography", **options)
        devices = [self.device] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed)
            matrix, _ = ransac(
                torch.from_numpy(p0).float().to(self.device),
                torch.from_numpy(p1).float().to(self.device),
            )
        found = matrix.detach().cpu().double().numpy()
        return found if np.any(found) else None  # kornia says "none" with zeros
