"""Features of every image of a collection, each extracted once and cached by content."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from geomatch.collection.correspondences import LazyFeatures
from geomatch.collection.folder import ImageFiles, Photograph
from geomatch.content import content_share
from geomatch.describers import Describer, describe_images, traits_of
from geomatch.engine import FailedItem, StreamTask, Work
from geomatch.engine.stream import Stage
from geomatch.engine.task import Need
from geomatch.errors import FeaturesError, ImageError, first_line
from geomatch.files import digest_of
from geomatch.images import Image
from geomatch.keypoints import Detector
from geomatch.keypoints.detector import runs_ahead
from geomatch.provenance import versions
from geomatch.store import Store
from geomatch.tensors import detect_features
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


@dataclass(frozen=True, eq=False, slots=True)
class StoredFeatures:
    """The features of a collection in a store, by image name."""

    store: Store
    keys: Mapping[str, str]

    def load(self, remake: Callable[[str], object]) -> LazyFeatures:
        """All of them, read on demand; ``remake`` writes those of a name again that are damaged by then."""

        def read(name: str) -> Features:
            wanted = KIND, self.keys[name], Features.from_bytes
            if (found := self.store.found(*wanted)) is not None:
                return found
            remake(name)
            return self.store.needed(*wanted)

        return LazyFeatures(list(self.keys), read)


def feature_key(sha256: str, parts: Any) -> str:
    """Key of an image's features, by the file's SHA-256 and the cache keys of detector and describer."""
    return digest_of([SCHEMA, sha256, "features", parts, versions()])


def extract_features(
    files: ImageFiles,
    photos: Sequence[Photograph],
    keys: Mapping[str, str],
    parts: tuple[Detector, Describer],
    store: Store,
    work: Work,
) -> tuple[int, dict[str, str]]:
    """Make the features that the store lacks; their number, and why others failed, by name."""
    stored = StoredFeatures(store, keys)
    return make_missing(files, photos, stored, _steps(parts), parts[1], work, "features")


def extract_again(
    files: ImageFiles, photo: Photograph, key: str, parts: tuple[Detector, Describer], store: Store
) -> None:
    """Write the features of an image anew, here; raises `FeaturesError` when the image is another now."""
    (found,) = _task(files, store, _steps(parts), parts[1]).start()([(photo, key)])
    if isinstance(found, FailedItem):
        label = store.label(KIND, key)
        raise FeaturesError(f"{label} is damaged and cannot be made again: {photo.name}: {found.reason}")


class Steps(NamedTuple):
    """How the objects of a kind are made of images."""

    kind: str
    ahead: tuple[Stage, ...]  # from the image on, see `StreamTask`
    network: Callable[[Sequence[Any]], Sequence[Any]]
    pack: Callable[[Any], bytes]


def _steps(parts: tuple[Detector, Describer]) -> Steps:
    detect, describe = partial(_detect, parts[0]), partial(_describe, parts[1])
    if runs_ahead(parts[0]):
        return Steps(KIND, (detect,), describe, Features.to_bytes)
    return Steps(KIND, (), partial(describe, detect=detect), Features.to_bytes)


def _detect(detector: Detector, image: Image) -> tuple[Image, Features]:
    return image, detect_features(detector, image).to_features()


def _describe(
    describer: Describer, found: Sequence[Any], detect: Callable[[Image], Any] | None = None
) -> list[Features]:
    images, detected = zip(*(map(detect, found) if detect else found), strict=True)
    described = describe_images(describer, images, detected)
    if repr(describer) not in _checked and len(described[0]):
        _checked.add(repr(describer))
        local = traits_of(describer).local
        if not local and (share := content_share(describer, images[0], described[0])) < LEAST_SHARE:
            _log.warning(
                "the features tell positions in the image more than its content: of the matches of %s with "
                "itself, its content moved, %.0f %% are right; the weights may be untrained",
                images[0].name,
                100 * share,
            )
    return described


def make_missing(
    files: ImageFiles,
    photos: Sequence[Photograph],
    stored: StoredFeatures,
    steps: Steps,
    describer: Describer,
    work: Work,
    what: str,
) -> tuple[int, dict[str, str]]:
    """Make the objects of images that the store lacks; their number, and why others failed, by name."""
    there = stored.store.sizes(steps.kind)
    names: dict[str, list[str]] = {}  # files of one content share their object
    for photo in photos:
        names.setdefault(stored.keys[photo.name], []).append(photo.name)
    todo = {stored.keys[photo.name]: photo for photo in photos if stored.keys[photo.name] not in there}
    accelerated = work.engine.device(traits_of(describer).device) != "cpu"
    task = _task(files, stored.store, steps, describer)
    if accelerated:
        task = replace(task, overlaps=True, load=partial(_load_for, describer, len(todo)))
    # on CPUs images together are not faster, and the last bits of small ones' maps depend on the others'
    batch = BATCH if accelerated and traits_of(describer).dense else 1
    blocks = _by_size([(photo, key) for key, photo in todo.items()], batch)
    failed: dict[str, str] = {}
    made = len(todo)
    done = sum(stored.keys[photo.name] in there for photo in photos)
    for (_, key), result in work.results(task, blocks, what, "image", done):
        if isinstance(result, FailedItem):
            failed.update(dict.fromkeys(names[key], result.reason))
            made -= 1
    return made, failed


def _task(files: ImageFiles, store: Store, steps: Steps, describer: Describer) -> StreamTask[_Keyed, str]:
    traits = traits_of(describer)
    small: Need = "processor" if traits.device == "cpu" else "network"
    return StreamTask(
        (partial(_load, files), *steps.ahead),
        steps.network,
        partial(_write, store, steps.kind, steps.pack),
        "large network" if traits.large else small,
        pixels=_pixels,
        load=getattr(describer, "load_networks", None),
    )


def _load_for(describer: Describer, images: int) -> None:
    """Load the networks, and tell how many images are coming, since compiling may pay."""
    for name, arguments in (("load_networks", ()), ("expect", (images,))):
        member = getattr(describer, name, None)
        if member is not None:
            member(*arguments)


def _write(store: Store, kind: str, pack: Callable[[Any], bytes], item: _Keyed, made: Any) -> str:
    store.write(kind, item[1], pack(made))
    return item[1]


def _pixels(item: _Keyed) -> int:
    return item[0].size[0] * item[0].size[1]


def _load(files: ImageFiles, item: _Keyed) -> Image | FailedItem:
    try:
        image = files[item[0].name].load()
        if files[item[0].name].checksum() == item[0].sha256:
            return image
        return FailedItem("the file changed while it was read; give the command again")
    except (ImageError, OSError) as error:
        return FailedItem(first_line(error))


def _by_size(items: Sequence[_Keyed], batch: int) -> list[list[_Keyed]]:
    """Blocks of up to ``batch`` images of one size and of bounded pixels."""
    blocks: list[list[_Keyed]] = []
    for photo, key in sorted(items, key=lambda item: (item[0].size, item[0].name)):
        most = min(batch, BATCH_PIXELS // _pixels((photo, key)))
        if not blocks or len(blocks[-1]) >= most or blocks[-1][0][0].size != photo.size:
            blocks.append([])
        blocks[-1].append((photo, key))
    return blocks
