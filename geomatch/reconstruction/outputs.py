"""Models written for 3D Gaussian Splatting, nerfstudio and others."""

import json
import os
import re
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

from geomatch.cameras import pycolmap
from geomatch.colmap.library import interruptible
from geomatch.errors import GeomatchError
from geomatch.files import folder_beside, make_folder, replacing
from geomatch.images import raw_size
from geomatch.progress import progress_bar
from geomatch.reconstruction.folder import is_output
from geomatch.reconstruction.models import posed_images
from geomatch.reconstruction.transforms import write_transforms

_TURNED = re.compile(rb"(\x12\x01\x03\0\x01\0{3})[\x02-\x08]\0|(\x01\x12\0\x03\0{3}\x01\0)[\x02-\x08]")
"""EXIF's entry of an orientation other than upright, in either byte order (tag 0x0112 of CIPA DC-008)."""


def write_outputs(
    model: Any, images: Path, folder: Path, forms: Sequence[str], progress: bool = False
) -> list[Path]:
    """Write a ``pycolmap.Reconstruction`` in some forms, each whole or not at all; return what was written.

    ``forms`` are `undistorted` (`write_undistorted`), `nerfstudio` (`write_transforms`) and `ply`: the points
    as ``points.ply`` for MeshLab, CloudCompare and Open3D. ``images`` is the folder of the photographs, which
    `ply` does not need. An earlier call's files are replaced. Raises GeomatchError for other forms, no pose,
    missing photographs, cameras that a form lacks, and files in the way that others wrote.
    """
    writers = {"nerfstudio": write_transforms, "ply": _write_ply, "undistorted": write_undistorted}
    places = {"nerfstudio": folder / "transforms.json", "undistorted": folder / "undistorted"}
    wanted = sorted(set(forms))  # so what takes long comes last
    if unknown := [form for form in wanted if form not in writers]:
        raise GeomatchError(f"there is no form {unknown[0]!r} of outputs; choose from: {', '.join(writers)}")
    names = [image.name for image in posed_images(model)]
    if not names:
        raise GeomatchError("the model has no image with a pose, so there is nothing to write")
    for place in (places[form] for form in wanted if form in places):
        if missing := [name for name in names if not (images / name).is_file()]:
            text = f"{images}: {len(missing)} of {len(names)} images of the model are not there"
            raise GeomatchError(f"{text}, such as {missing[0]}; give the folder that has them (--images)")
        if place.exists() and not is_output(place):
            raise GeomatchError(f"{place} was not written by geomatch: give another folder")
    make_folder(folder)
    return [path for form in wanted for path in writers[form](model, images, folder, progress)]


def _write_ply(model: Any, images: Path, folder: Path, progress: bool) -> list[Path]:
    with replacing(folder / "points.ply") as temporary:
        model.export_PLY(str(temporary))
    return [folder / "points.ply"]


def write_undistorted(model: Any, images: Path, folder: Path, progress: bool) -> list[Path]:
    """Write ``undistorted``: ``images`` as pinhole cameras see them, and their model in ``sparse/0``.

    It has all points and tracks, and COLMAP 3 reads it, too. Loaders of 3D Gaussian Splatting take the last
    part of an image's name, as ASCII (graphdeco's ``dataset_readers.py``, ``colmap_loader.py``): ``a/1.jpg``
    becomes ``a_1.jpg``, and é ``%E9``; ``names.json`` has the old names. Pixels are as stored, and their
    orientation in EXIF data is set to upright. Raises GeomatchError for what COLMAP cannot undistort.
    """
    result, renamed, names, library = folder / "undistorted", copy(model), dict[str, str](), pycolmap()
    with folder_beside(result) as work:
        given, new, made, done = work / "given", work / "new", work / "made", work / "made" / "images"
        for part in (given, work / "model", new / "sparse"):
            part.mkdir(parents=True)
        for image in posed_images(renamed):
            (width, height), camera = raw_size(images / image.name), image.camera
            if (width, height) != (camera.width, camera.height) or not camera.focal_length_idxs():
                lens = f"camera ({camera.model.name}, {camera.width}x{camera.height})"  # COLMAP aborts
                text = f"{images / image.name} ({width}x{height}) cannot be undistorted by its {lens}"
                raise GeomatchError(f"{text}: the photographs of the model are needed, no panoramas")
            name = re.sub("[^ -~]", lambda one: f"%{ord(one[0]):X}", image.name.replace("/", "_"))
            while name in names:
                name = f"_{name}"
            (given / name).symlink_to((images / image.name).resolve())
            names[name], image.name = image.name, name
        renamed.write(str(work / "model"))
        paths = [str(path) for path in (made, work / "model", given)]
        with progress_bar(None, "undistorting", "image", len(names), progress) as bar:
            interruptible(
                lambda token: library.undistort_images(*paths, cancellation_token=token),
                lambda: bar.update(len(os.listdir(done)) - bar.n if done.exists() else 0),
            )
        if lost := [old for name, old in names.items() if not (done / name).is_file()]:
            raise GeomatchError(f"COLMAP cannot read {len(lost)} of {len(names)} images, such as {lost[0]}")
        for name in names:
            with (done / name).open("r+b") as file:
                head = file.read(2**16)
                if head.startswith(b"\xff\xd8") and (found := _TURNED.search(head)):  # JPEG
                    file.seek(found.start())
                    file.write(found[1] + b"\1\0" if found[1] else found[2] + b"\1")
        os.replace(done, new / "images")
        os.replace(made / "sparse", new / "sparse" / "0")
        (new / "names.json").write_text(json.dumps({"program": "geomatch", "images": names}, indent=2) + "\n")
        if result.exists():
            os.replace(result, work / "old")
        os.replace(new, result)
    return [result]
