"""Many images through a large model: a made set as large as HPatches, and the features of a collection."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from geomatch import DIFTExtractor
from geomatch.benchmarks.harness.run import run_benchmark
from geomatch.benchmarks.harness.task import Settings
from geomatch.benchmarks.studies.engines import extract_timed, make_photographs
from geomatch.benchmarks.studies.record import Row, seconds_of, timing_row
from geomatch.benchmarks.tasks.homography.data import make_synthetic
from geomatch.collection import find_images
from geomatch.engine import LocalEngine, RunContext, Work
from geomatch.keypoints import MixedDetector
from geomatch.store import Store

SIZE = (800, 640)
SEQUENCES, PAIRS = 2, 5
"""Made of each photograph, and pairs of each."""
KEYPOINTS = 1000


def made_set_rows(describer: DIFTExtractor, photographs: int) -> list[Row]:
    """From files to numbers: 58 photographs give as many pairs as HPatches has."""
    device = describer.config.device
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = make_photographs(folder / "photographs", photographs, SIZE)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda photo: make_synthetic([photo], folder / "data"), photos))
        methods = {"full-size": (MixedDetector(max_keypoints=KEYPOINTS, device=device), describer)}
        context = RunContext(engine=LocalEngine(1), device=device, progress=False)

        def run() -> None:
            data, out = folder / "data", folder / "runs"
            run_benchmark("hpatches", data, "geomatch", methods, out, context, Settings(KEYPOINTS))

        spent = seconds_of(run)
    pairs = photographs * SEQUENCES * PAIRS
    return [timing_row(f"benchmark of {pairs} made pairs, end to end", spent, "s")]


def feature_rows(describer: DIFTExtractor, images: int, alone: float, warm: int) -> list[Row]:
    """The feature stage of a collection beside ``alone``, images per second of the network alone."""
    parts = MixedDetector(max_keypoints=KEYPOINTS, device=describer.config.device), describer
    with tempfile.TemporaryDirectory() as name:
        make_photographs(Path(name) / "images", images, SIZE)
        found, store = find_images(Path(name) / "images"), Store.at(Path(name) / "store")
        work = Work(LocalEngine(1), progress=False)
        spent, _ = extract_timed(found, parts, store, work, warm)
    row = timing_row(f"features of {images} photographs", images / spent, "images/s", "network alone", alone)
    rows = [row | {"ratio": round(images / spent / alone, 3)}]
    if told := work.stages.get("features"):  # where the stages overlap
        busy = timing_row("of this time the network is busy", 100 * told["busy"], "%")
        rows.append(busy | {"slowest": told["slowest"], "seconds": told["seconds"]})
    return rows
