"""Images warped onto a reference, or a reference onto them; what is done already is not done again."""

import csv
import io
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from geomatch.errors import GeomatchError, first_line
from geomatch.files import digest_of, fill_page, make_folder, write_whole
from geomatch.images import IMAGE_SUFFIXES, NO_MASKS, READING, ImageFile, Masks, Reading
from geomatch.pipeline import Pipeline
from geomatch.registration.pair_list import match_list
from geomatch.registration.pictures import OUTPUT, PICTURES, PREVIEWS, Output, Pair, Target, write_warped
from geomatch.types import HomographyEstimate

TABLE, RECORD, MATCHES, PAGE = "registrations.csv", "registrations.json", "matches.jsonl", "index.html"
"""Names of what is written."""
_SHARE = 20  # times as long as it takes is waited until the tables are written again


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
    """Those of the model, such as ``scale`` and ``rotation`` in degrees (`HomographyEstimate.parameters`)."""
    parameter_deviations: dict[str, float] | None = None
    """Their standard deviations."""
    matches: int = 0
    inliers: int = 0
    corner_deviation: float | None = None
    """Largest standard deviation of a corner of the reference in pixels of the image."""
    score: float | None = 0.0
    """Probability that it is right, see `HomographyEstimate.score`; None when unknown."""
    remarks: tuple[str, ...] = ()
    file: str | None = None
    """The warped picture, below the folder of results."""
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
    output: Output = OUTPUT,
) -> list[Registration]:
    """Warp images onto a reference, at full size and depth.

    Args:
        reference: the file of the reference.
        images: files, or folders of them; the reference among them is left out.
        out: folder for results: the pictures, with opacity as their last band, in ``warped``,
            ``registrations.csv`` and ``.json``, ``matches.jsonl``, and pages to look at.
        pipeline: how images are matched, and the model.
        reading: how files become images. Masks are named by the paths below the folder that all files share.
        output: what is written.

    Returns:
        One value per image, in order; what an earlier call with the same files and options wrote is kept.

    Raises ImageError when the reference cannot be read, OSError when results cannot be written, ValueError
    for options that make no sense.
    """
    if Path(reference).is_dir():
        raise GeomatchError(f"{reference} is a folder; give the file of the reference first")
    images = [images] if isinstance(images, str | PathLike) else images
    folder, (first, *others) = named_files([reference, *images], Path(out), reading.masks)
    if not others:
        raise GeomatchError("no images to register: give files, or a folder that has images")
    ImageFile(folder / first).pixels()  # raises
    pairs = [(first, other) for other in others]
    return register_pairs(pairs, folder, out, pipeline, reading, output)


def register_pairs(
    pairs: Sequence[Pair],
    folder: str | PathLike[str],
    out: str | PathLike[str],
    pipeline: Pipeline | None = None,
    reading: Reading = READING,
    output: Output = OUTPUT,
) -> list[Registration]:
    """`register` for pairs of reference and image, named by their paths below ``folder``."""
    pipeline, out = pipeline or Pipeline(), Path(out)
    pipeline.check_plane()
    make_folder(out)
    target = Target(Path(folder), out, names_of(pairs), reading, output)
    lines = match_list(pairs, target.folder, pipeline, reading, out / MATCHES)
    return write_registrations(lines, target)


def write_registrations(lines: Iterable[dict[str, Any]], target: Target) -> list[Registration]:
    """Warp the image of each line that `match_list` gives, and write the tables and the page."""
    out, output = target.out, target.output
    earlier = _earlier(out / RECORD)
    done: list[Registration] = []
    due = 0.0
    try:
        for line in lines:
            key = digest_of([line["key"], asdict(output), target.canvas])
            known = earlier.get(key)
            if known is None or known.file is None or not (out / known.file).is_file():
                name = f"{PICTURES}/{target.names[line['image0'], line['image1']]}"
                for own, one in list(earlier.items()):  # a picture that is replaced, or wrong by now
                    if os.path.splitext(one.file or "")[0] == name:
                        del earlier[own]
                        _write_tables(out, done, earlier)  # first, since the run may end in between
                        (out / str(one.file)).unlink(missing_ok=True)
                known = _registered(line, key, target)
            done.append(known)
            if (begun := time.monotonic()) >= due:  # tables of thousands of images take their time
                _write_tables(out, done, earlier)
                due = begun + _SHARE * (time.monotonic() - begun)
    finally:
        if done:
            _write_tables(out, done, earlier)
        if output.pages and done:
            shown = {
                "rows": [asdict(one) for one in done],
                "frame": "image" if output.inverse else "reference",
            }
            fill_page(out / PAGE, "geomatch.registration", PAGE, shown)
    _write_tables(out, done, {})
    return done


