"""Images that are too large to be matched whole: reduced first, then in tiles that the first answer pairs.

Tiles are windows of the files, some of all, so that neither memory nor time grows with the images.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from geomatch.alignment import Part, align_parts, prepare_part
from geomatch.errors import ImageError
from geomatch.estimators.models import PLANE_MODELS
from geomatch.geometry import image_corners, resize_homography, warp_points
from geomatch.images import Image, ImageFile
from geomatch.images.image import add_mask
from geomatch.keypoints import MixedDetector, create_detector
from geomatch.parallel import side_by_side
from geomatch.pipeline import Pipeline, timed
from geomatch.rasters.reading import Raster, open_raster
from geomatch.relating import relate
from geomatch.results import MatchResult
from geomatch.types import EstimationFailure, Features, HomographyEstimate, Matches
from geomatch.views.features import features_of

LARGE = 30_000_000
"""Pixels above which an image is matched in tiles."""
SIDE = 1400
"""Long side in pixels of the first, reduced images."""
TILE, MOST_TILES, KEYPOINTS = 1024, 24, 300
"""Side in pixels of image 0 of a tile, the most tiles, and keypoints of each."""
_OVERLAP = 64  # pixels of two neighbouring tiles
_MARGIN = 24  # pixels about where the first answer sends a tile, beside three times its deviation
_LARGEST = 2.5  # times the side of a tile: larger windows of image 1 come from smaller tiles
_FOLLOWED = 16  # tiles in which Lucas-Kanade follows keypoints


Size = tuple[int, int]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False, slots=True)
class _Source:
    """A large image, its mask, and where that is."""

    raster: Raster
    file: ImageFile
    mask: Raster | None

    def overview(self) -> Image:
        image = self.raster.overview(SIDE, self.file.conversion)
        allowed = None if self.mask is None else np.asarray(self.mask.overview(SIDE).pixels.any(axis=2))
        border = round(self.file.ignore_border * max(image.size) / max(self.raster.size))
        return add_mask(image, allowed, str(self.file.mask), border)

    def window(self, left: int, top: int, width: int, height: int) -> Image:
        box = left, top, width, height
        image = self.raster.window(*box, self.file.conversion)
        allowed = None if self.mask is None else np.asarray(self.mask.window(*box).pixels.any(axis=2))
        if self.file.ignore_border:
            x, y = left + np.arange(width), top + np.arange(height)[:, None]
            right, bottom = (side - 1 for side in self.raster.size)
            own = np.minimum(np.minimum(x, right - x), np.minimum(y, bottom - y)) >= self.file.ignore_border
            allowed = own if allowed is None else allowed & own
        return add_mask(image, allowed, str(self.file.mask), 0)


def are_large(pipeline: Pipeline, *files: ImageFile) -> bool:
    """True if a plane is sought in files of which one is large; ImageError when one cannot be read."""
    return pipeline.model in PLANE_MODELS and any(file.pixels() > LARGE for file in files)


def relate_large(pipeline: Pipeline, file0: ImageFile, file1: ImageFile) -> MatchResult:
    """Match two files of any size by a plane model; the result's images are reduced, its coordinates are not.

    What does not fit the reduced images' answer is not found, so a scene with depth must have little of it.
    Dense describers see each tile as an image of its own. Raises ImageError when an image cannot be read.
    """
    seconds: dict[str, float] = {}
    with ExitStack() as stack:
        sources = [_opened(stack, file) for file in (file0, file1)]
        with timed(seconds, "read"):
            images = side_by_side(_Source.overview, sources)
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
        with timed(seconds, "tiles"):
            tiles = _matched_tiles(pipeline, sources, matrix, margin)
            if not tiles:
                reason = "the images overlap too little, or their scales differ too much"
                return replace(whole, geometry=EstimationFailure(reason))
            features0, features1, matches = _joined(tiles)
    estimator, threshold = pipeline.parts.estimator, pipeline.threshold
    i, j = matches.indices.T
    points0, points1 = features0.keypoints[i], features1.keypoints[j]
    with timed(seconds, "estimate"):
        geometry = estimator.estimate(points0, points1, sizes[0])
    if geometry and pipeline.refine_homography:
        with timed(seconds, "refine_homography"):
            some = tiles[:: -(-len(tiles) // _FOLLOWED)]
            parts = [(tile.part, tile.features[0].keypoints) for tile in some]
            geometry = align_parts(parts, sizes[0], points0, points1, geometry, estimator, threshold)
    return replace(whole, features0=features0, features1=features1, matches=matches, geometry=geometry)


@dataclass(frozen=True, eq=False, slots=True)
class _Tile:
    """A window of each image, and what was matched there."""

    part: Part
    """For Lucas-Kanade."""
    features: tuple[Features, Features]
    """In pixels of the whole images."""
    matches: Matches


def _opened(stack: ExitStack, file: ImageFile) -> _Source:
    raster = stack.enter_context(open_raster(file.path, apply_exif=file.apply_exif))
    mask = file.mask and stack.enter_context(open_raster(file.mask, apply_exif=False))
    stored = raster.size[:: -1 if raster.orientation > 4 else 1]
    if mask and mask.size == stored:  # of the pixels as stored, see `load_image`
        mask = replace(mask, size=raster.size, orientation=raster.orientation)
    if mask and mask.size != raster.size:
        sizes = [f"{width}x{height}" for width, height in (mask.size, raster.size)]
        raise ImageError(f"{file.mask}: the mask has {sizes[0]} pixels, {file.path} has {sizes[1]}")
    return _Source(raster, file, mask or None)


def _resized(
    first: MatchResult, to_small: Sequence[NDArray[np.float64]], sizes: Sequence[Size]
) -> MatchResult:
    """What was found in reduced images, in pixels of the whole ones."""
    features = [
        replace(
            own,
            keypoints=warp_points(np.linalg.inv(matrix), own.keypoints).astype(np.float32),
            scales=None if own.scales is None else own.scales / np.float32(matrix[0, 0]),
            image_size=size,
        )
        for own, matrix, size in zip((first.features0, first.features1), to_small, sizes, strict=True)
    ]
    settings = {**first.settings}
    for number, size in enumerate(sizes):
        settings[f"image{number}"] = {**settings[f"image{number}"], "size": list(size)}
    return replace(first, features0=features[0], features1=features[1], settings=settings)


def _matched_tiles(
    pipeline: Pipeline, sources: Sequence[_Source], matrix: NDArray[np.float64], margin: float
) -> list[_Tile]:
    """Tiles of image 0, each matched with the window of image 1 where the matrix sends it."""
    parts, detector = pipeline.parts, pipeline.parts.detector
    if isinstance(detector, MixedDetector):  # where to look is known by now: SIFT's take a fifth of the time
        detector = create_detector("sift")
    if is_dataclass(detector) and getattr(detector, "max_keypoints", None):
        detector = replace(cast(Any, detector), max_keypoints=KEYPOINTS)
    small = replace(pipeline, matcher=parts.matcher, detector=detector, descriptor=parts.describer)
    tiles = []
    for box0, box1 in _boxes(matrix, sources[0].raster.size, sources[1].raster.size, margin):
        images = sources[0].window(*box0), sources[1].window(*box1)
        one, two = small.describe(images)
        features0, features1, matches = small.match(one, two, {})
        firsts = (box0[0], box0[1]), (box1[0], box1[1])
        own = []
        for features, first, source in zip((features0, features1), firsts, sources, strict=True):
            moved = features.keypoints + np.array(first, np.float32)
            own.append(replace(features, keypoints=moved, image_size=source.raster.size))
        i, j = matches.indices.T
        with np.errstate(invalid="ignore"):
            sent = warp_points(matrix, own[0].keypoints[i])
            near = np.linalg.norm(sent - own[1].keypoints[j], axis=1) <= margin
        tiles.append(_Tile(prepare_part(*images, *firsts), (own[0], own[1]), matches[near]))
    return tiles


def _boxes(matrix: NDArray[np.float64], size0: Size, size1: Size, margin: float) -> list[tuple[Box, Box]]:
    """Windows (left, top, width, height) of both images that show the same, spread over the overlap."""
    zoom = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
    side = min(TILE, max(64, int(_LARGEST * TILE / max(zoom, 1e-9))))
    step = side - min(_OVERLAP, side // 4)
    columns, rows = (np.linspace(0, max(0, own - side), -(-own // step)).astype(int) for own in size0)
    found = []
    for top in dict.fromkeys(rows.tolist()):
        for left in dict.fromkeys(columns.tolist()):
            box0 = left, top, min(side, size0[0] - left), min(side, size0[1] - top)
            corners = warp_points(matrix, image_corners((box0[2], box0[3])) + np.array([left, top]))
            low = np.maximum(np.floor(corners.min(0) - margin), 0)
            high = np.minimum(np.ceil(corners.max(0) + margin) + 1, size1)
            sizes = high - low
            if np.isfinite(corners).all() and sizes.min() >= side / 8 and sizes.max() <= 2 * _LARGEST * TILE:
                low, size = low.astype(int), sizes.astype(int)
                found.append((box0, (int(low[0]), int(low[1]), int(size[0]), int(size[1]))))
    chosen = np.unique(np.linspace(0, len(found) - 1, min(len(found), MOST_TILES)).round().astype(int))
    return [found[index] for index in chosen]


def _joined(tiles: Sequence[_Tile]) -> tuple[Features, Features, Matches]:
    """Keypoints and matches of all tiles, best first."""
    features0, features1 = (features_of([tile.features[side] for tile in tiles]) for side in (0, 1))
    starts = np.cumsum([[0, 0], *[[len(own) for own in tile.features] for tile in tiles]], axis=0)
    every = [tile.matches.indices + start for tile, start in zip(tiles, starts, strict=False)]
    similarity = np.concatenate([tile.matches.similarity for tile in tiles])
    order = np.argsort(-similarity, kind="stable")
    return features0, features1, Matches(np.concatenate(every)[order], similarity[order])
