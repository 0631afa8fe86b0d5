"""The images of a folder, by the names that COLMAP gives them, and what each is: checksum, size, position."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from geomatch.engine import BlockTask, FailedItem, Work
from geomatch.engine.run import in_blocks
from geomatch.errors import ImageError, first_line
from geomatch.images import IMAGE_SUFFIXES, NO_MASKS, ImageFile, Masks, Reading, open_image, raw_size

UNREADABLE = {".webp", ".gif", ".heic", ".heif", ".avif", ".jxl"}  # images that COLMAP cannot read
_log = logging.getLogger(__name__)
_BLOCK = 32
_GPS = 0x8825


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Where images are read from: what workers are told of a folder."""

    root: Path
    masks: Masks = NO_MASKS

    def __getitem__(self, name: str) -> ImageFile:
        """An image with its mask. EXIF orientation is not applied, since COLMAP reads raw pixels."""
        return Reading(apply_exif=False, masks=self.masks).file(self.root / name, name)


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Photographs below one folder."""

    root: Path
    names: tuple[str, ...]
    """Paths below the root with ``/``, sorted."""
    skipped: Mapping[str, str]
    """Files that look like images but cannot be used, and folders that cannot be read, and why."""


def find_images(root: Path, exclude: Path | None = None, masks: Masks = NO_MASKS) -> ImageFolder:
    """Find the images below a folder, without hidden files and folders, masks, and those below ``exclude``.

    Links to folders are followed. With ``masks.folder``, other folders named ``masks`` are left out, too.
    Raises ImageError when there is no folder or no image in it.
    """
    if not root.is_dir():
        raise ImageError(f"{root}: no such folder of images")
    names, skipped = list[str](), dict[str, str]()
    real = root.resolve()  # may itself lie below what is left out, as photographs beside their model do
    left_out = {place.resolve() for place in (exclude, masks.folder) if place} - {real, *real.parents}
    other_masks = set()
    for path in _files(root, skipped):
        below = path.relative_to(root)
        if path.suffix.lower() not in IMAGE_SUFFIXES | UNREADABLE:
            continue
        hidden = any(part.startswith(".") for part in below.parts)
        if hidden or (left_out and not left_out.isdisjoint(path.resolve().parents)):
            continue
        if masks.folder and "masks" in below.parts[:-1]:
            other_masks.add(below.parent.as_posix())
            continue
        name = below.as_posix()
        reason = _unusable(path, name)
        if reason:
            skipped[name.encode(errors="replace").decode()] = reason
        else:
            names.append(name)
    if other_masks:
        _log.warning("%s: not taken for images, as masks are given: %s", root, ", ".join(sorted(other_masks)))
    if not names:
        raise ImageError(f"{root}: no images there ({', '.join(sorted(IMAGE_SUFFIXES - UNREADABLE))})")
    if masks.folder and masks.folder.resolve() == root.resolve():
        names = [name for name in names if name.removesuffix(".png") == name or name[:-4] not in names]
    return ImageFolder(root, tuple(sorted(names)), skipped)


def _files(root: Path, skipped: dict[str, str]) -> Iterator[Path]:
    """All files below, each folder once, as links go in circles; unreadable folders go to ``skipped``."""

    def skip(error: OSError) -> None:
        skipped[os.path.relpath(error.filename, root)] = f"the folder cannot be read ({error.strerror})"

    top, seen = root.resolve(), set[Path]()
    for folder, folders, files in os.walk(root, onerror=skip, followlinks=True):
        path = Path(folder)
        real = path.resolve()
        if real in seen or (path != root and path.is_symlink() and real.is_relative_to(top)):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (path / name for name in files)


def _unusable(path: Path, name: str) -> str:
    if path.suffix.lower() in UNREADABLE:
        return "COLMAP does not read this format; convert it to JPEG or PNG"
    if not path.is_file():
        return "no file"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return "its name holds a line break" if "\n" in name or "\r" in name else ""


@dataclass(frozen=True, slots=True)
class Photograph:
    """An image file."""

    name: str  # path below the folder, with ``/``
    sha256: str  # checksum of the file and its mask
    size: tuple[int, int]  # (width, height) in pixels as stored
    position: tuple[float, float] | None = None
    """Latitude and longitude in degrees, if the file says and they were asked for."""


def examine(
    files: ImageFiles, names: Sequence[str], work: Work, positions: bool
) -> Iterator[tuple[str, Photograph | FailedItem]]:
    """Examine every image of a folder, decoding none; with their EXIF positions if asked for."""
    task = BlockTask(partial(_examine, files, positions))
    return work.results(task, in_blocks(names, _BLOCK), "images", "image")


def _examine(files: ImageFiles, positions: bool, names: Sequence[str]) -> list[Photograph | FailedItem]:
    results: list[Photograph | FailedItem] = []
    for name in names:
        path = files.root / name
        try:
            place = position(path) if positions else None
            results.append(Photograph(name, files[name].checksum(), raw_size(path), place))
        except (ImageError, OSError) as error:
            results.append(FailedItem(first_line(error)))
    return results


def position(path: Path) -> tuple[float, float] | None:
    """Latitude and longitude in degrees, north and east positive; None when the file does not say."""
    _, tags = exif_of(path, _GPS)
    try:
        return _degrees(tags, 1, "S"), _degrees(tags, 3, "W")
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def exif_of(path: Path, part: int) -> tuple[Mapping[int, Any], Mapping[int, Any]]:
    """EXIF tags of an image file, and those of a part (IFD); none where they are missing or damaged."""
    try:
        with open_image(path) as picture:
            stored = {"exif", "Raw profile type exif"} & picture.info.keys()
            if not stored and picture.format != "TIFF":
                return {}, {}  # Pillow would decode all of a PNG to look behind the pixels
            tags = picture.getexif()
            return tags, tags.get_ifd(part)
    except Exception:  # whatever Pillow raises on damaged tags
        return {}, {}


def _degrees(tags: Mapping[int, Any], reference: int, negative: str) -> float:
    degrees, minutes, seconds = (float(part) for part in tags[reference + 1])
    angle = degrees + minutes / 60 + seconds / 3600
    if not abs(angle) <= 180:
        raise ValueError("no angle")
    return -angle if str(tags.get(reference, "")).strip("\0 ").upper() == negative else angle
