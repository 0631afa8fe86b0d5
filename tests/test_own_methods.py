"""The user's own methods, objects and functions, and protocols in a run."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_sequences import make_sequences, run
from own_methods import Patches

import geomatch
from geomatch.benchmarks.harness.record import protocols_of
from geomatch.benchmarks.harness.run import run_benchmark
from geomatch.benchmarks.harness.task import Settings
from geomatch.benchmarks.methods import Method
from geomatch.benchmarks.methods.functions import FunctionMatcher
from geomatch.benchmarks.tasks.homography.protocols import PROTOCOLS
from geomatch.benchmarks.tasks.homography.sequences import read_hpatches
from geomatch.engine import LocalEngine, RunContext
from geomatch.images import Image
from geomatch.keypoints import OpenCVDetector


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sequences(tmp_path_factory.mktemp("original"), "hill", (280, 210), seed=3)


@dataclass(frozen=True)
class Wrapped:
    """A describer that can be neither pickled nor, without a key, cached."""

    describe: Any


def test_a_users_describer_has_a_key_of_its_own(data: Path, tmp_path: Path) -> None:
    detector = OpenCVDetector("sift", max_keypoints=250)
    mine = {"mine": (detector, Patches())}
    first = run(data, tmp_path / "out", "geomatch", mine)
    assert first.computed == 2
    rows = {(row["method"], row["split"]): row for row in first.summaries()}
    assert rows["mine", "illumination"]["accuracy@3"] > 50
    assert run(data, tmp_path / "out", "geomatch", mine).computed == 0
    # the same under another name, and as a method beside strings
    both = run(data, tmp_path / "out", "geomatch", ["orb", Method("same", detector, Patches())])
    assert (both.computed, list(both.record["methods"])) == (2, ["orb", "same"])
    assert both.record["methods"]["same"] == first.record["methods"]["mine"]
    alone = run(data, tmp_path / "out", "geomatch", {"alone": Patches()})  # at SIFT's keypoints
    assert (alone.computed, alone.record["rows"][0]["errors_px"]) == (0, first.record["rows"][0]["errors_px"])
    other = run(data, tmp_path / "out", "geomatch", {"mine": (detector, Patches(side=8))})
    assert other.computed == 2
    assert other.record["rows"] != first.record["rows"]
    own = {"own": (detector, Patches()), "sift": "sift"}
    assert run(data, tmp_path / "out", "geomatch", own).computed == 2
    for given, words in (
        ((detector, Wrapped(lambda image, features: features)), "mine: results of a .* cannot be cached"),
        (7, "mine: hpatches needs a string, or keypoints or matches: .* a function; got 'int'"),
    ):
        with pytest.raises(ValueError, match=words):
            run(data, tmp_path / "out", "geomatch", {"mine": given})

    class Hidden:
        describe = Patches().describe

        def cache_key(self) -> str:
            return "no module has this class"

    local = {"mine": (detector, Hidden())}
    with LocalEngine(2) as engine, pytest.raises(geomatch.GeomatchError, match="cannot be sent to worker"):
        run(data, tmp_path / "out", "geomatch", local, engine)


def test_a_function_of_two_images_is_a_method(data: Path, tmp_path: Path) -> None:
    """One that knows the truth is right everywhere, one that finds nothing nowhere, one off by 2 px at 3."""
    truths = {}
    for sequence in read_hpatches(data).units:
        for pair in sequence.pairs:
            first, path, truth = geomatch.load_image(pair.paths[0]).pixels, pair.paths[1], pair.truth
            truths[first.tobytes(), geomatch.load_image(path).pixels.tobytes()] = truth

    def exact(shift: float = 0.0) -> Any:
        def match(pixels0: np.ndarray[Any, Any], pixels1: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            assert pixels0.dtype == np.uint8
            truth = truths[pixels0.tobytes(), pixels1.tobytes()]
            grid = np.stack(np.meshgrid(np.arange(8.0, 100, 9), np.arange(8.0, 80, 9)), -1).reshape(-1, 2)
            return np.hstack([grid, geomatch.warp_points(truth, grid) + shift])

        return match

    nothing = (np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
    functions = {"exact": exact(), "none": lambda a, b: nothing, "shifted": exact(2.0)}
    result = run_benchmark("hpatches", data, "geomatch,mma", functions, tmp_path / "out")
    found = {(row["method"], row["protocol"]): row for row in result.summaries() if row["split"] == "all"}
    assert found["exact", "geomatch"]["AUC@1"] == pytest.approx(100, abs=0.5)
    assert found["exact", "mma"]["MMA@1"] == 100
    assert found["none", "geomatch"]["AUC@10"] == found["none", "mma"]["MMA@10"] == 0
    assert found["none", "geomatch"]["failures"] == found["none", "geomatch"]["pairs"]
    assert (found["shifted", "mma"]["MMA@2"], found["shifted", "mma"]["MMA@3"]) == (0, 100)
    # what decides a function's answers is not known: it is asked again, unless it says so itself
    assert run_benchmark("hpatches", data, "mma", functions, tmp_path / "out").computed == 6
    for name, function in functions.items():
        function.cache_key = lambda name=name: name  # type: ignore[attr-defined]
    assert run_benchmark("hpatches", data, "mma", functions, tmp_path / "out").computed == 6
    assert run_benchmark("hpatches", data, "mma", functions, tmp_path / "out").computed == 0
    # what failed is tried again
    calls: list[int] = []

    def shaky(pixels0: Any, pixels1: Any) -> Any:
        calls.append(len(calls))
        return exact()(pixels0, pixels1) if len(calls) > 1 else pixels0

    shaky.cache_key = lambda: "shaky"  # type: ignore[attr-defined]
    counts = []
    for _ in range(3):
        again = run_benchmark("hpatches", data, "mma", {"mine": shaky}, tmp_path / "out")
        counts.append((again.computed, len(again.record["skipped"])))
    assert counts == [(2, 1), (1, 0), (0, 0)]


def test_what_objects_do_wrong_is_counted_and_limited(data: Path, tmp_path: Path) -> None:
    def many(pixels0: Any, pixels1: Any) -> Any:
        return np.arange(80.0).reshape(20, 4)

    def other(pixels0: Any, pixels1: Any) -> Any:
        return []

    many.cache_key = other.cache_key = lambda: "version 1"  # type: ignore[attr-defined]
    methods = {
        "many": many, "other": other, "shapes": lambda a, b: (a, b), "raises": lambda a, b: a.nothing,
        "five": lambda a, b: np.zeros((9, 5)), "mute": lambda a, b: None, "sift": "sift",
    }  # fmt: skip

    class Pairs:
        def match_images(self, image0: Image, image1: Image) -> Any:
            return FunctionMatcher(many).match_images(image0, image1)

        def cache_key(self) -> int:
            return 1

    given = ("hpatches", data, "mma")
    context = RunContext(engine=LocalEngine(1), progress=False)
    methods["pairs"] = Pairs()  # type: ignore[assignment]
    result = run_benchmark(*given, methods, tmp_path / "out", context, Settings(max_keypoints=7))
    rows = [row for row in result.record["rows"] if row["pair"].endswith(" 1-2")]
    matches = {row["method"]: row.get("matches") for row in rows}
    assert (matches["many"], matches["pairs"], matches["other"]) == (7, 7, 0)
    assert 0 < matches["sift"] <= 7
    reasons = {name.split()[0]: reason for name, reason in result.record["skipped"].items()}
    assert reasons == {
        "shapes": reasons["shapes"],
        "raises": "AttributeError: 'numpy.ndarray' object has no attribute 'nothing'",
        "five": reasons["shapes"].partition("got")[0] + "got [(9, 5)]",
        "mute": "TypeError: 'NoneType' object is not iterable",
    }  # fmt: skip
    assert reasons["shapes"].startswith("matches must be points (M, 2)")
    assert [row["MMA@3"] for row in result.summaries() if row["method"] == "other"][-1] == 0
    with pytest.raises(ValueError, match="give objects by name"):
        run_benchmark(*given, [Pairs()], tmp_path / "out")  # type: ignore[list-item]
    named = run_benchmark(*given, "sift,mine=orb", tmp_path / "out", context, Settings(7))
    assert list(named.record["methods"]) == ["sift", "mine"]


def test_a_protocol_of_ones_own(data: Path, tmp_path: Path) -> None:
    own = replace(PROTOCOLS["geomatch"], name="strict", max_keypoints=100, seeds=1, areas=(1, 2))
    context = RunContext(engine=LocalEngine(1))
    found = run_benchmark("hpatches", data, [own, PROTOCOLS["mma"]], "orb", tmp_path, context)
    (strict,) = [row for row in found.summaries() if (row["protocol"], row["split"]) == ("strict", "all")]
    assert strict["keypoints"] == 100
    assert strict["AUC@2"] >= strict["AUC@1"] > 0
    assert protocols_of(found.record) == [own, PROTOCOLS["mma"]]
