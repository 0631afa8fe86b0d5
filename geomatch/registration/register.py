"""Images warped onto a reference, or a reference onto them; what is done already is not done again."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import GeomatchError, first_line
from geomatch.files import digest_of, make_folder, write_whole
from geomatch.images import IMAGE_SUFFIXES, READING, ImageFile, Reading
from geomatch.pipeline import Pipeline
from geomatch.rasters.maps import georeference_of, write_points, write_vrt
from geomatch.rasters.reading import open_raster
from geomatch.rasters.warping import Interpolation, Send, canvas_of, through, warp_blocks
from geomatch.rasters.writing import suffix_for, write_raster
from geomatch.registration.pages import write_index, write_previews
from geomatch.registration.pair_list import match_list
from geomatch.types import HomographyEstimate

Pair = tuple[str, str]
"""Names of the reference and of the image that is warped onto it."""
TABLE, RECORD, MATCHES, PICTURES = "registrations.csv", "registrations.json", "matches.jsonl", "warped"
"""Names of what is written."""
_STEP = 8  # pixels between two places where a smooth warp is evaluated
_ROUNDS = 20  # of the iteration that inverts a smooth warp


@dataclass(frozen=True, slots=True)
class Output:
    """What is written of a registration."""

    interpolation: Interpolation = "linear"
    canvas: Literal["reference", "union"] = "reference"
    """The reference's frame, or one that has room for the whole warped image, too."""
    inverse: bool = False
    """Warp the reference onto the image."""
    suffix: Literal["png", "tif"] | None = None
    """None takes PNG for 8 and 16 bits and one or three bands, TIFF for all else, and for maps."""
    pages: bool = True
    """Write index.html, where image and reference flicker, and checkerboards of both."""


@dataclass(frozen=True, eq=False, slots=True)
class Registration:
    """What became of one image; false, with a reason, when it was not registered."""

    reference: str
    image: str
    reason: str | None
    """Why there is nothing; None when there is."""
    model: str | None = None
    matrix: list[list[float]] | None = None
    """(3, 3), from pixels of the reference to pixels of the image."""
    parameters: dict[str, float] | None = None
    """Of the model, such as ``scale`` and ``rotation`` in degrees (`HomographyEstimate.parameters`)."""
    parameter_deviations: dict[str, float] | None = None
    """Their standard deviations."""
    smooth: str = ""
    """The smooth warp on top of it, which is in ``matches.jsonl``."""
    matches: int = 0
    inliers: int = 0
    corner_deviation: float | None = None
    """Largest standard deviation of a corner of the reference in pixels of the image."""
    score: float = 0.0
    """Probability that it is right, see `HomographyEstimate.score`."""
    remarks: tuple[str, ...] = ()
    file: str | None = None
    """The warped picture, below the folder of results."""
    preview: str | None = None
    """Where the pictures of the page lie below ``previews``, without their suffixes."""
    offset: tuple[int, int] = (0, 0)
    """Where the picture's first pixel lies in the frame onto which it is warped."""
    key: str = ""
    """Checksum of all that decides it."""

    def __bool__(self) -> bool:
        return self.reason is None


def register(
    reference: str | PathLike[str],
    images: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    pipeline: Pipeline | None = None,
    reading: Reading = READING,
    output: Output | None = None,
    progress: bool = True,
) -> list[Registration]:
    """Warp images onto a reference, at full size and depth.

    Args:
        reference: the file of the reference.
        images: files, or folders of them; the reference among them is left out.
        out: folder for results: the pictures, with opacity as their last band, in ``warped``,
            ``registrations.csv`` and ``.json``, ``matches.jsonl``, and pages to look at.
        pipeline: how images are matched, and the model.
        reading: how files become images. Masks are named by the images' paths below the folder that all share.
        output: what is written.
        progress: show bars.

    Returns:
        One value per image, in order; what an earlier call with the same files and options wrote is kept.

    Raises ImageError when the reference cannot be read, OSError when results cannot be written, ValueError for
    options that make no sense.
    """
    folder, (first, *others) = named_files([reference, *images], Path(out))
    if not others:
        raise GeomatchError("no images to register: give files, or a folder that has images")
    ImageFile(folder / first).pixels()  # raises
    pairs = [(first, other) for other in others]
    return register_pairs(pairs, folder, out, pipeline, reading, output, progress)


