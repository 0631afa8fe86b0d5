"""What an estimator is."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from geomatch.types import EstimationFailure, HomographyEstimate


class Estimator(Protocol):
    """Finds the homography that most matches agree on.

    An attribute ``threshold``, the largest transfer error of an inlier in pixels of image 1, is used where an
    object has it: whoever counts inliers again counts as the estimator did. See `threshold_of`.
    """

    def estimate(
        self,
        points0: NDArray[np.floating],
        points1: NDArray[np.floating],
        image_size: tuple[int, int] | None = None,
    ) -> HomographyEstimate | EstimationFailure:
        """Estimate the homography from image 0 to image 1, or say why there is none.

        Args:
            points0: (M, 2) pixels of image 0, best match first.
            points1: (M, 2) pixels of image 1, row by row the partners.
            image_size: (width, height) of image 0, whose corners must map to a sensible quadrilateral; None
                takes the bounding box of ``points0``.
        """
        ...


def threshold_of(estimator: Estimator, default: float) -> float:
    """The estimator's own ``threshold`` in pixels of image 1, or ``default`` if it has none."""
    return float(getattr(estimator, "threshold", default))
