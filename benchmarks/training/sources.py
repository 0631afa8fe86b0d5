"""The openly licensed images that `dift-tiny` learned from, and how to get them.

All come from Debian's main archive, which holds only what the Debian Free
Software Guidelines admit. `images.tsv` lists every file with its package,
licence and SHA-256; rows marked ``holdout`` are never trained on.
"""

import csv
import importlib.resources
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from geomatch.errors import GeomatchError
from geomatch.files import sha256_of

Split = Literal["train", "holdout"]


@dataclass(frozen=True, slots=True)
class TrainingImage:
    """One listed image."""

    split: str
    """``train`` or ``holdout``."""
    kind: str
    """``photo`` (a scene) or ``texture`` (a surface)."""
    package: str
    """Debian package that ships it."""
    licence: str
    """Licence as stated in the package's copyright file."""
    sha256: str
    """Checksum of the file, in hexadecimal."""
    path: str
    """Inside the package."""


def listed_images() -> list[TrainingImage]:
    """Every image of the recipe, in the order of the list."""
    source = importlib.resources.files("geomatch.benchmarks.training") / "images.tsv"
    with source.open(encoding="utf-8") as file:
        return [TrainingImage(**row) for row in csv.DictReader(file, delimiter="\t")]


def fetch_packages(folder: Path) -> None:
    """Download the Debian packages that are missing and unpack them into ``folder/<package>``.

    Nothing is installed.

    Raises:
        GeomatchError: when ``apt-get`` or ``dpkg`` is missing or fails.
    """
    wanted = sorted({image.package for image in listed_images()})
    missing = [package for package in wanted if not (folder / package).is_dir()]
    if not missing:
        return
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise GeomatchError(
            f"cannot download {', '.join(missing)}: apt-get and dpkg are needed (a Debian system); "
            f"elsewhere, unpack each package into {folder}/<package>"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for package in missing:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            work = Path(name)
            work.chmod(0o755)
            failure = _run(work, "apt-get", "download", "-qq", package)
            archives = list(work.glob("*.deb"))
            if failure is not None or not archives:
                reason = failure or "no archive"
                raise GeomatchError(
                    f"apt-get download {package} failed ({reason}); run `apt-get update` as root first"
                )
            failure = _run(work, "dpkg", "-x", archives[0].name, "unpacked")
            if failure is not None:
                raise GeomatchError(f"dpkg could not unpack {package} ({failure})")
            (work / "unpacked").rename(folder / package)


def _run(folder: Path, *command: str) -> str | None:
    """Run a command; its error output when it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return " ".join(done.stderr.split()) if done.returncode else None


def find_images(folder: Path, split: Split) -> list[tuple[TrainingImage, Path]]:
    """The images of one split under ``folder``, each verified by its SHA-256.

    Raises:
        GeomatchError: when any is missing or differs, naming the first.
    """
    listed = [image for image in listed_images() if image.split == split]
    found = [(image, folder / image.package / image.path) for image in listed]
    wrong = [image for image, path in found if not path.is_file() or sha256_of(path) != image.sha256]
    if wrong:
        raise GeomatchError(
            f"{len(wrong)} of {len(listed)} listed images are missing or differ under {folder}, "
            f"the first is {wrong[0].package}/{wrong[0].path}; the list was made from Debian 12 (bookworm)"
        )
    return found
