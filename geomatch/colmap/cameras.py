"""Cameras and images of a database, made by COLMAP from the files, or of a calibration in its files."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from geomatch.cameras import Camera, camera_of, check_model, check_params, pycolmap, read_camera_file
from geomatch.collection.correspondences import check_name
from geomatch.collection.folder import exif_of
from geomatch.colmap.library import database
from geomatch.errors import FeaturesError, GeomatchError, ImageError, first_line, reading
from geomatch.images import raw_size

CameraMode = Literal["auto", "single", "per-folder", "per-image"]
_EXIF, _MAKE, _MODEL, _FOCAL, _FOCAL_35 = 0x8769, 0x010F, 0x0110, 0x920A, 0xA405


@dataclass(frozen=True, slots=True)
class Cameras:
    """The cameras that images are given in a database."""

    mode: CameraMode = "auto"
    """Which images share a camera; ``auto``: those of one size, make, model and focal length, by EXIF."""
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
        _known_cameras(cameras.file)
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
        _assigned(cameras.file, sizes)
    return sizes, skipped


def import_images(path: Path, images: Path, sizes: Mapping[str, tuple[int, int]], cameras: Cameras) -> None:
    """Add images that a database lacks, to cameras of like ones there; COLMAP skips what it cannot read."""
    library, mode = pycolmap(), cameras.mode
    known = _assigned(cameras.file, sizes) if cameras.file else {}
    with database(str(path)) as opened:
        stored = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        present = {image.name: stored[image.camera_id] for image in opened.read_all_images()}

    def like(name: str, size: tuple[int, int]) -> Any:
        return (size, *camera_tags(images / name)) if mode == "auto" else _together(name, mode)

    shared, groups = defaultdict[Any, set[int]](set), defaultdict[Any, list[str]](list)
    given = tuple(float(value) for value in cameras.params.split(",")) if cameras.params else None
    asked = not known and (given is not None or cameras.model != CAMERAS.model)
    for name, one in present.items():
        key: Any = known_camera(one) if known else like(name, (one.width, one.height))
        shared[key].add(one.camera_id)

    def fits(one: Any) -> bool:  # a new one would repeat it
        return not asked or (one.model_name == cameras.model and given in (None, tuple(one.params)))

    for name in [name for name in sizes if name not in present]:
        groups[known.get(name) or like(name, sizes[name])].append(name)
    for key, members in groups.items():
        model, params, there = cameras.model, cameras.params, shared[key]
        own = {number for number in there if fits(stored[number])}
        if known:
            model, params = key.model, ",".join(map(repr, key.params))
        elif mode != "auto" and (len(there) > 1 or own != there):
            text = f"{len(there)}" if len(there) > 1 else "one of another model or with other parameters"
            text = f"camera mode {mode}: images that share one with {members[0]} have {text} in the database"
            raise GeomatchError(f"{text}; use 'auto' or 'per-image'")
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
    tags, inner = exif_of(path, _EXIF)
    found = (tags.get(_MAKE), tags.get(_MODEL), inner.get(_FOCAL), inner.get(_FOCAL_35))
    return tuple(str(value or "").strip("\0 ") for value in found)


def known_camera(camera: Any) -> Camera | None:
    """Convert pycolmap's camera of a database; None unless its focal length is known and it sees planes."""
    return _converted(camera) if camera.has_prior_focal_length and not camera.is_spherical() else None


def _converted(camera: Any) -> Camera:
    return Camera(camera.model_name, (camera.width, camera.height), tuple(camera.params))


def _known_cameras(file: Path) -> tuple[dict[int, Camera], dict[str, int]]:
    """The cameras of a COLMAP model by number, and the number of each image's camera by name.

    ``file`` is the model's folder, or a ``cameras.txt``; raises GeomatchError when it cannot be read.
    """
    text = file / "cameras.txt" if file.is_dir() else file
    images, numbers = text.with_name("images.txt"), {}
    with reading(file, "model or cameras.txt of COLMAP"):
        if not text.is_file():
            model = pycolmap().Reconstruction(str(file))
            numbers = {image.name: image.camera_id for image in model.images.values()}
            return {number: _converted(camera) for number, camera in model.cameras.items()}, numbers
        lines = iter(images.read_text(encoding="utf-8").splitlines() if images.is_file() else ())
        for line in lines:
            if line.strip() and not line.startswith("#"):
                row = line.strip().split(maxsplit=9)
                numbers[row[9]] = int(row[8])
                next(lines, None)  # the line of its points, which may be empty
        return read_camera_file(text), numbers


def _assigned(file: Path, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Camera]:
    """The camera of each image by name, else the only one of its size; GeomatchError for none or several."""
    cameras, numbers = _known_cameras(file)
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
