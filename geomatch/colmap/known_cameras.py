"""Cameras of a calibration, in COLMAP's files, and which image has which."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geomatch.cameras import Camera, pycolmap
from geomatch.errors import GeomatchError, reading


def _converted(camera: Any) -> Camera:
    return Camera(camera.model_name, (camera.width, camera.height), tuple(camera.params))


def known_camera(camera: Any) -> Camera | None:
    """Convert pycolmap's camera of a database; None unless its focal length is known and it sees planes."""
    return _converted(camera) if camera.has_prior_focal_length and not camera.is_spherical() else None


def read_known_cameras(file: Path) -> tuple[dict[int, Camera], dict[str, int]]:
    """The cameras of a COLMAP model by number, and the number of each image's camera by name.

    ``file`` is the model's folder, or a ``cameras.txt``, perhaps with ``images.txt`` beside it. Raises
    GeomatchError when it cannot be read.
    """
    text = file / "cameras.txt" if file.is_dir() else file
    images = text.with_name("images.txt")
    with reading(file, "model or cameras.txt of COLMAP"):
        if not text.is_file():
            model = pycolmap().Reconstruction(str(file))
            cameras = {number: _converted(camera) for number, camera in model.cameras.items()}
            return cameras, {image.name: image.camera_id for image in model.images.values()}
        rows = [line.split() for line in _lines(text) if line]
        try:
            cameras = {
                int(r[0]): Camera(r[1], (int(r[2]), int(r[3])), tuple(map(float, r[4:]))) for r in rows
            }
        except GeomatchError as error:
            raise GeomatchError(f"{text}: {error}") from None
        # the second line of each image is that of its points, which may be empty
        rows = [line.split(maxsplit=9) for line in _lines(images)[::2] if line] if images.is_file() else []
        return cameras, {row[9]: int(row[8]) for row in rows}


def _lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if not line.startswith("#")]


def assign_cameras(file: Path, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Camera]:
    """The camera of each image by its name in the model, else the only one of its (width, height).

    Raises GeomatchError for images that get none, or could get several.
    """
    cameras, numbers = read_known_cameras(file)
    assigned, lacking = {}, []
    for name, size in sizes.items():
        fitting = [n for n, camera in cameras.items() if camera.size == size and n == numbers.get(name, n)]
        if len(fitting) > 1:
            text = f"{file}: cameras {fitting[0]} and {fitting[1]} are {size[0]}x{size[1]}, as {name} is"
            raise GeomatchError(f"{text}; say in images.txt beside it which image has which")
        if fitting:
            assigned[name] = cameras[fitting[0]]
        else:
            lacking.append(f"{name} ({size[0]}x{size[1]})")
    if lacking:
        some = ", ".join(lacking[:3]) + ", ..." * (len(lacking) > 3)
        raise GeomatchError(f"{file}: has no camera of the size of {len(lacking)} images: {some}")
    return assigned
