"""Cameras and images of a database, made by COLMAP from the files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from geomatch.cameras import check_model, check_params, pycolmap
from geomatch.collection.correspondences import check_name
from geomatch.colmap.library import database
from geomatch.errors import FeaturesError, GeomatchError, ImageError, first_line
from geomatch.images import raw_size

CameraMode = Literal["auto", "single", "per-folder", "per-image"]


@dataclass(frozen=True, slots=True)
class Cameras:
    """The cameras that images are given in a database."""

    mode: CameraMode = "auto"
    """Which images share a camera; ``auto`` leaves it to COLMAP, by the images' EXIF data."""
    model: str = "SIMPLE_RADIAL"
    """COLMAP's name of the model; the focal length comes from EXIF where it is there."""
    params: str = ""
    """Known parameters instead: numbers separated by commas, in pixels and COLMAP's order."""


CAMERAS = Cameras()


def check_cameras(cameras: Cameras) -> None:
    """Raise `GeomatchError` unless COLMAP has the camera model, and parameters, if given, fit it."""
    check_model(cameras.model)
    if not cameras.params:
        return
    try:
        values = [float(value) for value in cameras.params.split(",")]
    except ValueError:
        values = []
    check_params(cameras.model, values, cameras.params)


def image_sizes(
    images: Path, names: Iterable[str], mode: CameraMode
) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """(width, height) of a folder's images, in COLMAP's order, and the reasons for those not readable."""
    sizes: dict[str, tuple[int, int]] = {}
    skipped: dict[str, str] = {}
    shared: dict[str, tuple[str, tuple[int, int]]] = {}
    for name in sorted(names):
        check_name(name)
        try:
            sizes[name] = raw_size(images / name)
        except ImageError as error:
            skipped[name] = first_line(error)
            continue
        first, size = shared.setdefault(_sharing(name, mode), (name, sizes[name]))
        if size != sizes[name]:
            text = f"{first} has {size[0]}x{size[1]} pixels, {name} {sizes[name][0]}x{sizes[name][1]}"
            raise FeaturesError(f"{text}; images of one camera must be of one size: use auto or per-image")
    if not sizes:
        raise ImageError(f"{images}: none of {len(skipped)} images can be read; is it the right folder?")
    return sizes, skipped


def import_images(path: Path, images: Path, names: Sequence[str], cameras: Cameras) -> None:
    """Add the images that the database ``path`` lacks; COLMAP leaves out silently what it cannot read."""
    mode, library = cameras.mode, pycolmap()
    sharing = getattr(library.CameraMode, mode.replace("-", "_").upper())
    with database(str(path)) as opened:
        present = {image.name: image.camera_id for image in opened.read_all_images()}
    shared: dict[str, set[int]] = {}
    for name, camera_id in present.items():
        shared.setdefault(_sharing(name, mode), set()).add(camera_id)
    groups: dict[int | None, list[str]] = {}
    for name in names:
        if name in present:
            continue
        own = shared.get(_sharing(name, mode), set())
        if len(own) > 1:
            text = f"camera mode {mode}: images that share one with {name} have {len(own)} in the database"
            raise GeomatchError(text + "; use 'auto' or 'per-image'")
        groups.setdefault(next(iter(own), None), []).append(name)
    for camera_id, members in groups.items():
        options = library.ImageReaderOptions()
        options.camera_model, options.camera_params = cameras.model, cameras.params
        if camera_id is not None:
            options.existing_camera_id = camera_id
        try:
            library.import_images(
                str(path), str(images), camera_mode=sharing, image_names=members, options=options
            )
        except (RuntimeError, ValueError) as error:
            text = f"COLMAP cannot make {cameras.model} cameras with parameters {cameras.params!r}"
            raise GeomatchError(f"{text} ({first_line(error)})") from error


def _sharing(name: str, mode: CameraMode) -> str:
    """What images of one camera have in common: for ``auto`` and ``per-image``, nothing but the name."""
    if mode == "single":
        return ""
    return str(PurePosixPath(name).parent) if mode == "per-folder" else name
