"""Reconstructions of photographs beside those with pycolmap's own SIFT, with equally many keypoints.

``python -m geomatch.benchmarks.studies.reconstruction FOLDER...`` maps every folder of images with each
method, all pairs, COLMAP's verification and incremental mapper, and writes one record.
"""

import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from geomatch.benchmarks.methods import create_method
from geomatch.benchmarks.methods.feature_files import FeatureFiles
from geomatch.benchmarks.studies.record import Row, markdown, study_parser, write_record
from geomatch.cameras import pycolmap
from geomatch.collection import Extraction, find_images
from geomatch.colmap.mapping import Mapping, ModelSummary, map_database, summarise_model
from geomatch.colmap.reconstruct import reconstruct

COLMAP_SIFT = "pycolmap sift"
METHODS = ("sift-large+dift-tiny", COLMAP_SIFT)


def measure(folder: Path, method: str, max_keypoints: int, seeds: Sequence[int]) -> list[Row]:
    """One row per seed: the largest model, and the images of all."""
    rows: list[Row] = []
    label = "/".join(folder.resolve().parts[-2:])
    shown = re.sub(r":[^+]*", "", method)  # without paths of this machine
    mapped = _colmap_sift if method == COLMAP_SIFT else partial(_geomatch, method)
    with tempfile.TemporaryDirectory() as name:
        for seed in seeds:  # our features and matches are made for the first seed only
            start = time.perf_counter()
            images, models = mapped(folder, Path(name), max_keypoints, seed)
            best = models[0] if models else ModelSummary(0, 0, 0, 0.0, 0.0)
            row: Row = {"name": label, "seed": seed, "method": shown, "images": images, **asdict(best)}
            row |= {"models": [model.registered for model in models]}
            rows.append(row | {"seconds": round(time.perf_counter() - start, 1)})
            print(rows[-1], flush=True)
    return rows


def _geomatch(
    method: str, folder: Path, out: Path, max_keypoints: int, seed: int
) -> tuple[int, Sequence[ModelSummary]]:
    parts = create_method(method, max_keypoints)
    source = None if isinstance(parts.source, FeatureFiles) else parts.source
    if not source or not parts.descriptor or parts.estimator:
        raise ValueError(f"{method}: give DETECTOR+DESCRIPTOR, or {COLMAP_SIFT!r}")
    extraction = Extraction(source, parts.descriptor)
    found = reconstruct(folder, out, extraction=extraction, mapping=Mapping(seed=seed))
    return found.num_images, found.models


def _colmap_sift(
    folder: Path, out: Path, max_keypoints: int, seed: int
) -> tuple[int, Sequence[ModelSummary]]:
    library = pycolmap()
    library.set_random_seed(seed)
    database = out / f"{seed}.db"
    options = library.FeatureExtractionOptions()
    options.sift.max_num_features = max_keypoints
    names = list(find_images(folder).names)
    library.extract_features(str(database), str(folder), image_names=names, extraction_options=options)
    geometry = library.TwoViewGeometryOptions()
    geometry.ransac.random_seed = seed
    library.match_exhaustive(str(database), verification_options=geometry)
    models = map_database(database, folder, out / f"{seed}", "incremental", seed)
    return len(names), [summarise_model(model) for model in models]


def table(rows: Sequence[Row]) -> str:
    """One line per folder and method, with the figures of all seeds, in Markdown."""
    titles = {"registered": "images", "points": "points", "mean_track_length": "track length",
              "mean_reprojection_error": "error, px"}  # fmt: skip
    lines = []
    for name, method in dict.fromkeys((row["name"], row["method"]) for row in rows):
        own = [row for row in rows if (row["name"], row["method"]) == (name, method)]
        cells = [", ".join(str(round(row[what], 3)) for row in own) for what in titles]
        lines.append([f"{name}: {method}", *cells, f"{own[0]['seconds']:.0f} s"])
    return markdown(["", *titles.values(), "time, first seed"], lines)


if __name__ == "__main__":
    parser = study_parser("reconstruction", __doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of photographs")
    parser.add_argument(
        "--methods", nargs="+", default=METHODS, help=f"DETECTOR[:WEIGHTS]+DESCRIPTOR, or {COLMAP_SIFT!r}"
    )
    parser.add_argument("--max-keypoints", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    found: list[Row] = []
    for place in given.folders:
        for one in given.methods:
            found += measure(place, one, given.max_keypoints, given.seeds)
    settings = {"max_keypoints": given.max_keypoints, "seeds": given.seeds}
    write_record(given.out, "reconstruction", found, settings, [table(found)])