def register_pairs(
    pairs: Sequence[Pair],
    folder: str | PathLike[str],
    out: str | PathLike[str],
    pipeline: Pipeline | None = None,
    reading: Reading = READING,
    output: Output | None = None,
    progress: bool = True,
) -> list[Registration]:
    """`register` for pairs of reference and image, named by their paths below ``folder``."""
    folder, out, output = Path(folder), Path(out), output or Output()
    pipeline = pipeline or Pipeline()
    pipeline.check_plane()
    make_folder(out)
    lines = match_list(pairs, folder, pipeline, reading, out / MATCHES, progress)
    return write_registrations(lines, folder, out, reading, output, names_of(pairs))


def write_registrations(
    lines: Iterable[dict[str, Any]],
    folder: Path,
    out: Path,
    reading: Reading,
    output: Output,
    names: Mapping[Pair, str],
) -> list[Registration]:
    """Warp the image of each line that `match_list` gives; ``names`` are those of the files, without suffix."""
    earlier = _earlier(out / RECORD)
    done: list[Registration] = []
    try:
        for line in lines:
            key = digest_of([line["key"], asdict(output)])
            known = earlier.get(key)
            if known and (known.file is None or (out / known.file).is_file()):
                done.append(known)
            else:
                done.append(_registered(line, key, folder, out, reading, output, names))
                _write_tables(out, done, earlier)
    finally:
        if done:
            _write_tables(out, done, earlier)
    _write_tables(out, done, {})
    if output.pages:
        write_index(out, [asdict(one) for one in done])
    return done