def named_files(
    given: Sequence[str | PathLike[str]], out: Path, masks: Masks = NO_MASKS
) -> tuple[Path, list[str]]:
    """The folder that all files share, and their paths below it, without masks, hidden and earlier files."""
    made = (out / PICTURES, out / PREVIEWS, masks.folder)
    left_out = {Path(os.path.abspath(place)) for place in made if place}
    found: dict[Path, None] = {}
    for place in (Path(os.path.abspath(one)) for one in given):
        if not place.is_dir():
            found[place] = None
            continue
        for path in sorted(path for path in place.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES):
            hidden = any(part.startswith(".") for part in path.relative_to(place).parts)
            if not hidden and left_out.isdisjoint(path.parents):
                found[path] = None
    unique = {path.resolve(): path for path in reversed(found)}
    files = [path for path in found if unique[path.resolve()] is path]
    if not files:
        raise GeomatchError(
            f"no images in {', '.join(map(str, given))}: give files, or a folder that has images"
        )
    folder = Path(os.path.commonpath([path.parent for path in files]))
    return folder, [path.relative_to(folder).as_posix() for path in files]


def names_of(pairs: Sequence[Pair]) -> dict[Pair, str]:
    """What the results of each pair are called: as its image, with the reference's name if there are several.

    The suffix stays where names would be one without. All differ, are UTF-8, and lie below the results.
    """
    several, named = len({first for first, _ in pairs}) > 1, {}
    for pair in pairs:
        name = "--".join(name.replace("/", "-") for name in pair) if several else pair[1]
        parts = name.encode(errors="replace").decode().split("/")
        named[pair] = "/".join(part for part in parts if part not in ("", ".", ".."))
    counts, taken = Counter(os.path.splitext(name)[0] for name in named.values()), set()
    for pair, name in named.items():
        short = os.path.splitext(name)[0]
        name = name if counts[short] > 1 else short
        while name in taken:
            name += "+"
        taken.add(name)
        named[pair] = name
    return named


def _registered(line: dict[str, Any], key: str, target: Target) -> Registration:
    pair, matches = (line["image0"], line["image1"]), line.get("num_matches", 0)
    if line["reason"] is not None:
        return Registration(*pair, line["reason"], matches=matches, key=key)
    given: dict[str, Any] = {name: line.get(name) for name in ("corner_deviations", "covariance", "score")}
    matrix, inliers = np.array(line["homography"]), np.array(line["inliers"], np.bool_)
    found = HomographyEstimate(matrix, inliers, model=line["model"], **given)
    try:
        file, offset = write_warped(target, pair, found.matrix)
    except GeomatchError as error:
        return Registration(*pair, first_line(error), matches=matches, key=key)
    worst = None if found.corner_deviations is None else float(found.corner_deviations.max())
    return Registration(
        *pair, None, found.model, found.matrix.tolist(), found.parameters, found.parameter_deviations,
        matches, line["num_inliers"], worst, found.score, tuple(line["remarks"]), file,
        offset, key,
    )  # fmt: skip


def _earlier(path: Path) -> dict[str, Registration]:
    """What an earlier run did, by key."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        rows = json.loads(path.read_text())
        tuples = [{name: tuple(row[name]) for name in ("remarks", "offset")} for row in rows]
        return {row["key"]: Registration(**row | own) for row, own in zip(rows, tuples, strict=True)}
    return {}


def _write_tables(out: Path, done: Sequence[Registration], others: dict[str, Registration]) -> None:
    rows = {one.key: one for one in (*done, *others.values())}
    write_whole(out / RECORD, json.dumps([asdict(one) for one in rows.values()], indent=1) + "\n")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    entries = [f"h{row}{column}" for row in range(3) for column in range(3)]
    writer.writerow(
        ["reference", "image", "file", "model", "matches", "inliers", "corner_deviation", "score",
         "offset_x", "offset_y", *entries, "parameters", "parameter_deviations", "remarks", "reason"]
    )  # fmt: skip
    for one in done:
        matrix = [""] * 9 if one.matrix is None else [f"{value:.12g}" for row in one.matrix for value in row]
        deviation = "" if one.corner_deviation is None else f"{one.corner_deviation:.4g}"
        score = "" if one.score is None else f"{one.score:.4f}"
        writer.writerow(
            [one.reference, one.image, one.file, one.model, one.matches, one.inliers, deviation,
             score, *one.offset, *matrix, _listed(one.parameters),
             _listed(one.parameter_deviations), "; ".join(one.remarks), one.reason]
        )  # fmt: skip
    write_whole(out / TABLE, table.getvalue().encode(errors="replace"))


def _listed(values: dict[str, float] | None) -> str:
    return " ".join(f"{name}={value:.9g}" for name, value in (values or {}).items())
