"""Options of carrying an edit, for the API and the command line."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geomatch.estimators import Estimator


@dataclass(frozen=True, slots=True)
class EditOptions:
    """How the place of an edit is found in another photograph.

    Raises:
        ValueError: for options that make no sense.
    """

    estimator: "str | Estimator" = "usac_magsac"
    """A name (`geomatch.estimators.estimators`), or an object, which has its own threshold."""
    threshold: float | None = None
    """Largest error of an inlier in pixels of the target, for an estimator given by name; None takes 3 for
    keypoints, as `geomatch.match`, and 5 for pixels, as the paper."""
    max_points: int = 1000
    """Keypoints or pixels below the edit, at most (the paper's number of pixels)."""
    refine_homography: bool = True
    """Refine by Lucas-Kanade to a fraction of a pixel, see `geomatch.alignment`."""
    seed: int = 0
    """Random seed of the pixels drawn."""

    def __post_init__(self) -> None:
        if self.max_points < 1:
            raise ValueError(f"max_points must be at least 1, got {self.max_points}")
