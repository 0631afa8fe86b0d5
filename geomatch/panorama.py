"""Many photographs in one picture: a camera that turned, or a plane seen from several places.

Features, matches and homographies are ours; cameras, exposure, seams and blending are OpenCV's
(``cv2.detail``), in the order of its sample ``stitching_detailed``. Views of a plane are placed by
`geomatch.registration.sequence.adjust`, since OpenCV's affine cameras see no perspective.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf, log2, sqrt
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from geomatch.collection.components import components
from geomatch.errors import ImageError
from geomatch.files import replacing
from geomatch.geometry import resize_homography, shift_homography, warp_points
from geomatch.images import Image, ImageFile, ImageLike, load_image
from geomatch.images.image import reduce_image
from geomatch.opencv.convert import to_image_features
from geomatch.pipeline import Pipeline
from geomatch.progress import progress_bar
from geomatch.registration.sequence import Link, Matrix, adjust
from geomatch.types import HomographyEstimate

Photo = NDArray[np.uint8]
Cameras = dict[int, tuple[Matrix, Matrix]]
"""For each image the matrix from rays to pixels where it is matched, and its rotation to the world."""
SUFFIXES = {".png": True, ".tif": True, ".tiff": True, ".jpg": False, ".jpeg": False}
"""Files that a panorama can be written to, and if they have an alpha channel."""
_log = logging.getLogger(__name__)
_detail: Any = cv2.detail  # of which OpenCV's type stubs know little
_REGISTER, _SEAM = 900, 360  # longest side of an image where it is matched, and where seams are found
_MISFIT = 4.0  # pixels that a pair's median match may be off when all images are placed
_WRONG = 5  # one in so many pairs may be dropped because it fits nothing else
_ALL, _NEXT = 40, 8  # so many images are matched each with each; of more, each with the next few
_GROWTH = 10  # a canvas so many times as large as all images comes from cameras that are wrong
_BLEND = 0.05  # width of the widest band, as a share of the side of the canvas
_WAYS_OUT = {"turning": "for a plane seen from several places give scene 'plane'",
             "plane": "for a camera that turned give scene 'turning'"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PairScore:
    """How two images agree; as a string, a line about it."""

    names: tuple[str, str]  # of both images
    matches: int  # mutual nearest neighbours, or what the matcher found
    inliers: int  # those that agree with the homography; 0 without one
    reason: str  # why there is no homography; empty when there is one

    def __str__(self) -> str:
        # OpenCV's confidence (Brown and Lowe, 2007, ask for more than 1); what decides here is the gate
        confidence = self.inliers / (8 + 0.3 * self.matches)
        agree = f"{self.inliers} of {self.matches} matches agree, confidence {confidence:.2f}"
        return f"{' - '.join(self.names)}: {self.reason or agree}"


@dataclass(frozen=True, eq=False, slots=True)
class Panorama:
    """What `stitch` made; false, with a reason, when there is no picture."""

    pixels: Photo | None  # (H, W, 4) RGBA; alpha is 0 where no image is
    reason: str  # why there is no picture; empty when there is one
    left_out: dict[str, str]  # names of images that are not in the picture, and why
    pairs: tuple[PairScore, ...]  # all that were matched, those with most inliers first

    def __bool__(self) -> bool:
        return self.pixels is not None

    def save(self, path: str | PathLike[str]) -> None:
        """Write a PNG, TIFF or JPEG, whole or not at all; the last without alpha, on black."""
        if self.pixels is None:
            raise ValueError(f"there is no panorama: {self.reason}")
        if (alpha := SUFFIXES.get(Path(path).suffix.lower())) is None:
            raise ImageError(f"{path}: a panorama is written as one of: {', '.join(SUFFIXES)}")
        with replacing(path) as temporary:
            PILImage.fromarray(self.pixels if alpha else self.pixels[:, :, :3]).save(temporary, quality=95)


def stitch(
    sources: Sequence[ImageLike | ImageFile],
    *,
    scene: Literal["turning", "plane"] = "turning",
    projection: Literal["spherical", "cylindrical", "plane"] = "spherical",
    pipeline: Pipeline | None = None,
) -> Panorama:
    """Put photographs that overlap into one picture, in any order; up to 40 are matched each with each.

    Args:
        sources: as `geomatch.load_image` takes them. Files are read twice, so that one at a time is in memory
            at its full size; masked parts are matched with nothing, but drawn.
        scene: ``turning``, a camera that turned where it stood; ``plane``, a wall, map or whiteboard from
            anywhere, drawn as the image with most inliers sees it (extra ``register``).
        projection: of a turning camera: ``plane`` keeps straight lines, for less than half a turn.
        pipeline: how images are described, matched and estimated; views are not searched, nothing is refined.

    Raises ImageError for files that cannot be read, and ValueError for fewer than two.
    """
    if scene not in _WAYS_OUT or projection not in ("spherical", "cylindrical", "plane"):
        raise ValueError(
            f"no such scene or projection: {scene!r}, {projection!r}; see `geomatch panorama --help`"
        )
    if len(sources) < 2:
        raise ValueError(f"a panorama needs two images or more, got {len(sources)}")
    pipeline = pipeline or Pipeline()
    pipeline.check_plane()
    names, sizes, small, described = [], [], [], []
    for number, source in enumerate(progress_bar(sources, "describing", "image"), 1):
        image = _loaded(source)
        names.append(image.name if isinstance(source, str | PathLike | ImageFile) else f"image {number}")
        sizes.append(image.size)
        small.append(reduce_image(image, _SEAM).pixels)
        described += pipeline.describe([reduce_image(image, _REGISTER)])
    every = combinations(range(len(sources)), 2)
    tried = [(i, j) for i, j in every if len(sources) <= _ALL or j - i <= _NEXT]
    scores, links = [], []
    for i, j in progress_bar(tried, "matching", "pair"):
        one, two, matches = pipeline.match(described[i], described[j], {})
        points_i, points_j = one.keypoints[matches.indices[:, 0]], two.keypoints[matches.indices[:, 1]]
        found = pipeline.parts.estimator.estimate(points_i, points_j, one.image_size)
        reason = "" if found else found.reason
        scores.append(PairScore((names[i], names[j]), len(matches), found.num_inliers, reason))
        if isinstance(found, HomographyEstimate):
            links.append(Link(i, j, found.matrix, points_i[found.inliers], points_j[found.inliers]))
    pairs = tuple(sorted(scores, key=lambda pair: (-pair.inliers, -pair.matches)))

    def failed(reason: str) -> Panorama:
        return Panorama(None, reason, {}, pairs)

    spare = len(links) // _WRONG
    while True:
        group = components(len(names), [np.array([(link.i, link.j) for link in links], int).reshape(-1, 2)])
        links = [link for link in links if group[link.i] == np.bincount(group).argmax()]
        if not links:
            return failed(f"no two of {len(names)} images fit together: {'; '.join(map(str, pairs[:3]))}")
        _log.info("placing %d images", np.bincount(group).max())
        placed = _on_plane if scene == "plane" else _turned
        cameras, scale = placed([one.image.size for one in described], links)
        links = [link for link in links if len(cameras) < 2 or {link.i, link.j} <= cameras.keys()]
        errors = [(_error(link, cameras), -len(link.points_i)) for link in links]
        worst = errors.index(max(errors))
        if errors[worst][0] <= _MISFIT:
            break
        wrong = links.pop(worst)  # as repeating patterns make; if they are many, the scene is another one
        if not spare:
            both = f"{names[wrong.i]} and {names[wrong.j]} fit together"
            return failed(f"no cameras of scene '{scene}' explain how {both}: {_WAYS_OUT[scene]}")
        spare -= 1
    strangers = [name for n, name in enumerate(names) if n not in cameras]
    left_out = dict.fromkeys(strangers, "belongs to none of those in the picture")
    whole = {n: resize_homography(described[n].image.size, sizes[n]) for n in cameras}
    views = [_View(sources[n], small[n], sizes[n], whole[n] @ k, turn) for n, (k, turn) in cameras.items()]
    scale *= float(np.median([matrix[0, 0] for matrix in whole.values()]))
    surface = "plane" if scene == "plane" else projection  # of a plane's homography as the inner matrix
    warper = cv2.PyRotationWarper(surface, scale)
    boxes = np.array([warper.warpRoi(view.size, *view.camera(view.size)) for view in views])
    first = boxes[:, :2].min(0)
    width, height = ((boxes[:, :2] + boxes[:, 2:]).max(0) - first).tolist()
    if width * height > _GROWTH * sum(view.size[0] * view.size[1] for view in views):
        way = _WAYS_OUT[scene] if scene == "plane" else "give another projection, or scene 'plane'"
        return failed(f"the picture would have {width}x{height} pixels, far more than all images: {way}")
    _log.info("blending %d images to %dx%d pixels", len(views), width, height)
    box = int(first[0]), int(first[1]), int(width), int(height)
    return Panorama(_blended(views, surface, scale, box), "", left_out, pairs)


def _loaded(source: ImageLike | ImageFile) -> Image:
    return source.load() if isinstance(source, ImageFile) else load_image(source)


def _error(link: Link, cameras: Cameras) -> float:
    """Median difference of matches where the cameras see them; infinite without an answer."""
    if not {link.i, link.j} <= cameras.keys():
        return inf
    (inner_i, turn_i), (inner_j, turn_j) = cameras[link.i], cameras[link.j]
    sent = warp_points(inner_j @ turn_j.T @ turn_i @ np.linalg.inv(inner_i), link.points_i)
    return float(np.nan_to_num(np.median(np.linalg.norm(sent - link.points_j, axis=1)), nan=inf))


def _on_plane(sizes: Sequence[tuple[int, int]], links: Sequence[Link]) -> tuple[Cameras, float]:
    """Cameras that see a plane, of pixels as the image with most inliers has them: one per ray."""
    support = np.zeros(len(sizes))
    for link in links:
        support[[link.i, link.j]] += len(link.points_i)
    placed = enumerate(adjust(len(sizes), links, "homography", int(support.argmax())))
    return {n: (np.asarray(np.linalg.inv(m)), np.eye(3)) for n, m in placed if m is not None}, 1.0


def _turned(sizes: Sequence[tuple[int, int]], links: Sequence[Link]) -> tuple[Cameras, float]:
    """Cameras that turned, and pixels per radian; none where OpenCV finds none."""
    order = sorted({end for link in links for end in (link.i, link.j)})
    count, points = len(order), [np.zeros((0, 2))] * len(order)
    empty, matcher = to_image_features((), None, (1, 1)), _detail.BestOf2NearestMatcher(False)
    infos = [matcher.apply(empty, empty) for _ in range(count * count)]  # fresh ones crash OpenCV 4
    for link in links:
        a, b = order.index(link.i), order.index(link.j)
        rows = np.arange(len(link.points_i))[:, None] + (len(points[a]), len(points[b]))
        points[a], points[b] = np.r_[points[a], link.points_i], np.r_[points[b], link.points_j]
        # OpenCV's homographies are of points from the middle of the image
        to_a, to_b = (shift_homography(sizes[n][0] / 2, sizes[n][1] / 2) for n in (link.i, link.j))
        matrix = np.linalg.inv(to_b) @ link.matrix @ to_a
        for i, j, h, pairs in ((a, b, matrix, rows), (b, a, np.linalg.inv(matrix), rows[:, ::-1])):
            info = infos[i * count + j]
            info.src_img_idx, info.dst_img_idx, info.H, info.confidence = i, j, h / h[2, 2], 1.0
            info.matches = [cv2.DMatch(i, j, 0.0) for i, j in pairs.tolist()]
            info.inliers_mask, info.num_inliers = np.ones(len(rows), np.uint8), len(rows)
    features = [
        to_image_features([cv2.KeyPoint(x, y, 1) for x, y in own], np.zeros((len(own), 1)), sizes[n], place)
        for place, (n, own) in enumerate(zip(order, points, strict=True))
    ]
    found, cameras = _detail.HomographyBasedEstimator().apply(features, infos, None)
    if found:
        for camera in cameras:
            camera.R = camera.R.astype(np.float32)
        adjuster = _detail.BundleAdjusterRay()
        adjuster.setConfThresh(0.5)  # all links: the gate has decided
        found, cameras = adjuster.apply(features, infos, cameras)
    if not found or not all(np.isfinite(camera.R).all() and 0 < camera.focal < inf for camera in cameras):
        return {}, 0.0
    turns = _detail.waveCorrect([camera.R for camera in cameras], _detail.WAVE_CORRECT_AUTO)
    inner = [camera.K().astype(np.float64) for camera in cameras]
    made = zip(inner, (turn.astype(np.float64) for turn in turns), strict=True)
    return dict(zip(order, made, strict=True)), float(np.median([matrix[0, 0] for matrix in inner]))


@dataclass(frozen=True, eq=False, slots=True)
class _View:
    source: ImageLike | ImageFile
    small: Photo
    size: tuple[int, int]
    inner: Matrix
    turn: Matrix

    def camera(self, size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Inner matrix of the image reduced to ``size``, and rotation, as OpenCV's warpers take them."""
        inner = resize_homography(self.size, size) @ self.inner
        return inner.astype(np.float32), self.turn.astype(np.float32)

    def drawn(self, warper: cv2.PyRotationWarper, pixels: Photo) -> tuple[Any, Any, Any]:
        """First pixel on the canvas, the warped picture, and its mask."""
        camera = self.camera((pixels.shape[1], pixels.shape[0]))
        corner, layer = warper.warp(pixels, *camera, cv2.INTER_LINEAR, cv2.BORDER_REFLECT)
        whole = np.full(pixels.shape[:2], 255, np.uint8)
        return corner, layer, warper.warp(whole, *camera, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)[1]


