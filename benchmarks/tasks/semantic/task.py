"""Data sets of semantic correspondence as tasks: sums over pairs, and what reports show."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from geomatch.benchmarks.harness.task import (
    UNREADABLE,
    Axes,
    Curve,
    Entry,
    Row,
    Task,
    Values,
    Words,
    by_name,
    key_of,
    threshold_of,
)
from geomatch.benchmarks.methods.method import feature_key
from geomatch.benchmarks.tasks.semantic.data import Category, KeypointPair, read_semantic
from geomatch.dift import FeatureMap
from geomatch.dift.maps.transfer import PixelFeatures, Rule, target_of, transfer_points
from geomatch.errors import ImageError
from geomatch.files import pack_arrays, sha256_of, unpack_arrays
from geomatch.images import load_image
from geomatch.store import Store
from geomatch.types import Metric

_LIMIT = 0.3  # alpha at the end of curves
KIND = "maps"  # kind of the maps in the store
_LAYERS = tuple(f"layer{index}" for index in range(64))
Reference = Literal["box", "image"]


@dataclass(frozen=True, slots=True)
class SemanticProtocol:
    """One way to evaluate by PCK (Yang and Ramanan, 2013): a point is right within alpha times a length.

    ``PCK@a`` counts points over all pairs, ``PCK@a per image`` is the mean over pairs. Each point of the
    source goes to the most similar place of the target; maps are compared at the resolution of the images,
    between the cells bilinearly.
    """

    name: str
    version: int
    source: str  # the paper or code that defines it
    reference: Reference  # alpha is a share of the longer side of the target's box, or of the target image
    rule: Rule = "argmax"
    alphas: tuple[float, ...] = (0.01, 0.05, 0.1, 0.15)
    prompt: str = "a photo of a {category}"  # for models conditioned on text
    headline: str = "PCK@0.1"  # the measure by which methods are compared


_SOURCES = {
    "spair": "Tang et al., 2023, eval_spair.py",
    "willow": "Tang et al., 2023; list of pairs and box of points by Rocco et al.",
    "cub": "Tang et al., 2023; splits of our own, see geomatch.benchmarks.tasks.semantic.data",
}


def protocols_of(dataset: str) -> dict[str, SemanticProtocol]:
    """Protocols of ``spair``, ``willow`` or ``cub``: by box, by image, and by box with the soft-argmax."""
    source = _SOURCES[dataset]
    soft = f"{source}; windowed soft-argmax of Zhang et al., CVPR 2024"
    return by_name(
        SemanticProtocol(dataset, 1, source, "box"),
        SemanticProtocol(f"{dataset}-image", 1, source, "image"),
        SemanticProtocol(f"{dataset}-soft", 1, soft, "box", "soft-argmax"),
    )


def with_prompt(protocol: SemanticProtocol, prompt: str) -> SemanticProtocol:
    """The protocol with another text, which its name tells, since numbers differ."""
    if prompt == protocol.prompt:
        return protocol
    return replace(protocol, prompt=prompt, name=f"{protocol.name}:{prompt or 'no prompt'}")


def pack_map(feature_map: FeatureMap) -> bytes:
    """A map for the store."""
    names = _LAYERS[: len(feature_map.maps)]
    layers = {name: layer.cpu().numpy() for name, layer in zip(names, feature_map.maps, strict=True)}
    return pack_arrays("FeatureMap", {"image_size": np.array(feature_map.image_size), **layers})


def unpack_map(data: bytes, label: str) -> FeatureMap:
    """A map from what `pack_map` gave."""
    arrays = unpack_arrays(data, label, "FeatureMap", ("image_size", _LAYERS[0]), _LAYERS[1:])
    width, height = arrays.pop("image_size")
    layers = tuple(torch.from_numpy(arrays[name]) for name in _LAYERS if name in arrays)
    return FeatureMap(layers, (int(width), int(height)))


@dataclass
class _CategoryEvaluation:
    """The maps of a category's images are in memory at once, of SPair-71k with Stable Diffusion 0.3 GB."""

    category: Category
    entry: Entry
    store: Store  # where maps are cached

    def rows(self, protocol: SemanticProtocol) -> list[Row]:
        category, metric = self.category, self.entry.method.metric
        map_of = cache(partial(self._map, prompt=protocol.prompt.replace("{category}", category.words)))
        target = lru_cache(maxsize=1)(lambda path: target_of(map_of(path), metric, protocol.rule))
        rows: dict[str, Row] = {}
        for pair in sorted(category.pairs, key=lambda pair: pair.image1):  # so that targets are prepared once
            row: Row = {"pair": f"{category.name} {pair.name}", "split": category.name, "reason": None}
            try:
                row["errors"] = _errors(protocol, pair, map_of(pair.image0), target(pair.image1), metric)
            except ImageError as error:
                row["reason"] = f"{UNREADABLE}{error}"
            rows[pair.name] = row
        return [rows[pair.name] for pair in category.pairs]

    def _map(self, path: Path, prompt: str) -> FeatureMap:
        file, method = self.category.folder / path, self.entry.method
        if not file.is_file():
            raise ImageError(f"{path}: no such file")

        def make(_: list[int]) -> list[FeatureMap]:
            return method.maps([load_image(file)], prompt)

        key = key_of(sha256_of(file), feature_key(self.entry.key), prompt if method.takes_text else None)
        return self.store.cached(KIND, [key], make, pack_map, unpack_map)[0]


