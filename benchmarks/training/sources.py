"""The openly licensed images that `dift-tiny` learned from, and how to get them.

Those of `images.tsv` come from Debian's main archive, which holds only what the Debian Free Software
Guidelines admit; rows marked ``holdout`` are never trained on. `dense-images.tsv` lists those of the dense
head; the model card names its other sources.
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

    kind: str
    """``photo`` (a scene) or ``texture`` (a surface)."""
    package: str
    """Debian package that ships it, or folder of the source."""
    licence: str
    """Licence as stated there."""
    sha256: str
    """Checksum of the file, in hexadecimal."""
    path: str
    """Inside the package."""
    split: str = "train"
    """``train`` or ``holdout``."""
    author: str = ""
    """Where the package does not name the author, and the licence wants it."""


def listed_images(name: str = "images.tsv") -> list[TrainingImage]:
    """Every image of a list, in its order."""
    source = importlib.resources.files("geomatch.benchmarks.training") / name
    with source.open(encoding="utf-8") as file:
        return [TrainingImage(**row) for row in csv.DictReader(file, delimiter="\t")]


def fetch_packages(folder: Path) -> None:
    """Download the Debian packages that are missing and unpack, not install, them: ``folder/<package>``."""
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


def find_images(folder: Path, name: str = "images.tsv") -> list[tuple[TrainingImage, Path]]:
    """The images of a list to train on, under ``folder``; `GeomatchError` if one is missing or differs."""
    listed = [image for image in listed_images(name) if image.split == "train"]
    found = [(image, folder / image.package / image.path) for image in listed]
    wrong = [image for image, path in found if not path.is_file() or sha256_of(path) != image.sha256]
    if wrong:
        raise GeomatchError(
            f"{len(wrong)} of {len(listed)} listed images are missing or differ under {folder}, "
            f"the first is {wrong[0].package}/{wrong[0].path}; packages are those of Debian 12 (bookworm)"
        )
    return found