def _blended(views: Sequence[_View], surface: str, scale: float, box: tuple[int, int, int, int]) -> Photo:
    """(H, W, 4); exposure and seams come from the reduced images."""
    reduced = float(np.median([view.small.shape[1] / view.size[0] for view in views]))
    warper = cv2.PyRotationWarper(surface, scale * reduced)  # not one for both: setScale does nothing
    corners, layers, masks = zip(*(view.drawn(warper, view.small) for view in views), strict=True)
    exposure = _detail.ChannelsCompensator(10)  # feeds; with one, and by blocks, exposures stayed visible
    exposure.feed(corners, layers, masks)
    values = [layer.astype(np.float32) for layer in layers]
    seams = _detail.GraphCutSeamFinder("COST_COLOR").find(values, corners, masks)
    warper, blender = cv2.PyRotationWarper(surface, scale), _detail.MultiBandBlender()
    blender.setNumBands(max(1, int(log2(max(1.0, sqrt(box[2] * box[3]) * _BLEND)))))
    blender.prepare(box)
    seamed = list(zip(views, seams, strict=True))
    for index, (view, seam) in enumerate(progress_bar(seamed, "blending", "image")):
        corner, layer, mask = view.drawn(warper, _loaded(view.source).pixels)
        cut = cv2.dilate(seam.get() if isinstance(seam, cv2.UMat) else seam, np.ones((3, 3), np.uint8))
        cut = cv2.resize(cut, mask.shape[::-1], interpolation=cv2.INTER_LINEAR_EXACT)
        layer = exposure.apply(index, corner, layer, mask)
        blender.feed(layer.astype(np.int16), cv2.bitwise_and(cut, mask), corner)
    pixels, mask = blender.blend(None, None)
    return np.dstack([np.clip(pixels, 0, 255).astype(np.uint8), mask])
