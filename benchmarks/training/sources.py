"""The openly licensed images that `dift-tiny` learned from, and how to get them.

All come from Debian's main archive, which holds only what the Debian Free Software Guidelines admit.
`images.tsv` lists every file; rows marked ``holdout`` are never trained on.
"""

import csv
import importlib.resources
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from geomatch.errors import GeomatchError, first_line
from geomatch.files import sha256_of


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
    for package in sorted({image.package for image in listed_images()}):
        if (folder / package).is_dir():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            work = Path(name)
            work.chmod(0o755)
            try:
                subprocess.run(["apt-get", "download", "-qq", package], cwd=work, check=True)
                subprocess.run(["dpkg", "-x", *work.glob("*.deb"), work / "unpacked"], check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise GeomatchError(
                    f"cannot download {package} ({first_line(error)}); on Debian run `apt-get update` first, "
                    f"elsewhere unpack each package into {folder}/PACKAGE"
                ) from None
            (work / "unpacked").rename(folder / package)


def find_images(folder: Path) -> list[tuple[TrainingImage, Path]]:
    """The images to train on under ``folder``, each verified by its SHA-256.

    Raises:
        GeomatchError: when any is missing or differs, naming the first.
    """
    listed = [image for image in listed_images() if image.split == "train"]
    found = [(image, folder / image.package / image.path) for image in listed]
    wrong = [image for image, path in found if not path.is_file() or sha256_of(path) != image.sha256]
    if wrong:
        raise GeomatchError(
            f"{len(wrong)} of {len(listed)} listed images are missing or differ under {folder}, "
            f"the first is {wrong[0].package}/{wrong[0].path}; the list was made from Debian 12 (bookworm)"
        )
    return found
