"""A list of pairs, matched with the features of each image made once; one line of JSON for each."""

import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from geomatch.collection.pairs import read_list
from geomatch.describers import traits_of
from geomatch.devices import find_device
from geomatch.errors import GeomatchError, ImageError, first_line
from geomatch.files import digest_of, write_whole
from geomatch.images import READING, ImageFile, Reading
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


def _describing(pipeline: Pipeline, uses: Counter[ImageFile]) -> Callable[[ImageFile], Described]:
    """A function that keeps the features of each file for so many uses, and the pixels of the last two."""
    kept: dict[ImageFile, tuple[Features, Any, Any]] = {}
    load = lru_cache(_HELD)(ImageFile.load)

    def describe(file: ImageFile) -> Described:
        image = load(file)
        if file in kept:
            features, describer, feature_map = kept[file]
            device = find_device(traits_of(describer).device)  # where the describer leaves them
            found = Described(image, upload_features(features, device), describer, feature_map)
        else:
            (found,) = pipeline.describe([image])
            kept[file] = found.features.to_features(), found.describer, found.feature_map
        uses[file] -= 1
        if uses[file] == 0:
            del kept[file]
        return found

    return describe


def match_list(
    pairs: Sequence[tuple[str, str]],
    folder: Path,
    pipeline: Pipeline,
    reading: Reading = READING,
    file: Path | None = None,
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
    files = {name: reading.file(folder / name, name) for pair in pairs for name in pair}
    told = [cache_key(pipeline), repr(reading), versions("pillow-heif", "tifffile")]

    @cache
    def checksum(name: str) -> str | None:
        try:
            return files[name].checksum()
        except OSError:
            return None

    keys = [digest_of([told, *pair, *map(checksum, pair)]) for pair in pairs]
    with tempfile.TemporaryFile() if file is None else file.open("a+b") as opened:
        lines = _Lines(opened)
        todo = [pair for pair, key in zip(pairs, keys, strict=True) if key not in lines.places]
        describe = _describing(pipeline, Counter(files[name] for pair in todo for name in pair))
        for pair, key in progress_bar(list(zip(pairs, keys, strict=True)), "pairs", "pair"):
            if key in lines.places:
                yield json.loads(lines.read(key))
                continue
            found = _line(pipeline, [files[name] for name in pair], describe)
            line = {"image0": pair[0], "image1": pair[1], **found, "key": key}
            lines.add(line)
            yield line
        if not more:
            lines.sort(keys)


def _line(
    pipeline: Pipeline, files: Sequence[ImageFile], describe: Callable[[ImageFile], Described]
) -> dict[str, Any]:
    try:
        if are_large(pipeline, *files):
            result = relate_large(pipeline, *files)
        else:
            result = relate(pipeline, describe(files[0]), describe(files[1]))
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

    def add(self, line: dict[str, Any]) -> None:
        start = self.file.seek(0, io.SEEK_END)
        self.file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self.file.flush()
        self.places[line["key"]] = start, self.file.tell()

    def sort(self, keys: Sequence[str]) -> None:
        """Leave these lines, in this order."""
        if list(self.places) != list(dict.fromkeys(keys)):
            write_whole(self.file.name, b"".join(map(self.read, dict.fromkeys(keys))))

    def read(self, key: str) -> bytes:
        start, end = self.places[key]
        self.file.seek(start)
        return self.file.read(end - start)
