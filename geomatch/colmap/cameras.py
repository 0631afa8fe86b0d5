"""Cameras and images of a database, made by COLMAP from the files."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from geomatch.cameras import camera_of, check_model, check_params, pycolmap
from geomatch.collection.correspondences import check_name
from geomatch.colmap.known_cameras import assign_cameras, known_camera, read_known_cameras
from geomatch.colmap.library import database
from geomatch.errors import FeaturesError, GeomatchError, ImageError, first_line
from geomatch.images import open_image, raw_size

CameraMode = Literal["auto", "single", "per-folder", "per-image"]
_EXIF, _MAKE, _MODEL, _FOCAL, _FOCAL_35 = 0x8769, 0x010F, 0x0110, 0x920A, 0xA405
_NOTHING = ("",) * 4


@dataclass(frozen=True, slots=True)
class Cameras:
    """The cameras that images are given in a database."""

    mode: CameraMode = "auto"
    """Which images share a camera; ``auto``: those of one size whose EXIF data, as far as they go, name one
    make, model and focal length."""
    model: str = "SIMPLE_RADIAL"
    """COLMAP's name of the model; the focal length comes from EXIF where it is there."""
    params: str = ""
    """Known parameters instead: numbers separated by commas, in pixels and COLMAP's order."""
    file: Path | None = None
    """Known cameras instead of all these: the folder of a COLMAP model, or its ``cameras.txt``. An image that
    the model has by name gets its camera there, any other the only one of its size."""


CAMERAS = Cameras()


def check_cameras(cameras: Cameras) -> None:
    """Raise `GeomatchError` unless COLMAP has the model, and parameters or file, if given, make sense."""
    if cameras.file is not None:
        if cameras != Cameras(file=cameras.file):
            raise GeomatchError(f"{cameras.file} has the cameras; leave out mode, model and parameters")
        read_known_cameras(cameras.file)
    check_model(cameras.model)
    if not cameras.params:
        return
    try:
        values = [float(value) for value in cameras.params.split(",")]
    except ValueError:
        values = []
    check_params(cameras.model, values, cameras.params)


def image_sizes(
    images: Path, names: Iterable[str], cameras: Cameras
) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """(width, height) of a folder's images, in COLMAP's order, and the reasons for those not readable.

    Raises what `import_images` would: images that cannot share a camera, or for which none is known.
    """
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
        first, size = shared.setdefault(_together(name, cameras.mode), (name, sizes[name]))
        if size != sizes[name]:
            text = f"{first} has {size[0]}x{size[1]} pixels, {name} {sizes[name][0]}x{sizes[name][1]}"
            raise FeaturesError(f"{text}; images of one camera must be of one size: use auto or per-image")
        if "FISHEYE" in cameras.model and not cameras.params and camera_of(images / name, size) is None:
            text = f"{cameras.model}: the focal length is missing, also in EXIF data of {name}, and COLMAP's"
            raise GeomatchError(f"{text} guess fits no fisheye lens: give --camera-params or --cameras")
    if not sizes:
        raise ImageError(f"{images}: none of {len(skipped)} images can be read; is it the right folder?")
    if cameras.file:
        assign_cameras(cameras.file, sizes)
    return sizes, skipped


def import_images(path: Path, images: Path, sizes: Mapping[str, tuple[int, int]], cameras: Cameras) -> None:
    """Add the images that the database ``path`` lacks, to cameras of like images there where they share one.

    COLMAP leaves out silently what it cannot read.
    """
    library, mode = pycolmap(), cameras.mode
    known = assign_cameras(cameras.file, sizes) if cameras.file else {}
    with database(str(path)) as opened:
        stored = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        present = {image.name: stored[image.camera_id] for image in opened.read_all_images()}

    def like(name: str, size: tuple[int, int]) -> Any:
        return (size, *camera_tags(images / name)) if mode == "auto" else _together(name, mode)

    shared, groups = defaultdict[Any, set[int]](set), defaultdict[Any, list[str]](list)
    given = tuple(float(value) for value in cameras.params.split(",")) if cameras.params else None
    asked = mode == "auto" and not known and (given is not None or cameras.model != CAMERAS.model)
    for name, one in present.items():
        key: Any = known_camera(one) if known else like(name, (one.width, one.height))
        if asked:  # only one that a new one would repeat
            key = key, one.model_name, given and tuple(one.params)
        shared[key].add(one.camera_id)
    for name in [name for name in sizes if name not in present]:
        groups[known.get(name) or like(name, sizes[name])].append(name)
    for key, members in groups.items():
        model, params, own = cameras.model, cameras.params, shared[key]
        if known:
            model, params = key.model, ",".join(map(repr, key.params))
        elif asked:
            own = shared[key, model, given]
        elif len(own) > 1 and mode != "auto":
            text = f"camera mode {mode}: images that share one with {members[0]} have {len(own)}"
            raise GeomatchError(f"{text} in the database; use 'auto' or 'per-image'")
        options = library.ImageReaderOptions()
        options.camera_model, options.camera_params = model, params
        if len(own) == 1 or (own and known):
            options.existing_camera_id = min(own)
        single = library.CameraMode.SINGLE  # in other modes COLMAP ignores existing_camera_id
        try:
            library.import_images(str(path), str(images), single, members, options)
        except (RuntimeError, ValueError) as error:
            text = f"COLMAP cannot make {model} cameras with parameters {params!r} ({first_line(error)})"
            raise GeomatchError(text) from error


def _together(name: str, mode: CameraMode) -> str:
    """What the names of images of one camera have in common."""
    return {"single": "/", "per-folder": str(PurePosixPath(name).parent)}.get(mode, name)


def camera_tags(path: Path) -> tuple[str, ...]:
    """Make, model and focal lengths (mm, and for 35 mm film) as EXIF data tell, "" what they do not."""
    try:
        with open_image(path) as picture:
            if "exif" not in picture.info and picture.format != "TIFF":
                return _NOTHING  # Pillow would decode all of a PNG to look behind the pixels
            tags = picture.getexif()
            inner = tags.get_ifd(_EXIF)
    except Exception:  # damaged tags are as good as none
        return _NOTHING
    found = (tags.get(_MAKE), tags.get(_MODEL), inner.get(_FOCAL), inner.get(_FOCAL_35))
    return tuple(str(value or "").strip("\0 ") for value in found)
