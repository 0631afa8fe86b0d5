"""One category under one protocol: from feature maps to rows of the record."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from geomatch.benchmarks.harness.suite import Row
from geomatch.benchmarks.tasks.semantic.data import Category, KeypointPair
from geomatch.benchmarks.tasks.semantic.protocols import SemanticProtocol
from geomatch.dift import FeatureMap
from geomatch.dift.maps.transfer import PixelFeatures, target_of, transfer_points
from geomatch.errors import ImageError
from geomatch.types import Metric

Maps = Callable[[Path], Iterable[tuple[str, FeatureMap]]]
"""An image's path to its maps by cell, as a sweep has many of; raises ImageError."""


def evaluate_category(
    category: Category, protocol: SemanticProtocol, metric: Metric, maps: Maps, cells: Sequence[str] = ("",)
) -> list[Row]:
    """A row per pair and cell: ``cell``, ``pair``, ``split``, ``errors``, ``reason``; pairs in their order.

    Targets in turn, each with all its sources, so that a target is prepared once.
    """
    order: dict[Path, list[KeypointPair]] = {}
    for pair in category.pairs:
        order.setdefault(pair.image1, []).append(pair)
    kept: dict[Path, dict[str, FeatureMap] | str] = {}

    def found(path: Path) -> dict[str, FeatureMap] | str:
        if path not in kept:
            try:
                kept[path] = dict(maps(category.folder / path))
            except ImageError as error:
                kept[path] = str(error)
        return kept[path]

    rows: dict[str, list[Row]] = {}
    for image1, pairs in order.items():
        maps1 = found(image1)
        targets: dict[str, PixelFeatures] = {}
        for pair in pairs:
            maps0 = found(pair.image0)
            own = rows[pair.name] = []
            for cell in cells:
                if isinstance(maps0, str) or isinstance(maps1, str):
                    reason = maps0 if isinstance(maps0, str) else str(maps1)
                    row = _row(category, pair, None, reason)
                else:
                    if cell not in targets:
                        targets[cell] = target_of(maps1[cell], metric, protocol.rule)
                    errors = _errors(protocol, pair, maps0[cell], targets[cell], metric)
                    row = _row(category, pair, errors, None)
                own.append({**row, "cell": cell})
    return [row for pair in category.pairs for row in rows[pair.name]]


def _errors(
    protocol: SemanticProtocol, pair: KeypointPair, map0: FeatureMap, target: PixelFeatures, metric: Metric
) -> list[float]:
    """Distance of each transferred point from the truth, in units of the reference length."""
    width, height = map0.image_size
    points0 = np.clip(pair.points0, 0, [width - 1, height - 1])
    found = transfer_points(map0, target, points0, metric, protocol.rule)
    size = target.feature_map.image_size
    length = pair.box_side if protocol.reference == "box" else float(max(size))
    apart = np.linalg.norm(found.points - pair.points1, axis=1) / length
    return [round(float(error), 8) for error in apart]


def _row(category: Category, pair: KeypointPair, errors: list[float] | None, reason: str | None) -> Row:
    return {
        "pair": f"{category.name} {pair.name}",
        "split": category.name,
        "errors": errors if errors is not None else [None] * len(pair.points0),
        "reason": reason,
    }
