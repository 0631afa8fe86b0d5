"""Matchers that run in a process of another environment; here scripts in the environment of the tests."""

import os
import pickle
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from made_sequences import make_sequences, run

import geomatch
from geomatch.benchmarks.methods import create_method
from geomatch.benchmarks.methods import worker as worker_module
from geomatch.benchmarks.methods.scripts.any_of_vismatch import ORIGIN
from geomatch.benchmarks.methods.scripts.serve import send
from geomatch.benchmarks.methods.worker import WorkerMatcher, _end_all, _running, worker_matcher
from geomatch.errors import FeaturesError, MissingDependencyError, WeightsError
from geomatch.images import Image

ECHO = """
import os
import numpy as np

print("more than the pipe holds, on the output " * 9999)

def load(name, max_keypoints, device):
    weights = __file__ + ".pth"  # read at the first pair, as some packages do
    def match(image0, image1):
        if os.path.exists(weights):
            open(weights, "rb").close()
        behaviour = image0[0, 0, 0]
        if behaviour == 1:
            raise ValueError("kein Schlüssel 鍵\\nand more lines")
        if behaviour == 2:
            print("the last words", flush=True)
            os._exit(3)
        if behaviour == 8:
            raise EOFError("of a file")
        if behaviour == 11:
            import time
            time.sleep(600)
        if behaviour == 10:
            return [], []
        points = np.array([image0.shape[1::-1], (image0.mean(), image1.mean()), np.random.rand(2)])
        if behaviour == 3:
            return points[:, :1], points[:, :1], np.arange(3.0)
        bad = {4: points * np.nan, 5: points[:2], 6: "text", 7: None}
        return points, bad.get(behaviour, points), np.arange(3.0)
    return match
"""
SIFT = """
import cv2
import numpy as np

def load(name, max_keypoints, device):
    sift = cv2.SIFT_create(max_keypoints, enable_precise_upscale=True)
    def match(image0, image1):
        (found0, rows0), (found1, rows1) = (sift.detectAndCompute(image, None) for image in (image0, image1))
        pairs = cv2.BFMatcher(crossCheck=True).match(rows0, rows1)
        points0 = np.array([found0[pair.queryIdx].pt for pair in pairs]).reshape(-1, 2) + OFFSET
        points1 = np.array([found1[pair.trainIdx].pt for pair in pairs]).reshape(-1, 2) + OFFSET
        return points0, points1, [-pair.distance for pair in pairs]
    return match
"""
FAILING = """
import os

def load(name, max_keypoints, device):
    def match(image0, image1):
        if not os.path.exists(__file__ + ".mended"):
            1 / 0
        return [], []
    return match
"""


def picture(behaviour: int, size: tuple[int, int] = (40, 30)) -> Image:
    pixels = np.full((*size[::-1], 3), 100, np.uint8)
    pixels[0, 0] = behaviour
    return Image(pixels, f"picture {behaviour}")


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    _end_all()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "echo.py"
    path.write_text(ECHO)
    return path


def matcher_of(script: Path, max_matches: int = 100) -> WorkerMatcher:
    return worker_matcher(f"worker:{sys.executable}:{script}", max_matches, "cpu")


def test_images_go_and_matches_come_whole_and_best_first(script: Path) -> None:
    matcher = matcher_of(script)
    large = Image(np.full((1500, 2000, 3), 9, np.uint8), "large")
    first, second = matcher.match_images(large, picture(0))
    assert first.image_size == (2000, 1500)
    assert first.scores.tolist() == [2, 1, 0]
    assert first.keypoints[2].tolist() == [2000, 1500]
    assert first.keypoints[1].tolist() == pytest.approx([9, picture(0).pixels.mean()])
    assert np.array_equal(first.keypoints, second.keypoints)
    # what draws at random begins anew at every pair
    again = [pickle.loads(pickle.dumps(matcher)).match_images(large, picture(0))[0] for _ in range(2)]
    assert again == [first, first]


