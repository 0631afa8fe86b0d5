"""What tests of tasks on pairs share: two views of a plane, a matcher that knows it, and a run."""

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
from correspondence_data import save, view

from geomatch.benchmarks.harness.run import RunResult, run_benchmark
from geomatch.benchmarks.harness.task import Settings
from geomatch.benchmarks.methods import Method
from geomatch.engine import LocalEngine, RunContext
from geomatch.geometry import warp_points
from geomatch.images import Image
from geomatch.types import Features

SCHEMA = files("geomatch.benchmarks.harness").joinpath("record.schema.json").read_text()
RECORD = jsonschema.Draft202012Validator(json.loads(SCHEMA))
SIZE = (200, 150)
TRUTH = np.array([[1.05, 0.04, -6.0], [-0.03, 0.97, 4.0], [1e-4, -5e-5, 1.0]])


@dataclass(frozen=True)
class Exact:
    """Matches a grid by the truth, wherever it leads into image 1; between images of any names."""

    truth: tuple[float, ...]
    empty: bool = False
    noise: float = 0.0

    def match_images(self, image0: Image, image1: Image) -> tuple[Features, Features]:
        matrix = np.reshape(self.truth, (3, 3))
        x, y = np.meshgrid(np.arange(2, image0.size[0], 7.0), np.arange(2, image0.size[1], 7.0))
        points0 = np.column_stack([x.ravel(), y.ravel()])
        points1 = warp_points(matrix, points0)
        inside = (points1 >= 0).all(1) & (points1 <= np.array(image1.size) - 1).all(1)
        inside &= points0 @ matrix[2, :2] + matrix[2, 2] > 0
        if self.empty:
            inside[:] = False
        scores = np.ones(inside.sum(), np.float32)
        points1 = points1 + np.random.default_rng(0).normal(0, self.noise, points1.shape)
        return Features(points0[inside], scores, image0.size), Features(points1[inside], scores, image1.size)


def exact(matrix: np.ndarray, **changes: Any) -> Method:
    return Method("exact", pair_matcher=Exact(tuple(matrix.ravel().tolist()), **changes))


def run(task: str, data: Path, protocols: Any, methods: dict[str, Any], **settings: Any) -> RunResult:
    context = RunContext(engine=LocalEngine(1), device="cpu", progress=False)
    result = run_benchmark(
        task, data, protocols, methods, data.parent / "out", context, Settings(500, **settings)
    )
    RECORD.validate(json.loads(result.path.read_text()))
    return result


def images(folder: Path, photo: np.ndarray, names: tuple[str, str], matrix: np.ndarray = TRUTH) -> None:
    small = cv2.resize(photo, SIZE, interpolation=cv2.INTER_AREA)
    save(folder / names[0], small)
    save(folder / names[1], view(small, matrix, SIZE))
