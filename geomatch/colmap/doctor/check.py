"""Examining a COLMAP database (3.6 and later) for known mistakes, whoever wrote it, without changing it."""

import os
import sqlite3
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from geomatch.collection.components import components
from geomatch.colmap.conventions import CONFIGURATIONS
from geomatch.colmap.doctor.rows import (
    Edge,
    Photo,
    Severity,
    Tell,
    check_descriptors,
    check_keypoints,
    check_pairs,
)
from geomatch.colmap.sqlite import columns, opened
from geomatch.errors import GeomatchError, ImageError
from geomatch.images import raw_size

_CAMERA_PARAMS = (3, 4, 4, 5, 8, 8, 12, 5, 4, 5, 12, 16, 4, 5, 3, 4, 6, 2)
"""Number of parameters of each camera model, by COLMAP's number."""
_TWO_FOCAL_LENGTHS = {1, 4, 5, 6, 7, 10, 11, 13, 15, 16}
_EQUIRECTANGULAR = 17
_Sizes = dict[int, tuple[int, int] | None]
"""(width, height) of every camera's images; None when it makes no sense."""
_Problem = tuple[Severity, str, str]
"""Severity, subject and text."""
_SHOWN = 3
"""Cases of a problem that are named."""
_MIN_INLIERS = 15
"""Fewest inliers of a pair that COLMAP's mappers use, by default."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of mistake, or something worth knowing."""

    severity: Severity
    """An error makes COLMAP fail or compute nonsense; a note may be intended."""
    message: str
    """One line: how often, the first cases, what is wrong, what to do."""


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
    """Examine a database, and file sizes in the folder ``images``; GeomatchError if it cannot be read."""
    if images is not None and not images.is_dir():
        raise GeomatchError(f"{images}: no such folder of images")
    number, first = Counter[_Problem](), defaultdict[_Problem, list[str]](list)

    def tell(subject: str, severity: Severity, text: str, case: str = "") -> None:
        problem = severity, subject, text
        number[problem] += 1
        if number[problem] <= _SHOWN:
            first[problem].append(case)

    configs: dict[int, int] = {}
    with opened(path) as connection:
        connection.execute("BEGIN")  # one state of the file throughout
        sizes = _check_cameras(connection, tell)
        photos = _check_images(connection, sizes, tell)
        if images is not None:
            for photo in photos.values():
                _check_file(images, photo, tell)
        numbers = check_keypoints(connection, photos, tell)
        descriptors = check_descriptors(connection, photos, numbers, tell)
        matched = check_pairs(connection, "matches", photos, numbers, tell)
        verified = check_pairs(connection, "two_view_geometries", photos, numbers, tell)
        if columns(connection, "two_view_geometries"):
            query = "SELECT config, count(*) FROM two_view_geometries GROUP BY config"
            configs = dict(connection.execute(query))
    _check_graph(photos, numbers, matched, verified, tell)
    counts = {
        "cameras": len(sizes), "images": len(photos), "keypoints": sum(numbers.values()),
        "descriptors": descriptors, "pairs with matches": len(matched),
        "matches": sum(edge.matches for edge in matched), "verified pairs": len(verified),
        "inlier matches": sum(edge.matches for edge in verified),
        **{f"pairs {name}": configs[n] for n, name in enumerate(CONFIGURATIONS) if n in configs},
    }  # fmt: skip
    findings = [_finding(*problem, count, first[problem]) for problem, count in number.items()]
    severities = ["error", "warning", "note"]
    return CheckReport(counts, tuple(sorted(findings, key=lambda one: severities.index(one.severity))))


def _finding(severity: Severity, subject: str, text: str, count: int, first: list[str]) -> Finding:
    if not subject:
        return Finding(severity, text)
    noun, *where = subject.split()
    what = " ".join([noun if count == 1 else noun + "s", *where])
    named = "; ".join([*first, "..."] if count > len(first) else first)
    named = "".join(letter if letter.isprintable() else "?" for letter in named)
    return Finding(severity, f"{count} {what} ({named}): {text}")


def format_report(report: CheckReport) -> str:
    """The report for a terminal: what is there, then one line per finding."""
    lines = [", ".join(f"{number} {what}" for what, number in report.counts.items())]
    lines += [f"{finding.severity:<7} {finding.message}" for finding in report.findings]
    return "\n".join(lines if report.findings else [*lines, "nothing known to be wrong"])