def test_faults_name_the_pair_and_the_next_pair_is_matched(script: Path) -> None:
    matcher = matcher_of(script)
    for behaviour, words in {
        1: r"^echo failed \(ValueError: kein Schlüssel 鍵\)$",
        2: r"ended, and again when it was started again: exit code 3, last words: the last words\)$",
        3: r"^echo failed .*must return points \(M, 2\), .* got \[\(3, 1\), ",
        4: "not finite",
        5: r"got \[\(3, 2\), \(2, 2\), \(3,\)\]",
        6: "could not convert string to float",
        7: r"got \[\(3, 2\), \(3,\)\]",
        8: "EOFError: of a file",
    }.items():
        with pytest.raises(FeaturesError, match=words):
            matcher.match_images(picture(behaviour), picture(0))
        assert len(matcher.match_images(picture(0), picture(0))[0]) == 3
    assert matcher.match_images(picture(10), picture(0))[1].keypoints.shape == (0, 2)


def test_a_process_that_hangs_is_given_up_and_ends_with_geomatch(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = matcher_of(script)
    found = matcher.match_images(picture(0), picture(0))
    with monkeypatch.context() as patch:
        patch.setattr(worker_module, "_LONGEST", 0.05)
        with pytest.raises(FeaturesError, match=r"^echo failed \(no answer in 0.05 seconds\)$"):
            matcher.match_images(picture(11), picture(0))
    assert matcher.match_images(picture(0), picture(0)) == found
    (worker,) = _running.values()
    send(worker._pipe, image0=picture(11).pixels, image1=picture(0).pixels)
    worker._pipe.close()  # as when geomatch is killed
    assert worker._process.wait(4) == 0


def test_a_process_that_was_killed_is_started_again_and_ends_when_it_is_asked_no_more(script: Path) -> None:
    matcher = matcher_of(script)
    found = matcher.match_images(picture(0), picture(0))
    (worker,) = _running.values()
    os.kill(worker._process.pid, signal.SIGINT)  # Ctrl-C is for geomatch
    assert matcher.match_images(picture(0), picture(0)) == found
    os.kill(worker._process.pid, signal.SIGKILL)
    worker._process.wait()
    assert matcher.match_images(picture(0), picture(0)) == found
    ((key, worker),) = _running.items()
    assert _running.pop(key).end().startswith("exit code 0")
    matcher.match_images(picture(0), picture(0))
    (worker,) = _running.values()
    # one at a time: each may hold a network
    assert len(matcher_of(script, 2).match_images(picture(0), picture(0))[0]) == 2
    assert worker._process.poll() == 0


def test_the_answer_to_a_pair_that_was_interrupted_is_not_taken_for_the_next(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = matcher_of(script)
    matcher.match_images(picture(0), picture(0))

    def interrupted(pipe: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(worker_module, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            matcher.match_images(picture(0), picture(0))
    assert matcher.match_images(picture(0, (60, 50)), picture(0))[0].keypoints[2].tolist() == [60, 50]


def test_the_key_is_that_of_the_script_and_of_the_weights(script: Path, tmp_path: Path) -> None:
    first = matcher_of(script).cache_key()
    assert str(tmp_path) not in str(first)
    (tmp_path / "other").mkdir()
    copy = tmp_path / "other" / "echo.py"
    copy.write_text(ECHO)
    assert matcher_of(copy).cache_key() == first
    keys = [first, matcher_of(copy, 60).cache_key()]
    for path, text in (
        (tmp_path / "other/echo.py.pth", "weights"),
        (copy, ECHO.replace("image0.mean()", "5")),
    ):
        path.write_text(text)
        keys.append(matcher_of(copy).cache_key())
    assert all(a != b for k, a in enumerate(keys) for b in keys[:k])
    # what is then asked is what the key is of, not a process that loaded the script before
    assert matcher_of(copy).match_images(picture(0), picture(0))[0].keypoints[1, 0] == 5


def test_what_is_missing_is_said_with_the_way_out(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GEOMATCH_VISMATCH_PYTHON", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MissingDependencyError, match=r"and \$GEOMATCH_VISMATCH_PYTHON is no Python"):
        create_method("vismatch:no-such").key()
    monkeypatch.setenv("GEOMATCH_VISMATCH_PYTHON", sys.executable)
    with pytest.raises(MissingDependencyError, match="No module named 'vismatch'"):
        create_method("vismatch:no-such").key()
    for text, kind, words in (
        ("def load(*_): raise OSError('no weights')", WeightsError, "no weights"),
        ("import os; os.write(2, b'\\xff\\n'); os._exit(4)", WeightsError, "exit code 4, last words: \ufffd"),
        (
            "import urllib.request as r\ndef load(*_): r.urlopen('http://example.org')",
            WeightsError,
            "downloads are off, HF_HUB_OFFLINE=0 allows them",
        ),
    ):
        script.write_text(text)
        with pytest.raises(kind, match=f"^echo cannot be loaded in its environment .*{words}"):
            matcher_of(script).cache_key()
    with pytest.raises(MissingDependencyError, match="FileNotFoundError"):
        matcher_of(tmp_path / "none.py").cache_key()
    for text in ("vismatch", "vismatch:", "worker:python", "worker"):
        with pytest.raises(ValueError, match="write vismatch:NAME or worker:PYTHON:SCRIPT"):
            create_method(text)


def test_in_one_table_with_our_own_and_a_failure_is_told_and_tried_again(tmp_path: Path) -> None:
    data = make_sequences(tmp_path, "p", (160, 120), seed=1)
    shutil.rmtree(data / "i_p")
    paths = {name: tmp_path / f"{name}.py" for name in ("sift", "failing")}
    paths["sift"].write_text(SIFT.replace("OFFSET", "0"))
    paths["failing"].write_text(FAILING)
    worker, failing = (f"worker:{sys.executable}:{path}" for path in paths.values())
    methods = {"w": worker, "sift": "sift", "f": failing}
    result = run(data, tmp_path / "out", "mma", methods, keypoints=100)
    right = {row["method"]: row["MMA@3"] for row in result.summaries() if row["split"] == "all"}
    assert right["w"] == pytest.approx(right["sift"], abs=8)
    assert right["sift"] > 60
    # each pair is named; they count neither for nor against it
    reason = "failing failed (ZeroDivisionError: division by zero)"
    assert result.record["skipped"] == {f"f on v_p 1-{k}": reason for k in range(2, 7)}
    assert "f" not in right
    Path(f"{paths['failing']}.mended").touch()
    again = run(data, tmp_path / "out", "mma", methods, keypoints=100)
    assert again.computed == 1  # what was skipped, not the rest
    assert not again.record["skipped"]
    assert [row["MMA@3"] for row in again.summaries() if row["method"] == "f"] == [0]


def origin_of(match: Callable[[Image, Image], tuple[geomatch.Features, geomatch.Features]]) -> np.ndarray:
    """Where the centre of the first pixel is: in an image of twice the size x is at 2 x + 1/2."""
    whole = geomatch.load_image(geomatch.bundled_pair().image0).pixels[:240, :320]
    large = Image(np.ascontiguousarray(whole.repeat(2, 0).repeat(2, 1)), "large")
    features0, features1 = match(Image(np.ascontiguousarray(whole), "small"), large)
    differences = features1.keypoints - 2 * features0.keypoints
    near = np.abs(differences - np.median(differences, axis=0)).max(axis=1) < 2
    assert near.sum() > 50
    return 0.5 - np.median(differences[near], axis=0)


def test_the_origin_is_found_by_doubling_an_image(tmp_path: Path) -> None:
    path = tmp_path / "sift.py"
    path.write_text(SIFT.replace("OFFSET", "[0.5, 0]"))
    assert np.allclose(origin_of(matcher_of(path, 1000).match_images), [0.5, 0], atol=0.05)


PYTHON = os.environ.get("GEOMATCH_VISMATCH_PYTHON")
OTHERS = ("sift-lightglue", "superpoint-lightglue", "disk-lightglue", "aliked-lightglue", "loma", "xfeat")


@pytest.mark.skipif(not PYTHON, reason="no environment with vismatch")
@pytest.mark.parametrize("name", [*ORIGIN, *OTHERS])
def test_the_origin_of_what_vismatch_gives(name: str) -> None:
    matcher = worker_matcher(f"vismatch:{name}", 2000, "cpu")
    try:
        matcher.cache_key()
    except (MissingDependencyError, WeightsError) as error:
        pytest.skip(str(error))
    assert np.allclose(origin_of(matcher.match_images), 0, atol=0.15)
