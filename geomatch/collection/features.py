"""Features of every image of a collection, each extracted once and cached by content."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomatch.collection.correspondences import LazyFeatures
from geomatch.collection.photographs import Photograph
from geomatch.describers import Describer, describe_images, traits_of
from geomatch.engine import Engine, FailedItem, Work
from geomatch.engine.task import Need
from geomatch.errors import DamagedError, FeaturesError, ImageError, first_line
from geomatch.files import digest_of, sha256_of
from geomatch.images import Image, load_image
from geomatch.keypoints import Detector
from geomatch.provenance import versions
from geomatch.store import Store
from geomatch.types import Features

SCHEMA = 2
"""Part of every key: raised when cached objects would mean something else."""
KIND = "features"
BATCH, BATCH_PIXELS = 8, 32_000_000
"""Most images of one size, and pixels, that a network sees together: what a worker holds in memory."""
CHANGED = "the file changed while it was read; give the command again"


@dataclass(frozen=True, eq=False, slots=True)
class StoredFeatures:
    """The features of a collection in a store."""

    store: Store
    keys: Mapping[str, str]
    """By image name."""

    def load(self) -> LazyFeatures:
        """All of them, read on demand."""
        return LazyFeatures(list(self.keys), lambda name: read_features(self.store, self.keys[name]))


@dataclass(frozen=True, slots=True)
class ExtractionTask:
    """Detects and describes images with the keys of their features, and writes an object for each."""

    root: Path
    detector: Detector
    describer: Describer
    store: Store
    need: Need

    def start(self) -> Callable[[Sequence[tuple[Photograph, str]]], list[str | FailedItem]]:
        """Return the function that does a block; its results are the keys."""
        return self._extract

    def _extract(self, block: Sequence[tuple[Photograph, str]]) -> list[str | FailedItem]:
        results: list[str | FailedItem] = []
        images: dict[str, Image] = {}
        for photo, key in block:
            found = load_photograph(self.root, photo)
            results.append(found if isinstance(found, FailedItem) else key)
            if not isinstance(found, FailedItem):
                images[key] = found
        detected = [self.detector.detect(image) for image in images.values()]
        described = describe_images(self.describer, list(images.values()), detected)
        for key, features in zip(images, described, strict=True):
            self.store.write(KIND, key, features.to_bytes())
        return results


def load_photograph(root: Path, photo: Photograph) -> Image | FailedItem:
    """The pixels as stored: EXIF orientation is not applied, since COLMAP reads raw pixels."""
    path = root / photo.name
    try:
        image = load_image(path, apply_exif=False)
        return image if sha256_of(path) == photo.sha256 else FailedItem(CHANGED)
    except (ImageError, OSError) as error:
        return FailedItem(first_line(error))


def feature_key(sha256: str, parts: Any) -> str:
    """Key of an image's features, by the file's SHA-256 and the cache keys of detector and describer."""
    return digest_of([SCHEMA, sha256, "features", parts, versions()])


def extract_features(
    root: Path,
    photos: Sequence[Photograph],
    keys: Mapping[str, str],
    parts: tuple[Detector, Describer],
    store: Store,
    work: Work,
) -> tuple[int, dict[str, str]]:
    """Detect and describe what the store does not hold yet.

    Args:
        root: the folder of images.
        photos: the images.
        keys: keys of their features by name, see `feature_key`.
        parts: detector and describer.
        store: where features are cached.
        work: does it.

    Returns:
        Number of images that were extracted, and those that failed, with the reason.
    """
    there = store.sizes(KIND)
    names: dict[str, list[str]] = {}  # files of one content share their features
    for photo in photos:
        names.setdefault(keys[photo.name], []).append(photo.name)
    todo = {keys[photo.name]: photo for photo in photos if keys[photo.name] not in there}
    task = ExtractionTask(root.absolute(), *parts, store, need_of(parts[1]))
    blocks = by_size([(photo, key) for key, photo in todo.items()], batch_of(parts[1], work.engine))
    failed: dict[str, str] = {}
    made = len(todo)
    done = sum(len(names[key]) for key in names if key not in todo)
    for (_, key), result in work.results(task, blocks, "features", "image", done):
        if isinstance(result, FailedItem):
            failed.update(dict.fromkeys(names[key], result.reason))
            made -= 1
    return made, failed


def read_features(store: Store, key: str, kind: str = KIND) -> Features:
    """Read the features of a key.

    Raises:
        FeaturesError: when they are missing or damaged.
        StoreError: when the store cannot be read.
    """
    try:
        return Features.from_bytes(store.read(kind, key), store.label(kind, key))
    except KeyError as error:
        raise FeaturesError(f"{store.label(kind, key)} is missing; give the same command again") from error
    except (DamagedError, ValueError) as error:
        raise FeaturesError(
            f"{error}; `geomatch store verify --remove`, then the same command again"
        ) from error


def need_of(describer: Describer) -> Need:
    """What a worker that describes should have."""
    traits = traits_of(describer)
    return "large network" if traits.large else "processor" if traits.device == "cpu" else "network"


def batch_of(describer: Describer, engine: Engine) -> int:
    """Number of images that are described together: where their maps share an accelerator's passes.

    On CPUs it would not be faster, and the last bits of small images' maps depend on the others'.
    """
    traits = traits_of(describer)
    return BATCH if traits.dense and engine.device(traits.device) != "cpu" else 1


def by_size(items: Sequence[tuple[Photograph, str]], batch: int) -> list[list[tuple[Photograph, str]]]:
    """Blocks of up to ``batch`` images of one size and of bounded pixels."""
    blocks: list[list[tuple[Photograph, str]]] = []
    for photo, key in sorted(items, key=lambda item: (item[0].size, item[0].name)):
        most = min(batch, BATCH_PIXELS // (photo.size[0] * photo.size[1]))
        if not blocks or len(blocks[-1]) >= most or blocks[-1][0][0].size != photo.size:
            blocks.append([])
        blocks[-1].append((photo, key))
    return blocks
