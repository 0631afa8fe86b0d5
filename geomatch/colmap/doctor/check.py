"""Examining a COLMAP database (3.6 and later) for known mistakes, whoever wrote it, without changing it."""

import os
import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from numpy.typing import NDArray

from geomatch.collection.components import components
from geomatch.colmap.doctor import tables
from geomatch.colmap.doctor.findings import Finding, Photo, Tally, columns
from geomatch.colmap.sqlite import opened
from geomatch.errors import GeomatchError, ImageError
from geomatch.images import raw_size

_CAMERA_PARAMS = (3, 4, 4, 5, 8, 8, 12, 5, 4, 5, 12, 16, 4, 5, 3, 4, 6, 2)
"""Number of parameters of each camera model, by COLMAP's number."""
_TWO_FOCAL_LENGTHS = {1, 4, 5, 6, 7, 10, 11, 13, 15, 16}
_EQUIRECTANGULAR = 17
_Sizes = dict[int, tuple[int, int] | None]
"""(width, height) of every camera's images; None when it makes no sense."""
_Edges = list[tables.Edge]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What is in a database and what is wrong with it."""

    counts: dict[str, int]
    findings: tuple[Finding, ...]
    """Errors first."""

    @property
    def ok(self) -> bool:
        """True if there is no error; there may be warnings and notes."""
        return all(finding.severity != "error" for finding in self.findings)


def check_database(path: Path, images: Path | None = None) -> CheckReport:
    """Examine the database ``path``, and its files' sizes if the folder ``images`` is given.

    Raises GeomatchError when it cannot be read as a COLMAP database.
    """
    if images is not None and not images.is_dir():
        raise GeomatchError(f"{images}: no such folder of images")
    tally = Tally()
    with opened(path) as connection:
        connection.execute("BEGIN")  # one state of the file throughout
        sizes = _check_cameras(connection, tally)
        photos = _check_images(connection, sizes, tally)
        if images is not None:
            for photo in photos.values():
                _check_file(images, photo, tally)
        numbers = tables.check_keypoints(connection, photos, tally)
        descriptors = tables.check_descriptors(connection, photos, numbers, tally)
        matched = list(tables.check_matches(connection, photos, numbers, tally))
        verified = list(tables.check_geometries(connection, photos, numbers, tally))
    _check_graph(photos, numbers, matched, verified, tally)
    counts = {
        "cameras": len(sizes), "images": len(photos), "keypoints": sum(numbers.values()),
        "descriptors": descriptors, "pairs with matches": len(matched),
        "matches": sum(edge.matches for edge in matched), "verified pairs": len(verified),
        "inlier matches": sum(edge.matches for edge in verified),
        **{f"pairs {name}": tally.configurations[name] for name in sorted(tally.configurations)},
    }  # fmt: skip
    return CheckReport(counts, tally.findings())


def format_report(report: CheckReport) -> str:
    """The report for a terminal: what is there, then one line per finding."""
    lines = [", ".join(f"{number} {what}" for what, number in report.counts.items())]
    lines += [f"{finding.severity:<7} {finding.message}" for finding in report.findings]
    return "\n".join(lines if report.findings else [*lines, "nothing known to be wrong"])


def _check_cameras(connection: sqlite3.Connection, tally: Tally) -> _Sizes:
    sizes: _Sizes = {}
    for camera_id, model, width, height, params, prior in connection.execute(
        "SELECT camera_id, model, width, height, params, prior_focal_length FROM cameras"
    ):
        name = f"camera {camera_id}"
        sizes[camera_id] = None
        if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
            tally.add("error", "camera", "width and height must be positive", f"{name}, {width} x {height}")
            continue
        sizes[camera_id] = (width, height)
        if not (isinstance(model, int) and 0 <= model < len(_CAMERA_PARAMS)):
            tally.add("warning", "camera", "the camera model is not known here", f"{name}, {model}")
            continue
        got = len(params) if isinstance(params, bytes) else 0
        if got != 8 * _CAMERA_PARAMS[model]:
            text = "parameters have another length than the camera model's; write float64"
            tally.add("error", "camera", text, f"{name}, {got} bytes for {_CAMERA_PARAMS[model]} numbers")
        elif model != _EQUIRECTANGULAR:
            count = 2 if model in _TWO_FOCAL_LENGTHS else 1
            _check_intrinsics(name, np.frombuffer(params, "<f8"), count, (width, height), tally)
            if not prior:
                text = "the focal length is only a guess (prior_focal_length 0); give it when it is known"
                tally.add("note", "camera", text, name)
    return sizes


def _check_intrinsics(
    name: str, params: NDArray[np.float64], focals: int, size: tuple[int, int], tally: Tally
) -> None:
    if not np.isfinite(params).all():
        tally.add("error", "camera", "parameters are NaN or infinite", name)
        return
    focal, centre = params[:focals], params[focals : focals + 2]
    if (focal <= 0).any() or (focal > 10 * max(size)).any():
        text = "the focal length is absurd (0 or less, or over 10 times the longer side); it is in pixels"
        tally.add("warning", "camera", text, f"{name}, {focal[0]:g}")
    if (centre < 0).any() or (centre > size).any():
        text = "the principal point lies outside the image; look at the order of parameters of the model"
        tally.add("warning", "camera", text, f"{name}, {centre[0]:g} {centre[1]:g}")


def _check_images(connection: sqlite3.Connection, sizes: _Sizes, tally: Tally) -> dict[int, Photo]:
    photos, cameras = {}, {}
    for image_id, name, camera_id in connection.execute("SELECT image_id, name, camera_id FROM images"):
        name = str(name)
        photos[image_id] = Photo(name, sizes.get(camera_id))
        cameras[image_id] = camera_id
        if camera_id not in sizes:
            tally.add("error", "image", "the image's camera does not exist", f"{name}, camera {camera_id}")
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute():
            tally.add("warning", "image", "names must be relative to the folder of images", name)
        elif "\\" in name:
            tally.add("warning", "image", "names hold a backslash; COLMAP separates folders by /", name)
        elif any(letter.isspace() for letter in name):
            text = "names hold spaces, on which COLMAP's lists of pairs silently fail; match without a list"
            tally.add("note", "image", text, name)
    if not columns(connection, "frame_data") or not columns(connection, "frames"):
        return photos
    query = "SELECT data_id, sensor_id FROM frame_data JOIN frames USING (frame_id) WHERE sensor_type = 0"
    sensors = dict(connection.execute(query))
    if sensors or connection.execute("SELECT count(*) FROM frames").fetchone()[0]:
        for image_id, photo in photos.items():
            if image_id not in sensors:
                text = "the image has no frame though others have, so that mappers fail; add a frame to each"
                tally.add("error", "image", text, photo.name)
            elif sensors[image_id] != cameras[image_id]:
                text = "the image's frame is of another camera; write its own in frame_data.sensor_id"
                tally.add("error", "image", text, photo.name)
    return photos


def _check_file(folder: Path, photo: Photo, tally: Tally) -> None:
    file = folder / photo.name
    if not os.path.isfile(file):
        tally.add("warning", "image", f"no such file in {folder}", photo.name)
        return
    try:
        size = raw_size(file)
    except ImageError:
        tally.add("warning", "image", "the file is not a readable image", photo.name)
        return
    if photo.size is None or size == photo.size:
        return
    text = "the file has another size than its camera; give original images, or scale camera and keypoints"
    if size == photo.size[::-1]:
        text = "width and height are exchanged: COLMAP does not rotate by EXIF; extract without rotation"
    case = f"{photo.name}, camera {photo.size[0]} x {photo.size[1]}, file {size[0]} x {size[1]}"
    tally.add("error", "image", text, case)


def _check_graph(
    photos: dict[int, Photo], numbers: dict[int, int], matched: _Edges, verified: _Edges, tally: Tally
) -> None:
    paired = {image_id for edge in (*matched, *verified) for image_id in edge.image_ids}
    for image_id, photo in photos.items():
        if not numbers.get(image_id):
            tally.add("warning", "image", "no keypoints; extract features", photo.name)
        elif image_id not in paired:
            tally.add("note", "image", "no match with any other image; it cannot be placed", photo.name)
    used = [edge for edge in verified if edge.used]
    if not photos:
        tally.add("warning", "", "there are no images; import them first")
    elif not matched and not verified:
        tally.add("warning", "", "there are no matches; match the images before mapping")
    elif not verified:
        text = "there are no verified pairs, and mappers use only these ('No images with matches found')"
        tally.add("warning", "", text + "; run pycolmap.geometric_verification")
    elif not used:
        text = "no verified pair has 15 inliers and a configuration that mappers use; there will be no model"
        tally.add("warning", "", text)
    ids, places = np.unique([edge.image_ids for edge in used or matched], return_inverse=True)
    labels = components(len(ids), [places.reshape(-1, 2)]).tolist()
    sizes = sorted(Counter(labels).values(), reverse=True)
    if len(sizes) > 1:
        shown = ", ".join(map(str, sizes[:10])) + (", ..." if len(sizes) > 10 else "")
        text = f"the images fall into {len(sizes)} groups that no pair joins (of {shown} images)"
        tally.add("note", "", text + ", and into as many models at least; match more pairs between them")
