"""A data set on disk, and what its readers share."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import GeomatchError, reading
from geomatch.files import sha256_of

Part = TypeVar("Part", covariant=True)
SUFFIXES = (".ppm", ".png", ".jpg", ".jpeg")


@dataclass(frozen=True, slots=True)
class DataSet(Generic[Part]):
    """A data set on disk, read as far as it can be."""

    folder: Path
    units: Sequence[Part]  # the usable ones: sequences, categories, videos
    broken: dict[str, str]  # names of what cannot be used, with the reason
    complete: bool  # True if it is the whole release, so that numbers compare with published ones
    split: str | None = None  # the release's split, where it has several
    missing: str = ""  # what of the release is not here beside whole units


def chosen_split(name: str, split: str | None, splits: Iterable[str] = ()) -> str:
    """The split, or the first if it is None; raises ValueError for one that the data set ``name`` has not."""
    known = [*splits]
    if split is not None and split not in known:
        raise ValueError(
            f"unknown split {split!r}; choose from: {', '.join(known)}" if known
            else f"{name} has no splits, got {split!r}"
        )  # fmt: skip
    return split or next(iter(known), "")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file of a release."""
    if not path.exists():
        raise GeomatchError(f"{path}: no such file; give the folder that the release unpacks to")
    with reading(path, "text file"):
        return path.read_text(encoding="utf-8").splitlines()


def read_words(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Where a line of a text file stands, and its words, of every line that has any."""
    for number, line in enumerate(read_lines(path), 1):
        if words := line.split():
            yield f"{path}:{number}", words


def read_matrix(path: Path, what: str, columns: int) -> NDArray[np.float64]:
    """(N, columns) finite numbers of a text file, a row per line that is not empty."""
    with reading(path, what):
        lines = path.read_text(encoding="utf-8").splitlines()
        found = np.array([line.split() for line in lines if line.strip()], np.float64)
    if found.shape[1:] != (columns,) or not np.isfinite(found).all():
        raise GeomatchError(f"{path}: expected a {what}, {columns} finite numbers a row, got {found.shape}")
    return found


def find_image(path: Path) -> Path:
    """The image at a path without its suffix, or with it; raises `GeomatchError` where there is none."""
    for suffix in ("", *SUFFIXES):
        if (found := path.with_name(path.name + suffix)).is_file():
            return found
    raise GeomatchError(f"{path.parent}: image {path.name} is missing ({', '.join(SUFFIXES)})")


def sums_of(paths: Iterable[Path]) -> list[str | None]:
    """SHA-256 of files, None for one that is missing."""
    return [sha256_of(path) if path.is_file() else None for path in paths]


def absent(folder: Path, paths: Iterable[Path], reason: str) -> dict[str, str]:
    """Names below ``folder`` of the files that are missing, each with the reason."""
    return {str(path.relative_to(folder)): reason for path in paths if not path.is_file()}
