"""Sequences: each image registered to others before it, and all onto the first without drift."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from geomatch.errors import GeomatchError
from geomatch.files import digest_of, make_folder, natural_order
from geomatch.geometry import normalize_homography
from geomatch.images import READING, Reading
from geomatch.pipeline import Pipeline
from geomatch.rasters.warping import canvas_of, through
from geomatch.registration.pair_list import match_list
from geomatch.registration.pictures import OUTPUT, Output, Target
from geomatch.registration.register import (
    MATCHES,
    Registration,
    named_files,
    names_of,
    write_registrations,
)
from geomatch.registration.sequence import Adjustment, Link, adjust, closures, pairs_of
from geomatch.transforms import PLANES

_LEAST_SCORE = 0.5  # of a pair that links two images


def register_sequence(
    images: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    pipeline: Pipeline | None = None,
    reading: Reading = READING,
    output: Output = OUTPUT,
    progress: bool = True,
) -> list[Registration]:
    """Warp a stack, a time lapse or the parts of a mosaic onto their first image.

    Images, in natural order of their names, are matched with the one before, with some farther back, with the
    first, and with those on which they lie; one adjustment of all (`geomatch.registration.sequence.adjust`)
    keeps errors from adding up. Arguments, files and errors are those of `geomatch.register`; a union canvas
    has room for all images. Matches, inliers and score of an image are those of its best link.

    Raises `MissingDependencyError` without the extra ``register``.
    """
    images = [images] if isinstance(images, str | PathLike) else images
    folder, files = named_files(images, Path(out), reading.masks)
    names = natural_order(files)
    if len(names) < 2:
        raise GeomatchError("a sequence needs two images at least")
    pipeline, out = pipeline or Pipeline(), Path(out)
    pipeline.check_plane()
    if pipeline.smooth != "none":
        raise ValueError("images of a sequence are placed by planes, without a smooth warp")
    make_folder(out)
    tried = pairs_of(len(names))
    for more in (True, False):
        pairs = [(names[i], names[j]) for i, j in tried]
        lines = list(match_list(pairs, folder, pipeline, reading, out / MATCHES, progress, more))
        links = [
            _link(*pair, line)
            for pair, line in zip(tried, lines, strict=True)
            if line["reason"] is None and (line["score"] is None or line["score"] >= _LEAST_SCORE)
        ]
        models = {line["model"] for line in lines if line["reason"] is None}
        richest: Any = next((model for model in PLANES if model in models), PLANES[0])
        found = adjust(len(names), links, richest)
        read = [line for line in lines if "size0" in line]
        told = {line[f"image{side}"]: tuple(line[f"size{side}"]) for line in read for side in "01"}
        sizes = [told.get(name, (1, 1)) for name in names]  # a pixel where an image cannot be read
        if more:
            tried += closures(found.matrices, sizes, tried)[: len(names)]
    placed = [
        (size, through(matrix, sizes[0]))
        for size, matrix in zip(sizes, found.matrices, strict=True)
        if matrix is not None
    ]
    canvas = None if output.inverse else canvas_of(sizes[0], placed, output.canvas)
    called = names_of([(names[0], name) for name in names])
    target = Target(folder, out, called, reading, output, canvas)
    return write_registrations(_lines(names, richest, found, lines), target)


def _link(i: int, j: int, line: dict[str, Any]) -> Link:
    agree = np.array(line["inliers"], np.bool_)
    points = [np.array(line[name]).reshape(-1, 2)[agree] for name in ("points0", "points1")]
    return Link(i, j, np.array(line["homography"]), *points)


def _lines(
    names: Sequence[str], model: str, found: Adjustment, lines: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What `match_list` would say of the first image and each of the others, after the adjustment."""
    made = []
    everything = digest_of([line["key"] for line in lines])
    for name, matrix, reason in zip(names[1:], found.matrices[1:], found.reasons[1:], strict=True):
        own = [line for line in lines if name in (line["image0"], line["image1"])]
        best = max(own, key=lambda line: line.get("num_inliers", 0))
        why = [line["reason"] for line in own if line["reason"] is not None]
        line = {
            "image0": names[0], "image1": name, "key": digest_of([everything, name]), "model": model,
            "num_matches": best.get("num_matches", 0), "num_inliers": best.get("num_inliers", 0),
            "score": best.get("score"), "remarks": [], "inliers": [],
            "reason": None if matrix is not None else f"{reason} ({why[0]})" if why else reason,
        }  # fmt: skip
        if matrix is not None:
            line["homography"] = normalize_homography(np.linalg.inv(matrix))
        made.append(line)
    return made