def _check_cameras(connection: sqlite3.Connection, tell: Tell) -> _Sizes:
    sizes, add = _Sizes(), partial(tell, "camera")
    for camera_id, model, width, height, data, prior in connection.execute(
        "SELECT camera_id, model, width, height, params, prior_focal_length FROM cameras"
    ):
        name, got = f"camera {camera_id}", len(data) if isinstance(data, bytes) else 0
        sizes[camera_id] = None
        if not (isinstance(width, int) and isinstance(height, int) and min(width, height) > 0):
            add("error", "width and height must be positive", f"{name}, {width} x {height}")
            continue
        sizes[camera_id] = width, height
        if model not in range(len(_CAMERA_PARAMS)):
            add("warning", "the camera model is not known here", f"{name}, {model}")
        elif got != 8 * _CAMERA_PARAMS[model]:
            case = f"{name}, {got} bytes for {_CAMERA_PARAMS[model]} numbers"
            add("error", "parameters have another length than the camera model's; write float64", case)
        elif model != _EQUIRECTANGULAR:
            params, focals = np.frombuffer(data, "<f8"), 2 if model in _TWO_FOCAL_LENGTHS else 1
            focal, centre = params[:focals], params[focals : focals + 2]
            if not prior:
                add("note", "the focal length is a guess (prior_focal_length 0); give it if known", name)
            if not np.isfinite(params).all():
                add("error", "parameters are NaN or infinite", name)
                continue
            if (focal <= 0).any() or (focal > 10 * max(width, height)).any():
                add("warning", "the focal length is absurd; it is in pixels", f"{name}, {focal[0]:g}")
            if (centre < 0).any() or (centre > (width, height)).any():
                text = "the principal point lies outside the image; look at the model's order of parameters"
                add("warning", text, f"{name}, {centre[0]:g} {centre[1]:g}")
    return sizes


def _check_images(connection: sqlite3.Connection, sizes: _Sizes, tell: Tell) -> dict[int, Photo]:
    rows = connection.execute("SELECT image_id, CAST(name AS TEXT), camera_id FROM images").fetchall()
    add, sensors = partial(tell, "image"), dict[int, int]()
    known = columns(connection, "frames") and columns(connection, "frame_data")
    if known and connection.execute("SELECT 1 FROM frames LIMIT 1").fetchone():
        query = "SELECT data_id, sensor_id FROM frame_data JOIN frames USING (frame_id) WHERE sensor_type = 0"
        sensors = dict.fromkeys((image_id for image_id, *_ in rows), -1) | dict(connection.execute(query))
    for image_id, name, camera_id in rows:
        if camera_id not in sizes:
            add("error", "the image's camera does not exist", f"{name}, camera {camera_id}")
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute():
            add("warning", "names must be relative to the folder of images", name)
        elif "\\" in name:
            add("warning", "names hold a backslash; COLMAP separates folders by /", name)
        elif any(letter.isspace() for letter in name):
            add("note", "names hold spaces, on which COLMAP's lists of pairs silently fail; use none", name)
        if (sensor := sensors.get(image_id, camera_id)) == -1:
            add("error", "the image has no frame though others have: mappers fail; add a frame to each", name)
        elif sensor != camera_id:
            add("error", "its frame is of another camera; write its own in frame_data.sensor_id", name)
    return {image_id: Photo(name, sizes.get(camera_id)) for image_id, name, camera_id in rows}


def _check_file(folder: Path, photo: Photo, tell: Tell) -> None:
    file = folder / photo.name
    try:
        size = raw_size(file)
    except ImageError:
        text = "the file is not a readable image" if os.path.isfile(file) else f"no such file in {folder}"
        tell("image", "warning", text, photo.name)
        return
    if photo.size is None or size == photo.size:
        return
    text = "the file has another size than its camera; give original images, or scale camera and keypoints"
    if size == photo.size[::-1]:
        text = "width and height are exchanged: COLMAP does not rotate by EXIF; extract without rotation"
    case = f"{photo.name}, camera {photo.size[0]} x {photo.size[1]}, file {size[0]} x {size[1]}"
    tell("image", "error", text, case)


def _check_graph(
    photos: dict[int, Photo], numbers: dict[int, int], matched: list[Edge], verified: list[Edge], tell: Tell
) -> None:
    paired = {image_id for edge in (*matched, *verified) for image_id in edge.image_ids}
    add, kinds = partial(tell, ""), {edge.config for edge in verified}
    for image_id, photo in photos.items():
        if not numbers.get(image_id):
            tell("image", "warning", "no keypoints; extract features", photo.name)
        elif image_id not in paired:
            tell("image", "note", "no match with any other image; it cannot be placed", photo.name)
    used = [edge for edge in verified if edge.config > 1 and edge.matches >= _MIN_INLIERS]
    if not photos:
        add("warning", "there are no images; import them first")
    elif not matched and not verified:
        add("warning", "there are no matches; match the images before mapping")
    elif not verified:
        text = "there are no verified pairs, and mappers use only these ('No images with matches found')"
        add("warning", text + "; run pycolmap.geometric_verification")
    elif not used:
        add("warning", "no verified pair has 15 inliers and a configuration in use; there will be no model")
    if kinds == {2} and all(edge.blank for edge in verified):
        text = "all verified pairs are CALIBRATED, their F, E and H identity or zero: nothing was verified"
        add("warning", text + "; empty two_view_geometries and run geometric verification")
    if kinds and kinds <= {4, 5, 6}:
        text = "all verified pairs are planar or panoramic, which global mapping does not use"
        add("note", text + "; use incremental mapping, or photographs from different places")
    ids, places = np.unique([edge.image_ids for edge in used or matched], return_inverse=True)
    labels = components(len(ids), [places.reshape(-1, 2)]).tolist()
    sizes = [str(size) for _, size in Counter(labels).most_common()]
    if len(sizes) > 1:
        shown = ", ".join(sizes[:10] + ["..."] * (len(sizes) > 10))
        text = f"the images fall into {len(sizes)} groups that no pair joins (of {shown} images)"
        add("note", text + ", and into as many models at least; match more pairs between them")
