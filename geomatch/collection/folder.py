"""The images of a folder, by the names that COLMAP gives them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from geomatch.errors import ImageError
from geomatch.images import IMAGE_SUFFIXES

UNREADABLE = {".webp", ".gif", ".heic", ".heif", ".avif", ".jxl"}  # images that COLMAP cannot read


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Photographs below one folder."""

    root: Path
    names: tuple[str, ...]
    """Paths below the root with ``/``, sorted as COLMAP numbers them."""
    skipped: Mapping[str, str]
    """Files that look like images but cannot be used, and why."""

    def path(self, name: str) -> Path:
        """Path of an image."""
        return self.root / name


def find_images(root: Path, exclude: Path | None = None) -> ImageFolder:
    """Find the images below a folder; hidden files and folders are left out.

    Args:
        root: the folder.
        exclude: a folder below it to leave out, such as that of results.

    Raises:
        ImageError: when there is no folder or no image in it.
    """
    if not root.is_dir():
        raise ImageError(f"{root}: no such folder of images")
    names, skipped = [], {}
    left_out = exclude.resolve() if exclude else None
    if left_out and root.resolve() not in left_out.parents:
        left_out = None
    for path in root.rglob("*"):
        below = path.relative_to(root)
        if path.suffix.lower() not in IMAGE_SUFFIXES | UNREADABLE:
            continue
        hidden = any(part.startswith(".") for part in below.parts)
        if hidden or (left_out is not None and left_out in path.resolve().parents):
            continue
        name = below.as_posix()
        reason = _unusable(path, name)
        if reason:
            skipped[name.encode(errors="replace").decode()] = reason
        else:
            names.append(name)
    if not names:
        raise ImageError(f"{root}: no images there ({', '.join(sorted(IMAGE_SUFFIXES - UNREADABLE))})")
    return ImageFolder(root, tuple(sorted(names)), skipped)


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
