"""What an estimator is."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from geomatch.types import EstimationFailure, HomographyEstimate


class Estimator(Protocol):
    """Finds the homography that most matches agree on."""

    def estimate(
        self,
        points0: NDArray[np.floating],
        points1: NDArray[np.floating],
        image_size: tuple[int, int] | None = None,
    ) -> HomographyEstimate | EstimationFailure:
        """From matched points, best match first.

        Args:
            points0: (M, 2) pixels of image 0.
            points1: (M, 2) pixels of image 1, row by row the partners.
            image_size: (width, height) of image 0, whose corners must map to a
                sensible quadrilateral; None takes the bounding box of ``points0``.

        Returns:
            The homography from image 0 to image 1, or why there is none.
        """
        ...