def named_files(given: Sequence[str | PathLike[str]], out: Path) -> tuple[Path, list[str]]:
    """The folder that all files share, and their paths below it; folders give their images.

    Hidden files, results of an earlier run in ``out`` and files named twice are left out.
    """
    found: dict[Path, None] = {}
    for place in map(Path, given):
        if not place.is_dir():
            found[place.absolute()] = None
            continue
        below = sorted(path for path in place.absolute().rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        for path in below:
            hidden = any(part.startswith(".") for part in path.relative_to(place.absolute()).parts)
            if not hidden and out.absolute() not in path.parents:
                found[path] = None
    unique = {path.resolve(): path for path in reversed(found)}
    files = [path for path in found if unique[path.resolve()] is path]
    parents = [path.parent for path in files]
    folder = next(
        place for place in (parents[0], *parents[0].parents) if all(place in (p, *p.parents) for p in parents)
    )
    return folder, [path.relative_to(folder).as_posix() for path in files]


def names_of(pairs: Sequence[Pair]) -> dict[Pair, str]:
    """What the results of each pair are called: as its image, with the reference's name if there are several.

    The suffix stays where two names would be one without it.
    """
    several = len({first for first, _ in pairs}) > 1
    every = {
        pair: "--".join(name.replace("/", "-") for name in pair) if several else pair[1] for pair in pairs
    }
    short = {pair: str(Path(name).with_suffix("")) for pair, name in every.items()}
    counts = Counter(short.values())
    return {pair: name if counts[short[pair]] > 1 else short[pair] for pair, name in every.items()}


def estimate_of(line: dict[str, Any]) -> HomographyEstimate | None:
    """The estimate of a line that `match_list` gave."""
    if line["reason"] is not None:
        return None
    given = {name: line[name] for name in ("corner_deviations", "covariance", "score")}
    warp = {name: line.get(name) for name in ("control_points", "control_shifts")}
    return HomographyEstimate(
        np.array(line["homography"]), np.array(line["inliers"], np.bool_), model=line["model"],
        smooth=line.get("smooth") or "", **given, **warp,
    )  # fmt: skip


def _registered(
    line: dict[str, Any],
    key: str,
    folder: Path,
    out: Path,
    reading: Reading,
    output: Output,
    files: Mapping[Pair, str],
) -> Registration:
    names = line["image0"], line["image1"]
    found = estimate_of(line)
    if found is None:
        return Registration(*names, line["reason"], matches=line.get("num_matches", 0), key=key)
    name = files[names]
    try:
        file, offset = _warped(found, [folder / one for one in names], out, name, reading, output, line)
    except GeomatchError as error:
        return Registration(*names, first_line(error), key=key)
    worst = None if found.corner_deviations is None else float(found.corner_deviations.max())
    return Registration(
        *names, None, found.model, found.matrix.tolist(), found.parameters, found.parameter_deviations,
        found.smooth, line["num_matches"], line["num_inliers"], worst, found.score or 0.0,
        tuple(line["remarks"]), file.relative_to(out).as_posix(), name if output.pages else None, offset, key,
    )  # fmt: skip


def _warped(
    found: HomographyEstimate, paths: Sequence[Path], out: Path, name: str, reading: Reading, output: Output,
    line: dict[str, Any],
) -> tuple[Path, tuple[int, int]]:  # fmt: skip
    """Write the warped picture; its path, and where its first pixel lies."""
    opened = partial(open_raster, apply_exif=reading.apply_exif)
    with opened(paths[0]) as reference, opened(paths[1]) as image:
        there, back = sends(found, reference.size, image.size)
        frame, moved = (image, reference) if output.inverse else (reference, image)
        send, outline = (back, there) if output.inverse else (there, back)
        size, offset = canvas_of(frame.size, [(moved.size, outline)], output.canvas)
        place = georeference_of(frame)
        suffix = output.suffix and f".{output.suffix}"
        suffix = suffix or (".tif" if place else suffix_for(moved.dtype, moved.bands, size))
        target = out / PICTURES / f"{name}{suffix}"
        make_folder(target.parent)
        step = _STEP if found.smooth else 1
        blocks = warp_blocks(moved, send, size, output.interpolation, offset, step=step)
        shifted = place and place.shifted(offset)
        write_raster(target, blocks, size, moved.bands, moved.dtype, shifted if suffix == ".tif" else None)
        if place is not None:
            agree = np.array(line["inliers"], np.bool_)
            points = [np.array(line[own])[agree] for own in ("points0", "points1")]
            own, mapped = points[not output.inverse], place.to_map(points[output.inverse])
            write_points(target.with_suffix(".points"), moved, own, mapped, place.crs)
            write_vrt(target.with_suffix(".vrt"), moved, own, mapped, place.crs)
        if output.pages:
            with open_raster(target) as warped:
                write_previews(out, name, frame, warped, offset, send, moved)
    return target, offset


def sends(found: HomographyEstimate, size0: tuple[int, int], size1: tuple[int, int]) -> tuple[Send, Send]:
    """From pixels of image 0 to image 1, and back."""
    there, back = through(found.matrix, size1), through(np.linalg.inv(found.matrix), size0)
    if not found.smooth:
        return there, back

    def inverse(points: NDArray[np.float64]) -> NDArray[np.float64]:
        """By iteration: the smooth shift is small beside the plane's."""
        start = back(points)
        place = start
        for _ in range(_ROUNDS):
            shift = found.send(place) - there(place)
            place = back(points - shift)
        return place

    return found.send, inverse


def _earlier(path: Path) -> dict[str, Registration]:
    """What an earlier run did, by key."""
    known = [field.name for field in fields(Registration)]
    with suppress(OSError, ValueError, TypeError, KeyError):
        return {
            row["key"]: Registration(**{name: row[name] for name in known})
            for row in json.loads(path.read_text())
        }
    return {}


def _write_tables(out: Path, done: Sequence[Registration], others: dict[str, Registration]) -> None:
    rows = {one.key: one for one in (*done, *others.values())}
    write_whole(out / RECORD, json.dumps([asdict(one) for one in rows.values()], indent=1) + "\n")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    entries = [f"h{row}{column}" for row in range(3) for column in range(3)]
    writer.writerow(
        ["reference", "image", "file", "model", "smooth", "matches", "inliers", "corner_deviation", "score", "offset_x",
         "offset_y", *entries, "parameters", "parameter_deviations", "remarks", "reason"]
    )  # fmt: skip
    for one in done:
        matrix = [""] * 9 if one.matrix is None else [f"{value:.12g}" for row in one.matrix for value in row]
        deviation = "" if one.corner_deviation is None else f"{one.corner_deviation:.4g}"
        writer.writerow(
            [one.reference, one.image, one.file or "", one.model or "", one.smooth, one.matches, one.inliers, deviation,
             f"{one.score:.4f}", *one.offset, *matrix, _listed(one.parameters),
             _listed(one.parameter_deviations), "; ".join(one.remarks), one.reason or ""]
        )  # fmt: skip
    write_whole(out / TABLE, table.getvalue())


def _listed(values: dict[str, float] | None) -> str:
    return " ".join(f"{name}={value:.9g}" for name, value in (values or {}).items())
