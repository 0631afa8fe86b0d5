"""The images of a folder, by the names that COLMAP gives them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PILImage

from geomatch.errors import ImageError

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".webp"}
"""Files that count as images."""


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Photographs below one folder."""

    root: Path
    names: tuple[str, ...]
    """Paths below the root with ``/``, sorted as COLMAP numbers them."""
    skipped: Mapping[str, str]
    """Files that look like images but cannot be used, and why."""

    def path(self, name: str) -> Path:
        """Of one image."""
        return self.root / name


def find_images(root: Path, exclude: Path | None = None) -> ImageFolder:
    """Look for images below a folder, hidden files and folders left out.

    Args:
        root: the folder.
        exclude: a folder below it that is not looked into (results, say).

    Raises:
        ImageError: when there is no folder or no image in it.
    """
    if not root.is_dir():
        raise ImageError(f"{root}: no such folder of images")
    names, skipped = [], {}
    for path in root.rglob("*"):
        below = path.relative_to(root)
        if path.suffix.lower() not in SUFFIXES or any(part.startswith(".") for part in below.parts):
            continue
        if exclude is not None and exclude.resolve() in path.resolve().parents:
            continue
        name = below.as_posix()
        reason = _unusable(name) or ("" if path.is_file() else "no file")
        if reason:
            skipped[name.encode(errors="replace").decode()] = reason
        else:
            names.append(name)
    if not names:
        raise ImageError(f"{root}: no images there ({', '.join(sorted(SUFFIXES))})")
    return ImageFolder(root, tuple(sorted(names)), skipped)


def _unusable(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return "its name holds a line break" if "\n" in name or "\r" in name else ""


def raw_size(path: Path) -> tuple[int, int]:
    """(width, height) of a file's pixels as they are stored, whatever its EXIF orientation says.

    Raises:
        ImageError: when it cannot be read.
    """
    try:
        with PILImage.open(path) as picture:
            return picture.size
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except Exception as error:  # Pillow raises many types on damaged files
        raise ImageError(f"{path}: not a readable image ({error})") from error
