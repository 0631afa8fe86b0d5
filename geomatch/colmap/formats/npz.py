"""Our own files: one per image and one per pair."""

import json
from collections.abc import Iterator
from pathlib import Path

from geomatch.collection.correspondences import Correspondences, LazyFeatures, LazyPairs, MatchedPair
from geomatch.errors import FeaturesError, first_line
from geomatch.types import Features, Matches


def write(correspondences: Correspondences, folder: Path) -> None:
    """Write ``features/<name>.npz``, ``matches/<number>.npz`` and ``pairs.json``."""
    for name, features in correspondences.features.items():
        path = folder / "features" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        features.save(path)
    (folder / "matches").mkdir()
    names = []
    for number, pair in enumerate(correspondences.pairs):
        pair.matches.save(folder / "matches" / f"{number:06d}.npz")
        names.append([pair.name0, pair.name1])
    content = {"images": list(correspondences.features), "pairs": names}
    (folder / "pairs.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def read(folder: Path) -> Correspondences:
    """Read what `write` wrote."""
    path = folder / "pairs.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        images = [str(name) for name in content["images"]]
        pairs = [(str(a), str(b)) for a, b in content["pairs"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FeaturesError(
            f"{path}: no list of images and pairs of geomatch ({first_line(error)})"
        ) from error

    def matches() -> Iterator[MatchedPair]:
        for number, (a, b) in enumerate(pairs):
            yield MatchedPair(a, b, Matches.load(folder / "matches" / f"{number:06d}.npz"))

    features = LazyFeatures(images, lambda name: Features.load(folder / "features" / f"{name}.npz"))
    return Correspondences(features, LazyPairs(matches, len(pairs)))
