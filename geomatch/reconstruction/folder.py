"""The folder of a run: what it writes replaces an earlier run's as a whole, and nothing else."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from geomatch.colmap.target import check_closed
from geomatch.errors import GeomatchError
from geomatch.files import make_folder, read_json, refuse_others

WRITTEN = (
    "summary.json", "database.db", "sparse", "model.html",
    "undistorted", "transforms.json", "sparse_pc.ply", "points.ply",
)  # fmt: skip
"""What a run leaves in its folder, in the order it is put there; the first marks the folder as ours. What
`outputs.write_outputs` makes of a model goes when that model goes."""
PROGRAM = "geomatch reconstruct"
MARKS = {"undistorted": "names.json", "transforms.json": ""}
"""The file by which outputs are known as ours; other programs have some of these names."""


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold a folder, which is made, for one run; raises GeomatchError while another holds it."""
    make_folder(out)
    try:
        lock = FileLock(out / ".lock").acquire(timeout=0)
    except Timeout as error:
        text = f"{out}: another run is writing there; wait for it, or give another folder"
        raise GeomatchError(text) from error
    with lock:
        yield


@contextmanager
def unfinished(out: Path) -> Iterator[Path]:
    """A folder in ``out`` whose content replaces an earlier run's when the block succeeds."""
    with locked(out):
        work = out / ".unfinished"
        refuse_others(out, WRITTEN, is_ours(out), PROGRAM)
        check_closed(out / "database.db")
        shutil.rmtree(work, ignore_errors=True)  # left by a run that was killed
        try:
            (work / "old").mkdir(parents=True)
            yield work
            check_closed(out / "database.db")  # a log of the old one would be taken for the new one's
            others = [name for name in MARKS if not is_output(out / name)]
            others += ["sparse_pc.ply"] * ("transforms.json" in others)  # whose points these are
            for name in (name for name in WRITTEN if name not in others):
                if (out / name).is_dir() or not (work / name).exists():
                    with suppress(FileNotFoundError):
                        os.replace(out / name, work / "old" / name)
                if (work / name).exists():
                    os.replace(work / name, out / name)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def is_output(path: Path) -> bool:
    """True for ``undistorted`` or ``transforms.json`` that `outputs.write_outputs` wrote."""
    with suppress(GeomatchError):
        return bool(read_json(path / MARKS[path.name], "output").get("program") == "geomatch")
    return False


def run_of(model: Path) -> Path | None:
    """The folder of the run that wrote a model, which may be that folder or ``sparse/0`` in it."""
    return next((place for place in (model, model.parent.parent) if is_ours(place)), None)


def photographs_of(model: Path) -> Path:
    """The folder of a model's photographs: as its run says, or else ``images`` in it."""
    run = run_of(model)
    told = run and read_json(run / WRITTEN[0], "summary").get("images_folder")
    return Path(told or model / "images")


def is_ours(out: Path) -> bool:
    """True for the folder of a run."""
    with suppress(GeomatchError):
        return bool(read_json(out / WRITTEN[0], "summary").get("program") == PROGRAM)
    return False
