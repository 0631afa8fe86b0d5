"""Methods on one category: from feature maps to rows of the record."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from geomatch.benchmarks.harness.task import Entry, Row
from geomatch.benchmarks.tasks.semantic.data import Category, KeypointPair
from geomatch.benchmarks.tasks.semantic.maps import CachedMaps
from geomatch.benchmarks.tasks.semantic.protocols import SemanticProtocol
from geomatch.dift import FeatureMap
from geomatch.dift.maps.transfer import PixelFeatures, target_of, transfer_points
from geomatch.errors import ImageError
from geomatch.store import Store
from geomatch.types import Metric


class CategoryEvaluation:
    """Methods on one category; see `geomatch.benchmarks.harness.task.Evaluation`.

    The maps of a category's images by all methods of a group are in memory at once: of SPair-71k with Stable
    Diffusion about 0.3 GB for each method.
    """

    def __init__(self, category: Category, entries: Sequence[Entry], store: Store | None) -> None:
        """Start on a category."""
        self.category, self.entries = category, entries
        self.maps = CachedMaps(category.folder, entries, store)

    def prepare(self, protocol: SemanticProtocol, wanted: Sequence[int]) -> None:
        """See `Evaluation.prepare`."""
        self.maps.prepare(self.category.images, prompt_for(protocol, self.category), wanted)

    def rows(self, protocol: SemanticProtocol, wanted: Sequence[int]) -> list[list[Row]]:
        """See `Evaluation.rows`; ``errors`` of each point are in units of the reference length.

        Targets in turn, each with all its sources, so that a target is prepared once.
        """
        prompt = prompt_for(protocol, self.category)
        order: dict[Path, list[KeypointPair]] = {}
        for pair in self.category.pairs:
            order.setdefault(pair.image1, []).append(pair)
        known: dict[Path, list[FeatureMap] | str] = {}

        def found(path: Path) -> list[FeatureMap] | str:
            if path not in known:
                try:
                    known[path] = self.maps.of(path, prompt, wanted)
                except ImageError as error:
                    known[path] = str(error)
            return known[path]

        rows: list[dict[str, Row]] = [{} for _ in wanted]
        for image1, pairs in order.items():
            maps1 = found(image1)
            targets: dict[int, PixelFeatures] = {}
            for pair in pairs:
                maps0 = found(pair.image0)
                for place, own in enumerate(rows):
                    if isinstance(maps0, str) or isinstance(maps1, str):
                        reason = maps0 if isinstance(maps0, str) else str(maps1)
                        own[pair.name] = self._row(pair, [None] * len(pair.points0), reason)
                        continue
                    metric = self.entries[wanted[place]].method.metric
                    if place not in targets:
                        targets[place] = target_of(maps1[place], metric, protocol.rule)
                    errors = _errors(protocol, pair, maps0[place], targets[place], metric)
                    own[pair.name] = self._row(pair, errors, None)
        return [[own[pair.name] for pair in self.category.pairs] for own in rows]

    def _row(self, pair: KeypointPair, errors: Sequence[float | None], reason: str | None) -> Row:
        name = self.category.name
        return {"pair": f"{name} {pair.name}", "split": name, "errors": errors, "reason": reason}


def prompt_for(protocol: SemanticProtocol, category: Category) -> str:
    """The text of a category."""
    return protocol.prompt.replace("{category}", category.words)


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