def _errors(
    protocol: SemanticProtocol, pair: KeypointPair, map0: FeatureMap, target: PixelFeatures, metric: Metric
) -> list[float]:
    """Distance of each transferred point from the truth, in units of the reference length."""
    points0 = np.clip(pair.points0, 0, np.array(map0.image_size) - 1)
    found = transfer_points(map0, target, points0, metric, protocol.rule)
    size = target.feature_map.image_size
    length = pair.box_side if protocol.reference == "box" else float(max(size))
    apart = np.linalg.norm(found.points - pair.points1, axis=1) / length
    return [round(float(error), 8) for error in apart]


def _measures(protocol: SemanticProtocol, rows: Sequence[Row]) -> Row:
    """PCK in percent, per point and per image."""
    return {
        f"PCK@{alpha:g}{suffix}": pck(counts(rows, alpha), per_image=bool(suffix))
        for suffix in ("", " per image")
        for alpha in protocol.alphas
    }


def counts(rows: Sequence[Row], alpha: float) -> Values:
    """(pairs, 2) points within alpha, and all points."""
    errors = [np.array(row["errors"]) for row in rows]
    return np.array([((own <= alpha).sum(), len(own)) for own in errors], np.float64)


def pck(found: Values, per_image: bool = False) -> float:
    """Percentage of points within alpha from `counts`, over all points or as the mean over pairs."""
    if per_image:
        return 100 * float((found[:, 0] / found[:, 1]).mean())
    return 100 * float(found[:, 0].sum() / found[:, 1].sum())


def _values(protocol: SemanticProtocol, rows: Sequence[Row]) -> Values:
    """(pairs, 2) right points at the headline's alpha, and all points."""
    return counts(rows, threshold_of(protocol.headline))


def _worst(protocol: SemanticProtocol, row: Row) -> Words:
    right, count = _values(protocol, [row])[0]
    return [(protocol.headline, f"{100 * right / count:.0f} %"), ("points", f"{count:.0f}"),
            ("median error / length", f"{np.median(row['errors']):.2f}")]  # fmt: skip


def curve(protocol: SemanticProtocol, rows: Sequence[Row]) -> Curve:
    """Alphas, and the percentage of points within."""
    errors = np.sort(np.concatenate([row["errors"] for row in rows]))
    # thousands of points: the curve of every hundredth looks the same
    x = np.linspace(0, _LIMIT, 121)
    return x, 100 * np.searchsorted(errors, x, side="right") / len(errors)


def _task(name: str, title: str, unit: tuple[str, str], whole: int) -> Task:
    axes = Axes("Points within a share of the reference length", "alpha", "points within it, %")
    return Task(
        name, title, unit, "pairs", whole, partial(read_semantic, name), protocols_of(name),
        _CategoryEvaluation, _measures, _values,
        lambda protocol, found: pck(found, protocol.headline.endswith("per image")),
        lambda protocol, found: 1 - found[:, 0] / found[:, 1], _worst, lambda protocol: axes, curve,
    )  # fmt: skip


TASKS = {
    "spair": _task("spair", "SPair-71k", ("category", "categories"), 18),
    "willow": _task("willow", "PF-WILLOW", ("class", "classes"), 10),
    "cub": _task("cub", "CUB-200-2011", ("split", "splits"), 14),
}
