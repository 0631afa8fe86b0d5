"""Data sets of semantic correspondence as tasks: sums over pairs, and what reports show."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from geomatch.benchmarks.harness.cache import key_of, make_ahead, read_or_make
from geomatch.benchmarks.harness.measures import with_failures
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
    threshold_of,
)
from geomatch.benchmarks.methods.method import feature_key
from geomatch.benchmarks.methods.together import dense_maps
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
    between the cells bilinearly. A pair whose images cannot be read has all its points wrong.
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


@dataclass
class CachedMaps:
    """Maps of one category's images by the methods of one group."""

    folder: Path  # the data set's
    entries: Sequence[Entry]
    store: Store | None  # where they are cached
    _sums: dict[Path, str] = field(default_factory=dict)

    def prepare(self, paths: Sequence[Path], prompt: str, wanted: Sequence[int]) -> None:
        """Make and cache the maps of images by the methods at these places."""
        if self.store:
            make_ahead(
                self.store, KIND, paths, lambda path: [self._key(path, prompt, k) for k in wanted],
                lambda path: load_image(self.folder / path),
                partial(dense_maps, [self.entries[k].method for k in wanted], prompt=prompt), pack_map,
            )  # fmt: skip

    def of(self, path: Path, prompt: str, wanted: Sequence[int]) -> list[FeatureMap]:
        """The maps of an image by the methods at these places."""

        def make(places: list[int]) -> list[FeatureMap]:
            methods = [self.entries[wanted[place]].method for place in places]
            return [own for (own,) in dense_maps(methods, [load_image(self.folder / path)], prompt)]

        keys = [self._key(path, prompt, k) for k in wanted]
        return read_or_make(self.store, KIND, keys, make, pack_map, unpack_map)

    def _key(self, path: Path, prompt: str, place: int) -> str:
        if path not in self._sums:
            full = self.folder / path
            if not full.is_file():
                raise ImageError(f"{path}: no such file")
            self._sums[path] = sha256_of(full)
        entry = self.entries[place]
        return key_of(self._sums[path], feature_key(entry.key), prompt if entry.method.takes_text else None)


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


class _CategoryEvaluation:
    """The maps of a category's images by all methods of a group are in memory at once.

    They are about 0.3 GB for each method, of SPair-71k with Stable Diffusion.
    """

    def __init__(self, category: Category, entries: Sequence[Entry], store: Store | None) -> None:
        self.category, self.entries = category, entries
        self.maps = CachedMaps(category.folder, entries, store)

    def prepare(self, protocol: SemanticProtocol, wanted: Sequence[int]) -> None:
        self.maps.prepare(self.category.images, prompt_for(protocol, self.category), wanted)

    def rows(self, protocol: SemanticProtocol, wanted: Sequence[int]) -> list[list[Row]]:
        # targets in turn, each with all its sources, so that a target is prepared once
        prompt = prompt_for(protocol, self.category)
        order: dict[Path, list[KeypointPair]] = {}
        for pair in self.category.pairs:
            order.setdefault(pair.image1, []).append(pair)
        found = cache(lambda path: self.maps.of(path, prompt, wanted))
        rows: list[dict[str, Row]] = [{} for _ in wanted]
        for image1, pairs in order.items():
            targets: dict[int, PixelFeatures] = {}
            for pair in pairs:
                try:
                    maps0, maps1 = found(pair.image0), found(image1)
                except ImageError as error:
                    row = self._row(pair, [None] * len(pair.points0), f"{UNREADABLE}{error}")
                    for own in rows:
                        own[pair.name] = row
                    continue
                for place, own in enumerate(rows):
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
    errors = [with_failures(row["errors"]) for row in rows]
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
    known = [error for error in row["errors"] if error is not None]
    middle = f"{np.median(known):.2f}" if known else "-"
    return [(protocol.headline, f"{100 * right / count:.0f} %"), ("points", f"{count:.0f}"),
            ("median error / length", middle)]  # fmt: skip


def curve(protocol: SemanticProtocol, rows: Sequence[Row]) -> Curve:
    """Alphas, and the percentage of points within."""
    errors = np.sort(np.concatenate([with_failures(row["errors"]) for row in rows]))
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
