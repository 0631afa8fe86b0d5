"""Kornia's RANSAC."""

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

        ransac = RANSAC(
            "homography",
            inl_th=self.threshold,
            batch_size=self.batch_size,
            max_iter=self.max_batches,
            confidence=self.confidence,
            max_lo_iters=self.local_iterations,
            seed=self.seed,
        )
        devices = [self.device] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed)
            matrix, _ = ransac(*(torch.from_numpy(points).float().to(self.device) for points in (p0, p1)))
        found = matrix.detach().cpu().double().numpy()
        return found if np.any(found) else None  # kornia says "none" with zeros
