"""Runs on sequences in HPatches layout that are made of the bundled photograph."""

from pathlib import Path

from PIL import Image as PILImage

import geomatch
from geomatch.benchmarks.harness.run import Methods, RunResult, run_benchmark
from geomatch.benchmarks.harness.task import Settings
from geomatch.benchmarks.tasks.homography.data import make_synthetic
from geomatch.engine import LocalEngine, RunContext


def make_sequences(folder: Path, name: str, size: tuple[int, int], seed: int) -> Path:
    """The folder ``data`` with sequences ``i_NAME`` and ``v_NAME``, beside the photograph in that size."""
    with PILImage.open(geomatch.bundled_pair().image0) as picture:
        picture.resize(size).save(folder / f"{name}.png")
    make_synthetic([folder / f"{name}.png"], folder / "data", seed)
    return folder / "data"


def run(
    data: Path, out: Path, names: str = "mma,geomatch", methods: Methods = ("orb",),
    engine: LocalEngine | None = None, keypoints: int = 250,
) -> RunResult:  # fmt: skip
    """A run in this process, or on the engine."""
    context = RunContext(engine=engine or LocalEngine(1), device="cpu", progress=False)
    return run_benchmark("hpatches", data, names, methods, out, context, Settings(keypoints))
