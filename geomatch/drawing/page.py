"""Two images, what their features see and how they match, as one page of HTML that needs nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.dift import DIFTConfig, DIFTExtractor, FeatureMap, cached_extractor
from geomatch.dift.maps.feature_map import cell_centres
from geomatch.files import as_base64, fill_page
from geomatch.geometry import resize_homography, warp_points
from geomatch.images import Image, reduce_image
from geomatch.isolation import isolated
from geomatch.results import MatchResult
from geomatch.types import Metric

PICTURE_SIDE = 1000
"""Images are reduced to this long side, JPEG of quality 80."""
GRID_SIDE = 80
"""Most cells along the long side of an image."""
COMPONENTS, VARIANCE, TWICE = 120, 0.999, 8
"""At most so many principal components, as many as have this share of the variance, and how many of the first
get a second byte, which holds what rounding took: without it a third of single layers' best cells are wrong."""
LAYERS: tuple[str, ...] = ("down_blocks.1.resnets.0", "mid_block")
TIMESTEPS = (20, 200)
"""Single layers of the embedded network that are shown beside the descriptor."""
_FAR = 9999.0  # pixels: what errors are at most


@dataclass(frozen=True, eq=False, slots=True)
class PageMap:
    """Features of two images on grids of cells, in bytes: a cell's value in component ``components[k]`` is the
    sum of ``low[k] + step[k] * code``; values are relative to the mean of both images."""

    timestep: int
    layers: str
    metric: Metric
    grids: tuple[tuple[int, int], ...]  # (columns, rows) of each image
    codes: tuple[NDArray[np.uint8], ...]  # (cells, K), row by row
    squares: tuple[NDArray[np.float32], ...]  # (cells,) squared length, exact: distances are compared
    components: NDArray[np.int64]  # (K,)
    low: NDArray[np.float64]  # (K,)
    step: NDArray[np.float64]  # (K,)


def page_maps(
    config: DIFTConfig, images: Sequence[Image], timesteps: Sequence[int], layers: Sequence[str | int]
) -> list[PageMap]:
    """Maps of two images: first the descriptor's own, then of every layer alone at every timestep."""
    own = cached_extractor(config)
    found = [encode_maps(config, [own.dense(image) for image in images])]
    if not timesteps or not layers:
        return found
    alone = DIFTExtractor(replace(config, layers=tuple(layers), head=False))
    for timestep in timesteps:
        extractor = replace(alone, config=replace(alone.config, timestep=timestep))
        vars(extractor)["model"] = alone.model  # networks are the same at every timestep
        maps = [extractor.dense(image) for image in images]
        for place, layer in enumerate(layers):
            part = [FeatureMap((one.maps[place],), one.image_size) for one in maps]
            found.append(encode_maps(replace(extractor.config, layers=(layer,)), part))
    return found


@isolated()
def encode_maps(config: DIFTConfig, maps: Sequence[FeatureMap]) -> PageMap:
    """The features of two images at the centres of cells, in their common principal components."""
    metric: Metric = "cosine" if config.head else config.metric
    grids = tuple(_grid(one) for one in maps)
    rows = [
        one.sample_tensor(cell_centres(grid, one.image_size, one.maps[0]), metric).numpy(force=True)
        for one, grid in zip(maps, grids, strict=True)
    ]
    centred = np.concatenate(rows).astype(np.float64)
    centred -= centred.mean(0)
    power, vectors = np.linalg.eigh(centred.T @ centred)
    share = np.cumsum(power[::-1]) / max(power.sum(), 1e-12)
    count = min(COMPONENTS, int(np.searchsorted(share, VARIANCE)) + 1, len(power))
    values = centred @ vectors[:, ::-1][:, :count]
    first = _as_bytes(values)
    rounded = first[1] + first[2] * first[0]
    codes, low, step = (
        np.concatenate(both, axis=-1)
        for both in zip(first, _as_bytes((values - rounded)[:, :TWICE]), strict=True)
    )
    ends = [len(rows[0])]
    squares = np.split(np.square(centred).sum(1).astype(np.float32), ends)
    components = np.concatenate([np.arange(count), np.arange(min(TWICE, count))])
    named = ", ".join(map(str, config.layers))
    split = tuple(np.split(codes.astype(np.uint8), ends))
    return PageMap(config.timestep, named, metric, grids, split, tuple(squares), components, low, step)


