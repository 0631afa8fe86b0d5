"""Two images, what their features see and how they match, as one page of HTML that needs nothing else."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from geomatch.dift import DIFTConfig, DIFTExtractor, FeatureMap, cached_extractor
from geomatch.dift.maps.feature_map import cell_centres
from geomatch.files import as_base64, fill_page
from geomatch.images import Image, reduce_image
from geomatch.isolation import isolated
from geomatch.results import MatchResult
from geomatch.types import Metric

PICTURE_SIDE, GRID_SIDE = 1000, 80
"""Pixels of the long side of the page's images, and most cells along it."""
COMPONENTS, VARIANCE, TWICE = 120, 0.999, 8
"""Most principal components, the share of the variance that is enough, and how many of the first get a second
byte, for what rounding took: without it a quarter of single layers' best cells are wrong."""
EMBEDDED = ((20, 200), ("down_blocks.1.resnets.0", "mid_block"))
"""Timesteps and layers of the embedded network that are shown beside the descriptor."""


@dataclass(frozen=True, slots=True)
class PageMap:
    """Features of two images on grids of cells, as the page reads them.

    Relative to the mean of both images, a cell's value in component ``components[k]`` is the sum of
    ``low[k] + step[k] * code``. Distances are compared, with the squared lengths that were exact.
    """

    timestep: int
    layers: str
    metric: Metric
    grids: list[tuple[int, int]]  # columns and rows of each image
    codes: list[str]  # base64 of uint8 (cells, K), row by row
    squares: list[str]  # base64 of float32 (cells,)
    components: list[int]  # (K,)
    low: list[float]  # (K,)
    step: list[float]  # (K,)


def page_maps(
    config: DIFTConfig, images: Sequence[Image], timesteps: Sequence[int], layers: Sequence[str | int]
) -> list[PageMap]:
    """Maps of two images: first the descriptor's own, then of every layer alone at every timestep."""
    found = [encode_maps(config, cached_extractor(config).dense_many(images))]
    alone = DIFTExtractor(replace(config, layers=tuple(layers) or config.layers, head=False))
    for timestep in timesteps:
        extractor = replace(alone, config=replace(alone.config, timestep=timestep))
        vars(extractor)["model"] = alone.model  # networks are the same at every timestep
        maps = extractor.dense_many(images)
        for place, layer in enumerate(layers):
            part = [FeatureMap((one.maps[place],), one.image_size) for one in maps]
            found.append(encode_maps(replace(extractor.config, layers=(layer,)), part))
    return found


@isolated()
def encode_maps(config: DIFTConfig, maps: Sequence[FeatureMap]) -> PageMap:
    """The features of two images at the centres of cells, in their common principal components."""
    metric: Metric = "cosine" if config.head else config.metric
    grids = [_grid(one) for one in maps]
    rows = [
        one.sample_tensor(cell_centres(grid, one.image_size, one.maps[0]), metric).numpy(force=True)
        for one, grid in zip(maps, grids, strict=True)
    ]
    centred = np.concatenate(rows).astype(np.float64)
    centred -= centred.mean(0)
    power, vectors = np.linalg.eigh(centred.T @ centred)
    enough = np.searchsorted(np.cumsum(power[::-1]), VARIANCE * power.sum()) + 1
    values = (centred @ vectors[:, ::-1])[:, : min(enough, COMPONENTS)]
    first = _as_bytes(values)
    rest = _as_bytes((values - first[1] - first[2] * first[0])[:, :TWICE])
    codes, low, step = (np.concatenate(both, -1) for both in zip(first, rest, strict=True))
    numbers = [*range(values.shape[1]), *range(rest[0].shape[1])]

    def of_each(values: NDArray[np.float64], kind: str) -> list[str]:
        return [as_base64(part, kind) for part in np.split(values, [len(rows[0])])]

    return PageMap(
        config.timestep, ", ".join(map(str, config.layers)), metric, grids, of_each(codes, "u1"),
        of_each(np.square(centred).sum(1), "<f4"), numbers, low.tolist(), step.tolist(),
    )  # fmt: skip


def write_page(path: Path, result: MatchResult, maps: Sequence[PageMap], descriptor: str) -> None:
    """Write the page of a match result; ``descriptor`` names what the first of the maps is of."""
    images, found = (result.image0, result.image1), result.homography
    columns = [*result.points0.T, *result.points1.T, result.matches.similarity, _ratios(result)]
    content = {
        "images": [{"name": Path(one.name).name, "size": one.size, "picture": _jpeg(one)} for one in images],
        "descriptor": descriptor, "maps": [asdict(one) for one in maps],
        "keypoints": [len(result.features0), len(result.features1)], "inliers": found.num_inliers,
        "reason": None if found else found.reason, "homography": found.matrix.tolist() if found else None,
        "matches": np.stack(columns, 1).astype(np.float64).round(3).tolist(),
    }  # fmt: skip
    fill_page(path, "geomatch.drawing", "page.html", content)


def _grid(feature_map: FeatureMap) -> tuple[int, int]:
    """Columns and rows over the image, no finer than its finest layer."""
    size = np.array(feature_map.image_size)
    finest = np.max([layer.shape[:0:-1] for layer in feature_map.maps], axis=0)
    columns, rows = np.clip(np.round(size * GRID_SIDE / size.max()), 1, finest).astype(int).tolist()
    return columns, rows


def _as_bytes(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Codes 0 to 255 (N, K), what they count from (K,) and in (K,)."""
    low = values.min(0)
    step = np.maximum(values.max(0) - low, 1e-12) / 255
    return np.round((values - low) / step), low, step


def _ratios(result: MatchResult) -> NDArray[np.float32]:
    """(M,) distance of each match over that of the nearest other keypoint of image 1, as of Lowe's test."""
    own, others = result.features0.descriptors, result.features1.descriptors
    if own is None or others is None:
        return np.zeros(len(result.matches), np.float32)
    i, j = result.matches.indices.T
    squared = np.square(own[i]).sum(1)[:, None] + np.square(others).sum(1) - 2 * own[i] @ others.T
    nearest = squared[np.arange(len(i)), j]
    squared[np.arange(len(i)), j] = np.inf
    second = np.maximum(squared.min(1, initial=np.inf), 1e-12)
    return np.asarray(np.sqrt(np.maximum(nearest, 0) / second), np.float32)


def _jpeg(image: Image) -> str:
    small = reduce_image(image, PICTURE_SIDE).pixels[..., ::-1]
    _, code = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return f"data:image/jpeg;base64,{as_base64(code, 'u1')}"
