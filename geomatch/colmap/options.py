"""What `export_database` and `reconstruct` can be told, as values."""

from dataclasses import dataclass
from typing import Literal

CameraMode = Literal["auto", "single", "per-folder", "per-image"]
Verification = Literal["colmap", "geomatch", "none"]
Mapper = Literal["incremental", "global"]


@dataclass(frozen=True, slots=True)
class Cameras:
    """The cameras that images are given in a database."""

    mode: CameraMode = "auto"
    """Which images share a camera; ``auto`` leaves it to COLMAP, by the images' EXIF data."""
    model: str = "SIMPLE_RADIAL"
    """COLMAP's name of the model; the focal length comes from EXIF where it is there."""
    params: str = ""
    """Known parameters instead: numbers separated by commas, in pixels and COLMAP's order."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """How a model is made from matches.

    Raises:
        ValueError: for a verification that mappers cannot use.
    """

    mapper: Mapper = "incremental"
    """COLMAP's mapper; ``global`` does not use planar pairs."""
    verification: Verification = "colmap"
    """What estimates the two-view geometry of each pair: COLMAP, or our `estimate_two_view`."""
    seed: int = 0
    """Random seed of COLMAP's RANSAC and mapper."""

    def __post_init__(self) -> None:
        if self.verification == "none":
            raise ValueError("mappers use verified pairs only: verification must be 'colmap' or 'geomatch'")


CAMERAS, MAPPING = Cameras(), Mapping()
"""What functions take when nothing is said."""
