"""Sequences: each image registered to others before it, and all onto the first without drift."""

from collections.abc import Sequence
from itertools import islice
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
from geomatch.registration.register import MATCHES, Registration, named_files, names_of, write_registrations
from geomatch.registration.sequence import Link, Matrix, adjust, closures, pairs_of
from geomatch.transforms import PLANES

_LEAST_SCORE = 0.5  # of a pair that links two images
_ROUNDS = 3  # neighbours, then jumps across gaps and among images that overlap, then among those found so
_REACH = 5  # images back from one that its neighbours do not place
_LONG = ("points0", "points1", "similarity", "inliers", "covariance")  # what links have, or nobody needs


def register_sequence(
    images: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    pipeline: Pipeline | None = None,
    reading: Reading = READING,
    output: Output = OUTPUT,
) -> list[Registration]:
    """Warp a stack, a time lapse or the parts of a mosaic onto their first image.

    Images, in natural order of their names, are matched with the one before, then with others on which they
    lie; one adjustment of all (`geomatch.registration.sequence.adjust`) keeps errors from adding up.
    Arguments, files and errors are those of `geomatch.register`; a union canvas has room for all images.
    Matches, inliers and score of an image are those of its best link. It needs the extra ``register``.
    """
    images = [images] if isinstance(images, str | PathLike) else images
    folder, files = named_files(images, Path(out), reading.masks)
    names = natural_order(files)
    if len(names) < 2:
        raise GeomatchError(f"a sequence needs two images at least, got {len(names)}")
    pipeline, out = pipeline or Pipeline(), Path(out)
    pipeline.check_plane()
    make_folder(out)
    count, told = len(names), (pipeline, reading, out / MATCHES)
    tried, sizes = [(i, i + 1) for i in range(count - 1)], {0: (1, 1)}  # a pixel where none can be read
    links, lines = list[Link](), list[dict[str, Any]]()
    for _ in range(_ROUNDS):
        known, pairs = len(lines), [(names[i], names[j]) for i, j in tried]
        made = islice(match_list(pairs, folder, *told, more=True), known, None)
        for pair, line in zip(tried[known:], made, strict=True):
            if line["reason"] is None and (line["score"] is None or line["score"] >= _LEAST_SCORE):
                agree = np.array(line["inliers"], np.bool_)
                points = [np.array(line[side]).reshape(-1, 2)[agree] for side in ("points0", "points1")]
                links.append(Link(*pair, np.array(line["homography"]), *points))
            sizes |= {own: tuple(line[f"size{side}"]) for side, own in enumerate(pair) if "size0" in line}
            lines.append({name: value for name, value in line.items() if name not in _LONG})
        models = {line["model"] for line in lines if line["reason"] is None}
        richest: Any = next((model for model in PLANES if model in models), PLANES[0])
        found = adjust(count, links, richest)
        tried += _further(found, [sizes.get(i, (1, 1)) for i in range(count)], tried)
        if len(tried) == len(lines):
            break
    for _ in match_list(pairs, folder, *told):  # the file has these alone
        pass
    placed = [(sizes[i], through(matrix, sizes[0])) for i, matrix in enumerate(found) if matrix is not None]
    canvas = None if output.inverse else canvas_of(sizes[0], placed, output.canvas)
    called = names_of([(names[0], name) for name in names])
    target = Target(folder, out, called, reading, output, canvas)
    return write_registrations(_lines(names, richest, found, lines), target)


def _further(
    found: Sequence[Matrix | None], sizes: Sequence[tuple[int, int]], tried: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Links to try next: jumps among images that overlap, about those that have no place, and across."""
    near, known = dict.fromkeys(closures(found, sizes, tried)), set(tried)
    lost = {i for i, matrix in enumerate(found) if matrix is None}
    jumps = [
        (i, j)
        for i, j in pairs_of(len(sizes))
        if (i, j) not in known and ((i, j) in near or (j - i <= _REACH and lost & {i, j}))
    ]
    others = near.keys() - jumps
    return jumps + [pair for pair in near if pair in others][: len(sizes)]


def _lines(
    names: Sequence[str], model: str, found: Sequence[Matrix | None], lines: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What `match_list` would say of the first image and each of the others, after the adjustment."""
    made = []
    everything = digest_of([line["key"] for line in lines])
    reason = "no link leads to it that agrees with the others"
    for name, matrix in zip(names[1:], found[1:], strict=True):
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
