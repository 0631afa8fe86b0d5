"""Images that are too large to be matched whole: reduced first, then in tiles that the first answer pairs.

Tiles are windows of the files, so that memory does not grow with the images. So many are taken at most, spread
over the overlap, that time does not either.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from geomatch.alignment import Part, align_parts
from geomatch.errors import GeomatchError, ImageError
from geomatch.estimators import Estimator, threshold_of
from geomatch.geometry import image_corners, resize_homography, shift_homography, warp_points
from geomatch.images import Image, ImageFile
from geomatch.images.masks import add_mask
from geomatch.pipeline import Pipeline, timed
from geomatch.rasters.reading import Raster, open_raster
from geomatch.relating import match_described, relate
from geomatch.results import MatchResult
from geomatch.types import EstimationFailure, Features, HomographyEstimate, Matches
from geomatch.views.features import features_of

LARGE = 30_000_000
"""Pixels above which an image is matched in tiles."""
SIDE = 2000
"""Long side in pixels of the first, reduced images."""
TILE, MOST_TILES, KEYPOINTS = 1024, 36, 300
"""Side in pixels of image 0 of a tile, the most tiles, and keypoints of each."""
_OVERLAP = 64  # pixels of two neighbouring tiles
_MARGIN = 24  # pixels about where the first answer sends a tile, beside three times its deviation
_LARGEST = 2.5  # times the side of a tile: larger windows of image 1 come from smaller tiles
_FOLLOWED = 16  # tiles in which Lucas-Kanade follows keypoints


@dataclass(frozen=True, eq=False, slots=True)
class _Source:
    """A large image, its mask, and where that is."""

    raster: Raster
    file: ImageFile
    mask: Raster | None

    def overview(self) -> Image:
        image = self.raster.overview(SIDE, self.file.conversion)
        allowed = None if self.mask is None else self.mask.overview(SIDE).pixels.any(axis=2)
        border = round(self.file.ignore_border * max(image.size) / max(self.raster.size))
        return self._masked(image, allowed, border)

    def window(self, left: int, top: int, width: int, height: int) -> Image:
        box = left, top, width, height
        image = self.raster.window(*box, self.file.conversion)
        allowed = None if self.mask is None else self.mask.window(*box).pixels.any(axis=2)
        if self.file.ignore_border:
            distances = [
                np.minimum(np.arange(first, first + count), side - 1 - np.arange(first, first + count))
                for first, count, side in ((left, width, self.raster.size[0]), (top, height, self.raster.size[1]))
            ]
            inner = [own >= self.file.ignore_border for own in distances]
            own = inner[1][:, None] & inner[0]
            allowed = own if allowed is None else allowed & own
        return self._masked(image, allowed, 0)

    def _masked(self, image: Image, allowed: NDArray[np.bool_] | None, border: int) -> Image:
        return image if allowed is None and not border else add_mask(image, allowed, str(self.file.mask), border)


def relate_large(
    pipeline: Pipeline, file0: ImageFile, file1: ImageFile, seconds: dict[str, float] | None = None
) -> MatchResult:
    """Match two image files of any size by a plane model; the result's images are reduced, its pixels are not.

    What does not fit the reduced images' answer is not found, so a scene with depth must have little of it.
    Dense describers see each tile as an image of its own.

    Raises ImageError when an image cannot be read, ValueError for other than plane models.
    """
    pipeline.check_plane()
    seconds = {} if seconds is None else seconds
    with ExitStack() as stack:
        sources = [_opened(stack, file) for file in (file0, file1)]
        with timed(seconds, "read"):
            images = [source.overview() for source in sources]
        sizes = [source.raster.size for source in sources]
        one, two = pipeline.describe(images, seconds)
        first = relate(pipeline, one, two, seconds)
        to_small = [resize_homography(size, image.size) for size, image in zip(sizes, images, strict=True)]
        whole = _resized(first, to_small, sizes)
        if not isinstance(first.geometry, HomographyEstimate):
            return whole
        matrix = np.linalg.inv(to_small[1]) @ first.geometry.matrix @ to_small[0]
        off = 1.0 if first.geometry.corner_deviations is None else first.geometry.corner_deviations.max()
        margin = _MARGIN + 3 * off * sizes[1][0] / images[1].size[0]
        tiles = list(_tiles(matrix, sizes[0], sizes[1], margin))
        with timed(seconds, "tiles"):
            found = _in_tiles(pipeline, sources, tiles, matrix, margin)
        if found is None:
            return whole
        features0, features1, matches = found
        estimator, threshold = cast(Estimator, pipeline.estimator), pipeline.threshold
        i, j = matches.indices.T
        points0, points1 = features0.keypoints[i], features1.keypoints[j]
        with timed(seconds, "estimate"):
            geometry = estimator.estimate(points0, points1, sizes[0])
        if geometry and pipeline.refine_homography:
            with timed(seconds, "refine_homography"):
                chosen = tiles[:: -(-len(tiles) // _FOLLOWED)]
                parts = _Parts(sources, chosen, features0.keypoints)
                geometry = align_parts(parts, sizes[0], points0, points1, geometry, estimator, threshold)
        return replace(whole, features0=features0, features1=features1, matches=matches, geometry=geometry)
    raise AssertionError  # nothing above is suppressed
