"""What has to be known of every image before anything is computed: checksum, size, position."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image as PILImage

from geomatch.collection.folder import ImageFolder
from geomatch.engine import BlockTask, FailedItem, Work
from geomatch.engine.run import in_blocks
from geomatch.errors import ImageError, first_line
from geomatch.files import sha256_of
from geomatch.images import raw_size

_BLOCK = 32
_GPS = 0x8825
_LATITUDE, _LONGITUDE = (1, 2), (3, 4)


@dataclass(frozen=True, slots=True)
class Photograph:
    """An image file."""

    name: str  # path below the folder, with ``/``
    sha256: str  # checksum of the file
    size: tuple[int, int]  # (width, height) in pixels as stored
    position: tuple[float, float] | None = None
    """Latitude and longitude in degrees, if the file says and they were asked for."""


def examine(
    folder: ImageFolder, work: Work, positions: bool
) -> Iterator[tuple[str, Photograph | FailedItem]]:
    """Examine every image of a folder, decoding none; with their EXIF positions if asked for."""
    task = BlockTask(partial(_examine, folder.root.absolute(), positions))
    return work.results(task, in_blocks(folder.names, _BLOCK), "images", "image")


def _examine(root: Path, positions: bool, names: Sequence[str]) -> list[Photograph | FailedItem]:
    results: list[Photograph | FailedItem] = []
    for name in names:
        path = root / name
        try:
            place = position(path) if positions else None
            results.append(Photograph(name, sha256_of(path), raw_size(path), place))
        except (ImageError, OSError) as error:
            results.append(FailedItem(first_line(error)))
    return results


def position(path: Path) -> tuple[float, float] | None:
    """Latitude and longitude in degrees, north and east positive; None when the file does not say."""
    try:
        with PILImage.open(path) as picture:
            tags = picture.getexif().get_ifd(_GPS)
        return _degrees(tags, *_LATITUDE, "S"), _degrees(tags, *_LONGITUDE, "W")
    except Exception:  # damaged tags are as good as none
        return None


def _degrees(tags: dict[int, object], reference: int, value: int, negative: str) -> float:
    degrees, minutes, seconds = (float(part) for part in tags[value])  # type: ignore[attr-defined]
    angle = degrees + minutes / 60 + seconds / 3600
    if not abs(angle) <= 180:
        raise ValueError("no angle")
    return -angle if str(tags.get(reference, "")).strip("\0 ").upper() == negative else angle
