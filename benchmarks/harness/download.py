"""Getting data sets: download, check, unpack."""

import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from geomatch.errors import GeomatchError, first_line
from geomatch.files import replacing, write_whole
from geomatch.progress import progress_bar
from geomatch.weights.download import WeightsFile, locate_weights, read_whole

LARGEST_RATIO = 30  # of an archive's content to its size
SMALL = 2**30  # bytes that any archive may hold besides
_BLOCK = 2**20  # bytes in memory at a time


@dataclass(frozen=True, slots=True)
class Release:
    """The files that make up a data set."""

    folder: str  # the data set, below the folder that the user gives; where its archives have none it is made
    files: Sequence[tuple[WeightsFile, str]]
    """Each with the folder, below the user's, in which it is unpacked or put."""
    last: int | None = None  # how many parts of a file's path in the archive are kept; None keeps all


def _file(
    url: str, licence: str, place: str = "", sha256: str | None = None, md5: str | None = None
) -> tuple[WeightsFile, str]:
    # most authors publish no checksums
    return WeightsFile(url.rpartition("/")[2], url, licence, sha256, md5), place


_WILLOW = "http://www.di.ens.fr/willow/research"
_JHMDB_FILES = ("Rename_Images.tar.gz", "joint_positions.zip", "splits.zip")
_JHMDB = "http://files.is.tue.mpg.de/jhmdb"
_RESEARCH = "none stated; for research"
_CUB = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
_DAVIS = "https://data.vision.ee.ethz.ch/csergi/share/davis/DAVIS-2017-trainval-480p.zip"
_MEGADEPTH = "https://github.com/Parskatt/storage/releases/download/mega1500"
_MEGADEPTH_FILES = [f"{n}.npz" for n in ("0015_0.1_0.3", "0015_0.3_0.5", "0022_0.1_0.3", "0022_0.3_0.5",
                                         "0022_0.5_0.7")] + ["megadepth_test_1500.tar"]  # fmt: skip
_FLICKR = "photographs of Flickr's users, who have the rights; none stated"
_HPATCHES = "https://huggingface.co/datasets/vbalnt/hpatches/resolve/main/hpatches-sequences-release.zip"
_OLDER = "repository MIT; the images come from older data sets: cite the original sources"
_CITED = f"{_RESEARCH}, cite Mishkin et al., BMVC 2015"
_WBS = "http://cmp.felk.cvut.cz/wbs/datasets"
RELEASES = {
    "hpatches": Release(
        "",  # put on the hub by the authors
        [_file(_HPATCHES, _OLDER, sha256="99cf7e1ca167896eb4ca2fe3d903beff6566243a3c0c8e07a13a2596648ad670")],
        last=2,
    ),
    "evd": Release("EVD", [_file(f"{_WBS}/EVD.zip", _RESEARCH, md5="7ce52151abdafa71a609424d09e43075")]),
    "wxbs": Release("v1.1", [_file(f"{_WBS}/WxBS_v1.1.zip", _CITED, md5="66da037e7d20487e86db147307615870")]),
    "megadepth": Release(
        "megadepth-1500",
        [_file(f"{_MEGADEPTH}/{name}", _FLICKR, "megadepth-1500") for name in _MEGADEPTH_FILES],
    ),
    "spair": Release(
        "SPair-71k", [_file("http://cvlab.postech.ac.kr/research/SPair-71k/data/SPair-71k.tar.gz", _RESEARCH)]
    ),
    "willow": Release(
        "PF-dataset",
        [
            _file(f"{_WILLOW}/proposalflow/dataset/PF-dataset.zip", _RESEARCH),
            _file(f"{_WILLOW}/cnngeometric/other_resources/test_pairs_pf.csv", _RESEARCH, "PF-dataset"),
        ],
    ),
    "cub": Release("CUB_200_2011", [_file(_CUB, "images of the web; non-commercial research and education")]),
    "davis": Release("DAVIS", [_file(_DAVIS, "CC BY-NC 4.0")]),
    "jhmdb": Release("JHMDB", [_file(f"{_JHMDB}/{name}", _RESEARCH, "JHMDB") for name in _JHMDB_FILES]),
}


def fetch_release(release: Release, out: Path, archives: Sequence[Path] = ()) -> Path:
    """Download (or take) the files of a release and unpack them into ``out``.

    What is unpacked already is not written again; downloads go on where they were interrupted. The
    archives stay in the cache.
    """
    given = {path.name: path for path in archives}
    names = [file.file_name for file, _ in release.files]
    unknown = sorted(given.keys() - set(names))
    if unknown:
        raise GeomatchError(f"{given[unknown[0]]}: the release has {', '.join(names)}; keep these names")
    for path in archives:  # before others are downloaded
        if not path.is_file():
            raise GeomatchError(f"{path}: no such file")
    for file, place in release.files:
        path = locate_weights(file, given.get(file.file_name))
        target = out / place
        target.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".csv", ".npz"):  # of which MegaDepth's are no archives
            write_whole(target / file.file_name, path.read_bytes())
            continue
        unpack(path, target, release.last)
    return out / release.folder


def unpack(path: Path, target: Path, last: int | None = None) -> None:
    """Unpack an archive; what is there with the same content is left alone.

    Links, devices, and names that lead out of ``target`` are left out.
    """
    left = SMALL + LARGEST_RATIO * path.stat().st_size
    try:
        if not zipfile.is_zipfile(path):
            read_whole(path)  # to the end, where the checksum is, which tarfile does not
        for name, size, open_member in progress_bar(_members(path), f"unpacking {path.name}", "file"):
            left -= size
            if left < 0:
                raise ValueError(f"it unpacks to more than {LARGEST_RATIO} times its size")
            parts = PurePosixPath(name).parts
            if ".." in parts or name.startswith("/") or "__MACOSX" in parts or len(parts) < (last or 0):
                continue
            place = target.joinpath(*parts[-(last or 0) :])
            if place.is_file() and place.stat().st_size == size and _is_same(place, open_member):
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with replacing(place) as temporary, temporary.open("wb") as file, open_member() as content:
                shutil.copyfileobj(content, file, _BLOCK)
    except Exception as error:  # tarfile, zipfile and the codecs raise their own
        if isinstance(error, OSError) and error.errno is not None:  # a full disk, no permission
            raise
        raise GeomatchError(
            f"{path}: damaged or no archive ({first_line(error)}); delete it, so that it is downloaded again"
        ) from error


def _is_same(place: Path, open_member: Callable[[], IO[bytes]]) -> bool:
    with place.open("rb") as there, open_member() as content:
        return all(block == there.read(len(block)) for block in iter(partial(content.read, _BLOCK), b""))


def _members(path: Path) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    """Name, size (reading ends there) and opener of every file in an archive; not of links and devices."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    yield entry.filename, entry.file_size, partial(archive.open, entry)
        return
    with tarfile.open(path) as packed:
        for member in packed:
            if member.isfile():
                yield member.name, member.size, partial(packed.extractfile, member)  # type: ignore[misc]
