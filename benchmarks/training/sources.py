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
    """Of the file, in hexadecimal."""
    path: str
    """Inside the package."""


def listed_images() -> list[TrainingImage]:
    """Every image of the recipe, in the order of the list."""
    source = importlib.resources.files("geomatch.benchmarks.training") / "images.tsv"
    with source.open(encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return [
            TrainingImage(
                row["split"], row["kind"], row["package"], row["licence"], row["sha256"], row["path"]
            )
            for row in rows
        ]


def fetch_packages(folder: Path) -> None:
    """Download and unpack the Debian packages into ``folder/<package>``.

    Packages that are there already are left alone. Nothing is installed.

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
            done = subprocess.run(
                ["apt-get", "download", "-qq", package], cwd=work, capture_output=True, text=True
            )
            archives = list(work.glob("*.deb"))
            if done.returncode != 0 or not archives:
                reason = " ".join(done.stderr.split()) or "no archive"
                raise GeomatchError(
                    f"apt-get download {package} failed ({reason}); run `apt-get update` as root first"
                )
            done = subprocess.run(
                ["dpkg", "-x", archives[0].name, "unpacked"], cwd=work, capture_output=True, text=True
            )
            if done.returncode != 0:
                raise GeomatchError(f"dpkg could not unpack {package} ({' '.join(done.stderr.split())})")
            (work / "unpacked").rename(folder / package)


def find_images(folder: Path, split: Split) -> list[tuple[TrainingImage, Path]]:
    """The images of one split under ``folder``, each verified by its SHA-256.

    Raises:
        GeomatchError: when any is missing or differs, naming the first.
    """
    listed = [image for image in listed_images() if image.split == split]
    found: list[tuple[TrainingImage, Path]] = []
    wrong: list[str] = []
    for image in listed:
        path = folder / image.package / image.path
        if path.is_file() and sha256_of(path) == image.sha256:
            found.append((image, path))
        else:
            wrong.append(f"{image.package}/{image.path}")
    if wrong:
        raise GeomatchError(
            f"{len(wrong)} of {len(listed)} listed images are missing or differ under {folder}, "
            f"the first is {wrong[0]}; the list was made from Debian 12 (bookworm)"
        )
    return found
