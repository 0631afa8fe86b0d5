"""Features of every image of a collection, each extracted once and cached by content."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from geomatch.collection.correspondences import LazyFeatures
from geomatch.collection.folder import Photograph
from geomatch.content import content_share
from geomatch.describers import Describer, describe_images, traits_of
from geomatch.engine import BlockTask, Engine, FailedItem, Work
from geomatch.engine.task import Need
from geomatch.errors import DamagedError, FeaturesError, ImageError, first_line
from geomatch.files import digest_of, sha256_of
from geomatch.images import Image, load_image
from geomatch.keypoints import Detector
from geomatch.provenance import versions
from geomatch.store import Store
from geomatch.types import Features

SCHEMA = 3  # part of every key: raised when cached objects would mean something else
KIND = "features"
BATCH, BATCH_PIXELS = 8, 32_000_000
"""Most images of one size, and pixels, that a network sees together: what a worker holds in memory."""
LEAST_SHARE = 0.5
"""Share of content (`content_share`) below which features are warned of."""
_log = logging.getLogger(__name__)
_checked: set[str] = set()  # describers whose first features this process has checked
_Keyed = tuple[Photograph, str]
_Make = Callable[[Sequence[Image]], list[bytes]]


@dataclass(frozen=True, eq=False, slots=True)
class StoredFeatures:
    """The features of a collection in a store, by image name."""

    store: Store
    keys: Mapping[str, str]

    def load(self, kind: str = KIND, remake: Callable[[str], object] | None = None) -> LazyFeatures:
        """All of them, read on demand; ``remake`` writes those of a name again that are damaged by then."""

        def read(name: str) -> Features:
            try:
                return read_features(self.store, self.keys[name], kind)
            except FeaturesError:
                if remake is None:
                    raise
            remake(name)
            return read_features(self.store, self.keys[name], kind)

        return LazyFeatures(list(self.keys), read)


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
    """Detect and describe what the store does not hold yet, under the `feature_key` of each name.

    Returns the number of images that were extracted, and those that failed, with the reason.
    """
    stored, make = StoredFeatures(store, keys), partial(_extract, parts)
    return make_missing(root, photos, stored, KIND, make, parts[1], work, "features")


def extract_again(
    root: Path, photo: Photograph, key: str, parts: tuple[Detector, Describer], store: Store
) -> None:
    """Write the features of an image anew, here; raises `FeaturesError` when the image is another now."""
    (found,) = _write(root, store, KIND, partial(_extract, parts), [(photo, key)])
    if isinstance(found, FailedItem):
        label = store.label(KIND, key)
        raise FeaturesError(f"{label} is damaged and cannot be made again: {photo.name}: {found.reason}")


def _extract(parts: tuple[Detector, Describer], images: Sequence[Image]) -> list[bytes]:
    detector, describer = parts
    detected = [detector.detect(image) for image in images]
    described = describe_images(describer, images, detected)
    if repr(describer) not in _checked and len(described[0]):
        _checked.add(repr(describer))
        _warn_of_positions(describer, images[0], described[0])
    return [features.to_bytes() for features in described]


def _warn_of_positions(describer: Describer | None, image: Image, described: Features) -> None:
    if describer is None or traits_of(describer).local:
        return
    share = content_share(describer, image, described)
    if share < LEAST_SHARE:
        _log.warning(
            "the features tell positions in the image more than its content: of the matches of %s with "
            "itself, its content moved, %.0f %% are right; the weights may be untrained",
            image.name,
            100 * share,
        )


def make_missing(
    root: Path,
    photos: Sequence[Photograph],
    stored: StoredFeatures,
    kind: str,
    make: _Make,
    describer: Describer,
    work: Work,
    what: str,
) -> tuple[int, dict[str, str]]:
    """Make the objects of images that the store lacks; their number, and why others failed, by name."""
    there = stored.store.sizes(kind)
    names: dict[str, list[str]] = {}  # files of one content share their object
    for photo in photos:
        names.setdefault(stored.keys[photo.name], []).append(photo.name)
    todo = {stored.keys[photo.name]: photo for photo in photos if stored.keys[photo.name] not in there}
    task = BlockTask(partial(_write, root.absolute(), stored.store, kind, make), _need_of(describer))
    blocks = _by_size([(photo, key) for key, photo in todo.items()], _batch_of(describer, work.engine))
    failed: dict[str, str] = {}
    made = len(todo)
    done = sum(stored.keys[photo.name] in there for photo in photos)
    for (_, key), result in work.results(task, blocks, what, "image", done):
        if isinstance(result, FailedItem):
            failed.update(dict.fromkeys(names[key], result.reason))
            made -= 1
    return made, failed


def _write(
    root: Path, store: Store, kind: str, make: _Make, block: Sequence[_Keyed]
) -> list[str | FailedItem]:
    results: list[str | FailedItem] = []
    images: dict[str, Image] = {}
    for photo, key in block:
        found = _load(root / photo.name, photo.sha256)
        results.append(found if isinstance(found, FailedItem) else key)
        if not isinstance(found, FailedItem):
            images[key] = found
    for key, data in zip(images, make(list(images.values())), strict=True):
        store.write(kind, key, data)
    return results


def _load(path: Path, sha256: str) -> Image | FailedItem:
    """The pixels as stored: EXIF orientation is not applied, since COLMAP reads raw pixels."""
    try:
        image = load_image(path, apply_exif=False)
        if sha256_of(path) == sha256:
            return image
        return FailedItem("the file changed while it was read; give the command again")
    except (ImageError, OSError) as error:
        return FailedItem(first_line(error))


def read_features(store: Store, key: str, kind: str = KIND) -> Features:
    """Read the features of a key; raises `FeaturesError` when they are missing or damaged."""
    try:
        return Features.from_bytes(store.read(kind, key), store.label(kind, key))
    except KeyError as error:
        raise FeaturesError(f"{store.label(kind, key)} is missing; give the same command again") from error
    except DamagedError as error:
        raise FeaturesError(f"{error}; give the same command again") from error


def _need_of(describer: Describer) -> Need:
    traits = traits_of(describer)
    return "large network" if traits.large else "processor" if traits.device == "cpu" else "network"


def _batch_of(describer: Describer, engine: Engine) -> int:
    """Number of images that are described together: where their maps share an accelerator's passes.

    On CPUs it would not be faster, and the last bits of small images' maps depend on the others'.
    """
    traits = traits_of(describer)
    return BATCH if traits.dense and engine.device(traits.device) != "cpu" else 1


def _by_size(items: Sequence[_Keyed], batch: int) -> list[list[_Keyed]]:
    """Blocks of up to ``batch`` images of one size and of bounded pixels."""
    blocks: list[list[_Keyed]] = []
    for photo, key in sorted(items, key=lambda item: (item[0].size, item[0].name)):
        most = min(batch, BATCH_PIXELS // (photo.size[0] * photo.size[1]))
        if not blocks or len(blocks[-1]) >= most or blocks[-1][0][0].size != photo.size:
            blocks.append([])
        blocks[-1].append((photo, key))
    return blocks