def write_page(path: Path, result: MatchResult, maps: Sequence[PageMap], descriptor: str) -> None:
    """Write the page of a match result; ``descriptor`` names what the first of the maps is of."""
    images = (result.image0, result.image1)
    small = [reduce_image(image, PICTURE_SIDE) for image in images]
    found = result.homography
    columns = [*result.points0.T, *result.points1.T, result.matches.similarity, _ratios(result)]
    content: dict[str, Any] = {
        "images": [
            {"name": image.name, "size": image.size, "picture": _jpeg(shown.pixels)}
            for image, shown in zip(images, small, strict=True)
        ],
        "descriptor": descriptor, "maps": [_as_json(one) for one in maps],
        "keypoints": [len(result.features0), len(result.features1)],
        "reason": None if found else found.reason, "inliers": found.num_inliers, "warped": None,
    }  # fmt: skip
    if found:
        away = np.linalg.norm(warp_points(found.matrix, result.points0) - result.points1, axis=1)
        columns.append(np.fmin(away, _FAR))
        sizes = [(image.size, shown.size) for image, shown in zip(images, small, strict=True)]
        down0, down1 = (resize_homography(*pair) for pair in sizes)
        behind = np.asarray(small[1].pixels // 2 + 64, np.uint8)  # pale where image 0 does not reach
        matrix = down1 @ found.matrix @ np.linalg.inv(down0)
        shown = cv2.warpPerspective(
            small[0].pixels, matrix, small[1].size, behind, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT
        )
        content["warped"] = _jpeg(np.asarray(shown, np.uint8))
    content["matches"] = [[round(value, 3) for value in row] for row in np.stack(columns, 1).tolist()]
    fill_page(path, "geomatch.drawing", "page.html", {}, content)


def _grid(feature_map: FeatureMap) -> tuple[int, int]:
    """Columns and rows over the image, no finer than its finest layer."""
    over = max(feature_map.image_size) / GRID_SIDE
    cells = [max(layer.shape[-1 - axis] for layer in feature_map.maps) for axis in (0, 1)]
    columns, rows = (
        max(1, min(round(side / over), most))
        for side, most in zip(feature_map.image_size, cells, strict=True)
    )
    return columns, rows


def _as_bytes(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Codes 0 to 255 (N, K), and what they count from (K,) and in (K,)."""
    low = values.min(0)
    step = np.maximum(values.max(0) - low, 1e-12) / 255
    return np.round((values - low) / step), low, step


def _as_json(one: PageMap) -> dict[str, Any]:
    return {
        "timestep": one.timestep, "layers": one.layers, "metric": one.metric, "grids": one.grids,
        "codes": [as_base64(codes, "u1") for codes in one.codes],
        "squares": [as_base64(squares, "<f4") for squares in one.squares],
        "components": one.components.tolist(), "low": one.low.tolist(), "step": one.step.tolist(),
    }  # fmt: skip


def _ratios(result: MatchResult) -> NDArray[np.float32]:
    """(M,) distance of each match over that of the nearest other keypoint of image 1, as of Lowe's test."""
    own, others = result.features0.descriptors, result.features1.descriptors
    if own is None or others is None:
        return np.zeros(0, np.float32)
    i, j = result.matches.indices.T
    squared = np.square(own[i]).sum(1)[:, None] + np.square(others).sum(1) - 2 * own[i] @ others.T
    distance = np.sqrt(np.maximum(squared, 0))
    places = np.arange(len(i))
    nearest = distance[places, j]
    distance[places, j] = np.inf
    return np.asarray(nearest / np.maximum(distance.min(axis=1, initial=np.inf), 1e-12), np.float32)


def _jpeg(pixels: NDArray[np.uint8]) -> str:
    _, code = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return f"data:image/jpeg;base64,{as_base64(code, 'u1')}"
