"""Features of every image of a collection, each made once and kept by content."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomatch.collection.correspondences import LazyFeatures
from geomatch.collection.photographs import Photograph
from geomatch.describers import Describer, describe_images, traits_of
from geomatch.engine import Engine, Lost, Work
from geomatch.engine.task import Need
from geomatch.errors import DamagedError, FeaturesError, ImageError, first_line
from geomatch.files import digest_of, sha256_of
from geomatch.images import Image, load_image
from geomatch.keypoints import Detector
from geomatch.provenance import versions
from geomatch.store import Store
from geomatch.types import Features

SCHEMA = 2
"""Part of every key: raised when kept objects would mean something else."""
KIND = "features"
BATCH, BATCH_PIXELS = 8, 32_000_000
"""Images of one size that a network sees together, and at most so many pixels of them: with their maps they
are what a worker holds in memory."""
CHANGED = "the file changed while it was read; give the command again"


@dataclass(frozen=True, eq=False, slots=True)
class KeptFeatures:
    """Where the features of a collection lie."""

    store: Store
    keys: Mapping[str, str]
    """By image name."""
    lost: Mapping[str, str]
    """Images that could not be used, and why."""
    computed: int
    """How many were not kept before."""

    def load(self) -> LazyFeatures:
        """All of them, read when asked for."""
        return LazyFeatures(list(self.keys), lambda name: read_features(self.store, self.keys[name]))


@dataclass(frozen=True, slots=True)
class Extraction:
    """The task: detects and describes, and writes an object per image."""

    root: Path
    detector: Detector
    describer: Describer | None
    store: Store
    need: Need

    def start(self) -> Callable[[Sequence[tuple[Photograph, str]]], list[str | Lost]]:
        """See `Task.start`; items are images and the keys of their features, results the keys again."""
        return self._extract

    def _extract(self, block: Sequence[tuple[Photograph, str]]) -> list[str | Lost]:
        results: list[str | Lost] = []
        images: dict[int, Image] = {}
        for place, (photo, key) in enumerate(block):
            found = load_photograph(self.root, photo)
            results.append(found if isinstance(found, Lost) else key)
            if not isinstance(found, Lost):
                images[place] = found
        detected = [self.detector.detect(image) for image in images.values()]
        described = describe_images(self.describer, list(images.values()), detected)
        for place, features in zip(images, described, strict=True):
            self.store.write(KIND, block[place][1], features.to_bytes())
        return results


def load_photograph(root: Path, photo: Photograph) -> Image | Lost:
    """The pixels as stored: EXIF orientation is not applied, since COLMAP reads raw pixels."""
    path = root / photo.name
    try:
        image = load_image(path, apply_exif=False)
        return image if sha256_of(path) == photo.sha256 else Lost(CHANGED)
    except (ImageError, OSError) as error:
        return Lost(first_line(error))


def feature_key(sha256: str, identity: Mapping[str, Any]) -> str:
    """Of an image's features.

    Args:
        sha256: of the file.
        identity: of detector and descriptor, see `geomatch.provenance.cache_key`.
    """
    return digest_of([SCHEMA, sha256, "features", dict(identity), versions()])


def keep_features(
    root: Path,
    photos: Sequence[Photograph],
    keys: Mapping[str, str],
    detector: Detector,
    describer: Describer | None,
    store: Store,
    work: Work,
) -> tuple[int, dict[str, str]]:
    """Detect and describe what the store does not hold yet; returns how many were made, and images lost.

    Args:
        root: of the folder of images.
        photos: the images.
        keys: of their features, by name, see `feature_key`.
        detector: of keypoints.
        describer: of descriptors; None where the detector brings them.
        store: where they are kept.
        work: on an engine.
    """
    there = store.sizes(KIND)
    # files of one content share their features
    todo = {keys[photo.name]: photo for photo in photos if keys[photo.name] not in there}
    twins: dict[str, list[str]] = {}
    for photo in photos:
        twins.setdefault(keys[photo.name], []).append(photo.name)
    task = Extraction(root.absolute(), detector, describer, store, need_of(describer))
    blocks = by_size([(photo, key) for key, photo in todo.items()], batch_of(describer, work.engine))
    lost: dict[str, str] = {}
    gone = 0
    done = sum(len(twins[key]) for key in twins if key not in todo)
    for (_, key), result in work.results(task, blocks, "features", "image", done):
        if isinstance(result, Lost):
            lost.update(dict.fromkeys(twins[key], result.reason))
            gone += 1
    return len(todo) - gone, lost


def read_features(store: Store, key: str, kind: str = KIND) -> Features:
    """The features of a key.

    Raises:
        FeaturesError: when they are gone or damaged.
        StoreError: when the store cannot be read.
    """
    label = f"{store.url}: {store.name(kind, key)}"
    try:
        return Features.from_bytes(store.read(kind, key), label)
    except KeyError as error:
        raise FeaturesError(f"{label} is gone; give the same command again") from error
    except (DamagedError, ValueError) as error:
        raise FeaturesError(
            f"{error}; `geomatch store verify --remove`, then the same command again"
        ) from error


def need_of(describer: Describer | None) -> Need:
    """What a worker that describes should have."""
    if describer is None:
        return "processor"
    traits = traits_of(describer)
    if traits.large:
        return "large network"
    return "processor" if traits.device == "cpu" else "network"


def batch_of(describer: Describer | None, engine: Engine) -> int:
    """Images that are better described together: those whose maps share an accelerator's passes.

    On CPUs it would not be faster, and the last bits of small images' maps depend on their company.
    """
    if describer is None or not traits_of(describer).dense:
        return 1
    return 1 if engine.device(traits_of(describer).device) == "cpu" else BATCH


def by_size(items: Sequence[tuple[Photograph, str]], batch: int) -> list[list[tuple[Photograph, str]]]:
    """Blocks of images of one size, as far as there are, and of bounded pixels."""
    blocks: list[list[tuple[Photograph, str]]] = []
    pixels = 0
    for photo, key in sorted(items, key=lambda item: (item[0].size, item[0].name)):
        own = photo.size[0] * photo.size[1]
        if (
            not blocks
            or len(blocks[-1]) == batch
            or blocks[-1][0][0].size != photo.size
            or pixels + own > BATCH_PIXELS
        ):
            blocks.append([])
            pixels = 0
        blocks[-1].append((photo, key))
        pixels += own
    return blocks
