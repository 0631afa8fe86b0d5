"""Reconstructions of photographs beside those with pycolmap's own SIFT, with equally many keypoints.

``python -m geomatch.benchmarks.studies.reconstruction FOLDER...`` maps every folder of images with each
method, all pairs, COLMAP's verification and incremental mapper, and writes one record.
"""

import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geomatch.benchmarks.methods import create_method
from geomatch.benchmarks.methods.feature_files import FeatureFiles
from geomatch.benchmarks.studies.record import Row, markdown, study_parser, write_record
from geomatch.cameras import pycolmap
from geomatch.collection import Extraction, find_images
from geomatch.colmap.mapping import Mapping, map_database, summarise_model
from geomatch.colmap.reconstruct import reconstruct
from geomatch.errors import WeightsError, first_line

COLMAP_SIFT = "pycolmap sift"
METHODS = ("sift-large+dift-tiny", "superpoint+dift-tiny", "aliked+dift-tiny", COLMAP_SIFT)


def measure(folder: Path, method: str, max_keypoints: int, seeds: Sequence[int]) -> list[Row]:
    """One row per seed; a method without weights has the reason in its row."""
    rows: list[Row] = []
    label = "/".join(folder.resolve().parts[-2:])
    with tempfile.TemporaryDirectory() as name:
        for seed in seeds:  # our features and matches are made for the first seed only
            # without paths of this machine
            row: Row = {"name": label, "seed": seed, "method": re.sub(r":[^+]*", "", method)}
            start, out = time.perf_counter(), Path(name)
            try:
                if method == COLMAP_SIFT:
                    row |= _colmap_sift(folder, out / f"{seed}", max_keypoints, seed)
                else:
                    row |= _geomatch(folder, out, method, max_keypoints, seed)
            except WeightsError as error:
                print(f"{method} is skipped: {first_line(error)}")
                return [*rows, row | {"skipped": "its weights are missing"}]
            rows.append(row | {"seconds": round(time.perf_counter() - start, 1)})
            print(rows[-1], flush=True)
    return rows


def _geomatch(folder: Path, out: Path, method: str, max_keypoints: int, seed: int) -> Row:
    parts = create_method(method, max_keypoints)
    source = None if isinstance(parts.source, FeatureFiles) else parts.source
    if not source or not parts.descriptor or parts.estimator:
        raise ValueError(f"{method}: give DETECTOR+DESCRIPTOR, or {COLMAP_SIFT!r}")
    extraction = Extraction(source, parts.descriptor)
    found = reconstruct(folder, out, extraction=extraction, mapping=Mapping(seed=seed))
    row = _row(found.models, found.num_images)
    return row | {"pairs": found.export.pairs, "verified": found.export.verified}


def _colmap_sift(folder: Path, out: Path, max_keypoints: int, seed: int) -> Row:
    library = pycolmap()
    library.set_random_seed(seed)
    out.mkdir()
    database = out / "database.db"
    options = library.FeatureExtractionOptions()
    options.sift.max_num_features = max_keypoints
    names = list(find_images(folder).names)
    library.extract_features(str(database), str(folder), image_names=names, extraction_options=options)
    geometry = library.TwoViewGeometryOptions()
    geometry.ransac.random_seed = seed
    library.match_exhaustive(str(database), verification_options=geometry)
    models = map_database(database, folder, out / "sparse", "incremental", seed)
    return _row([summarise_model(model) for model in models], len(names))


def _row(models: Sequence[Any], images: int) -> Row:
    best = models[0] if models else None
    return {
        "images": images,
        "registered": best.registered if best else 0,
        "points": best.points if best else 0,
        "mean_track_length": round(best.mean_track_length, 3) if best else None,
        "mean_reprojection_error": round(best.mean_reprojection_error, 4) if best else None,
        "models": [model.registered for model in models],
    }


def table(rows: Sequence[Row]) -> str:
    """One line per folder and method, with the figures of all seeds, in Markdown."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if "skipped" not in row:
            groups.setdefault(f"{row['name']}: {row['method']}", []).append(row)
    titles = {"registered": "images", "points": "points", "mean_track_length": "track length",
              "mean_reprojection_error": "error, px"}  # fmt: skip
    lines = []
    for name, own in groups.items():
        cells = [", ".join(str(row[what]) for row in own) for what in titles]
        lines.append([name, *cells, f"{own[0]['seconds']:.0f} s"])
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
