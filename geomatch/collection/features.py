"""Features of every image of a collection, each made once and kept by content."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from geomatch.collection.correspondences import LazyFeatures
from geomatch.collection.folder import ImageFolder
from geomatch.errors import GeomatchError, ImageError, first_line
from geomatch.files import digest_of, sha256_of
from geomatch.images import Image, load_image
from geomatch.keypoints import Detector
from geomatch.parts import Describer
from geomatch.provenance import versions
from geomatch.types import Features

SCHEMA = 1
"""Part of every key: raised when kept files would mean something else."""


@dataclass(frozen=True, eq=False, slots=True)
class KeptFeatures:
    """Where the features of a collection lie."""

    files: Mapping[str, Path]
    """By image name; the file's name is the SHA-256 of all that decides its content."""
    skipped: Mapping[str, str]
    """Images that could not be used, and why."""
    computed: int
    """How many were not kept before."""

    def load(self) -> LazyFeatures:
        """All of them, read when asked for."""
        return LazyFeatures(list(self.files), lambda name: Features.load(self.files[name]))

    def key(self, name: str) -> str:
        """Of one image."""
        return self.files[name].stem


def keep_features(
    folder: ImageFolder,
    detector: Detector,
    describer: Describer | None,
    identity: Mapping[str, Any],
    cache: Path,
    progress: bool = True,
) -> KeptFeatures:
    """Detect and describe what is not kept in ``cache`` yet.

    EXIF orientation is not applied, since COLMAP reads raw pixels. An image that
    cannot be read is skipped; what was kept stays when the process is killed.

    Args:
        folder: the images.
        detector: of keypoints.
        describer: of descriptors; None where the detector brings them.
        identity: of both, see `geomatch.identity.identity_of`.
        cache: a folder, made when missing.
        progress: show a bar.
    """

    def make(image: Image) -> Features:
        found = detector.detect(image)
        return found if describer is None or not len(found) else describer.describe(image, found)

    return _keep(folder, make, ["features", dict(identity)], cache, progress)


def _keep(
    folder: ImageFolder,
    make: Callable[[Image], Features],
    settings: list[Any],
    cache: Path,
    progress: bool,
) -> KeptFeatures:
    cache.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path] = {}
    skipped = dict(folder.skipped)
    computed = 0
    for name in tqdm(folder.names, desc="features", unit="image", disable=None if progress else True):
        path = folder.path(name)
        try:
            key = digest_of([SCHEMA, sha256_of(path), *settings, versions()])
            kept = cache / f"{key}.npz"
            image = None if readable(kept) else load_image(path, apply_exif=False)
        except (ImageError, OSError) as error:
            skipped[name] = first_line(error)
            continue
        if image is not None:  # not in the block above: a full disk is no fault of the image
            make(image).save(kept)
            computed += 1
        files[name] = kept
    if not files:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
        raise ImageError(f"{folder.root}: no image could be read ({reasons})")
    return KeptFeatures(files, skipped, computed)


def readable(path: Path) -> bool:
    """Whether a file holds features; half a file is removed."""
    if not path.is_file():
        return False
    try:
        Features.load(path)
    except GeomatchError:  # half a file of a full disk, say: made again
        path.unlink(missing_ok=True)
        return False
    return True
