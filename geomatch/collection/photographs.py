"""What has to be known of every image before anything is computed: checksum, size, place."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from geomatch.collection.folder import ImageFolder
from geomatch.collection.gps import position
from geomatch.engine import FailedItem, Work
from geomatch.engine.run import in_blocks
from geomatch.engine.task import Need
from geomatch.errors import ImageError, first_line
from geomatch.files import sha256_of
from geomatch.images import raw_size

BLOCK = 32


@dataclass(frozen=True, slots=True)
class Photograph:
    """An image file."""

    name: str
    """Path below the folder, with ``/``."""
    sha256: str
    """Checksum of the file."""
    size: tuple[int, int]
    """(width, height) in pixels as stored."""
    position: tuple[float, float] | None = None
    """Latitude and longitude in degrees, if the file says and they were asked for."""


@dataclass(frozen=True, slots=True)
class Examination:
    """Task: examines files by name; decodes none."""

    root: Path
    positions: bool
    need: Need = "processor"

    def start(self) -> Callable[[Sequence[str]], list[Photograph | FailedItem]]:
        """Return the function that does a block."""
        return lambda names: [self._examine(name) for name in names]

    def _examine(self, name: str) -> Photograph | FailedItem:
        path = self.root / name
        try:
            place = position(path) if self.positions else None
            return Photograph(name, sha256_of(path), raw_size(path), place)
        except (ImageError, OSError) as error:
            return FailedItem(first_line(error))


def examine(
    folder: ImageFolder, work: Work, positions: bool
) -> Iterator[tuple[str, Photograph | FailedItem]]:
    """Examine every image of a folder; with their EXIF positions if asked for."""
    task = Examination(folder.root.absolute(), positions)
    return work.results(task, in_blocks(folder.names, BLOCK), "images", "image")
