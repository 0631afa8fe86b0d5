"""A list of pairs, matched with the features of each image made once; one line of JSON for each."""

import io
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from geomatch.collection.pairs import read_list
from geomatch.describers import traits_of
from geomatch.devices import find_device
from geomatch.errors import GeomatchError, ImageError, first_line
from geomatch.files import digest_of, write_whole
from geomatch.images import READING, Image, Reading
from geomatch.large import are_large, relate_large
from geomatch.pipeline import Described, Pipeline
from geomatch.progress import progress_bar
from geomatch.provenance import cache_key, versions
from geomatch.relating import relate
from geomatch.tensors import upload_features
from geomatch.types import Features

_DIGITS = 3  # of coordinates and similarities
_HELD = 2  # images in memory: a reference, and what is compared with it


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Two names per line, separated by a space, or a tab when names have spaces; else `GeomatchError`.

    What follows them on a line and lines that begin with ``#`` are ignored, as in lists of hloc.
    """
    pairs = []
    for number, line, names in read_list(path):
        if line.startswith("#"):
            continue
        if len(names) < 2:
            raise GeomatchError(f"{path}: line {number} is {line.strip()!r}; give two names of images")
        pairs.append((names[0], names[1]))
    if not pairs:
        raise GeomatchError(f"{path}: no pairs in it; give two names of images per line")
    return pairs


@dataclass(frozen=True, eq=False, slots=True)
class DescribedImages:
    """Images that are described when they are first asked for; of the last two the pixels are kept."""

    folder: Path
    pipeline: Pipeline
    reading: Reading = READING
    uses: Counter[str] = field(default_factory=Counter)
    """How often each image is still wanted; its features are forgotten after the last time."""
    _features: dict[str, tuple[Features, Any, Any]] = field(default_factory=dict)
    _images: dict[str, Image] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Described:
        """The image with its features; ImageError when it cannot be read."""
        image = self._images.pop(name, None) or self.reading.file(self.folder / name, name).load()
        self._images[name] = image
        if len(self._images) > _HELD:
            del self._images[next(iter(self._images))]
        if name in self._features:
            features, describer, feature_map = self._features[name]
            device = find_device(traits_of(describer).device)  # where the describer leaves them
            found = Described(image, upload_features(features, device), describer, feature_map)
        else:
            (found,) = self.pipeline.describe([image])
            self._features[name] = found.features.to_features(), found.describer, found.feature_map
        self.uses[name] -= 1
        if self.uses[name] == 0:
            del self._features[name]
        return found


def match_list(
    pairs: Sequence[tuple[str, str]],
    folder: Path,
    pipeline: Pipeline,
    reading: Reading = READING,
    file: Path | None = None,
    progress: bool = True,
    more: bool = False,
) -> Iterator[dict[str, Any]]:
    """Match pairs of images, named by their paths below a folder, and give each as JSON holds it.

    The entries are those of ``result.json`` without settings, and ``image0``, ``image1``, ``points0``,
    ``points1`` (M, 2), ``inliers`` (M,) and ``similarity`` (M,): matched pixels, best first, of the images as
    they are, the centre of the first pixel (0, 0). A pair of which an image cannot be read has a ``reason``
    and nothing else. With a ``file`` the lines are written there as they come; those that are there already,
    of the same files and settings, are not made again; others go in the end, unless ``more`` pairs will come.
    """
    reading.masks.check([name for pair in pairs for name in pair], folder)
    told = [cache_key(pipeline), repr(reading), versions("pillow-heif", "tifffile")]

    @cache
    def checksum(name: str) -> str | None:
        try:
            return reading.file(folder / name, name).checksum()
        except OSError:
            return None

    keys = [digest_of([told, *pair, *map(checksum, pair)]) for pair in pairs]
    with tempfile.TemporaryFile() if file is None else file.open("a+b") as opened:
        lines = _Lines(opened)
        todo = [pair for pair, key in zip(pairs, keys, strict=True) if key not in lines.places]
        images = DescribedImages(folder, pipeline, reading, Counter(name for pair in todo for name in pair))
        rows = progress_bar(list(zip(pairs, keys, strict=True)), "pairs", "pair", shown=progress)
        for pair, key in rows:
            if key in lines.places:
                yield lines.read(key)
                continue
            line = {"image0": pair[0], "image1": pair[1], **_line(images, pair), "key": key}
            lines.add(line)
            yield line
        if not more:
            lines.sort(keys)


def _line(images: DescribedImages, pair: tuple[str, str]) -> dict[str, Any]:
    try:
        files = [images.reading.file(images.folder / name, name) for name in pair]
        if are_large(images.pipeline, *files):
            result = relate_large(images.pipeline, files[0], files[1])
        else:
            result = relate(images.pipeline, images[pair[0]], images[pair[1]])
    except (ImageError, OSError) as error:
        return {"reason": first_line(error)}
    found = {name: value for name, value in result.to_dict().items() if name not in ("settings", "versions")}
    sizes = {"size0": list(result.features0.image_size), "size1": list(result.features1.image_size)}
    arrays = {"points0": result.points0, "points1": result.points1, "similarity": result.matches.similarity}
    rounded = {name: np.round(array.astype(np.float64), _DIGITS).tolist() for name, array in arrays.items()}
    inliers = result.geometry.inliers if result.geometry else np.zeros(len(result.matches), np.bool_)
    return {**sizes, **found, **rounded, "inliers": inliers.tolist()}


class _Lines:
    """Lines of JSON by key, in a file that grows; what an earlier run left, but for what was cut off."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, end = file, file.seek(0)
        self.places: dict[str, tuple[int, int]] = {}  # where a line begins and ends
        for text in file:
            if not text.endswith(b"\n"):
                break
            try:
                self.places[str(json.loads(text)["key"])] = end, end + len(text)
            except (ValueError, TypeError, KeyError):
                break
            end += len(text)
        file.truncate(end)

    def read(self, key: str) -> dict[str, Any]:
        return dict(json.loads(self._bytes(key)))

    def add(self, line: dict[str, Any]) -> None:
        start = self.file.seek(0, io.SEEK_END)
        self.file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self.file.flush()
        self.places[line["key"]] = start, self.file.tell()

    def sort(self, keys: Sequence[str]) -> None:
        """Leave these lines, in this order."""
        if list(self.places) != list(dict.fromkeys(keys)):
            write_whole(self.file.name, b"".join(map(self._bytes, dict.fromkeys(keys))))

    def _bytes(self, key: str) -> bytes:
        start, end = self.places[key]
        self.file.seek(start)
        return self.file.read(end - start)
