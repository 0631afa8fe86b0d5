"""A folder of photographs: names, cached results, users' describers."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from own_describer import Patches
from PIL import Image as PILImage

import geomatch
from geomatch.collection import Extraction, MatchedPair, Matching, find_images, match_collection
from geomatch.collection.folder import ImageFiles, Photograph, examine
from geomatch.collection.match import CollectionResult, dense_twin
from geomatch.collection.pair_matches import match_block
from geomatch.collection.retrieval import nearest_images, pool_images
from geomatch.dift import DIFTExtractor
from geomatch.dift.inputs import UPRIGHT_SIDE
from geomatch.engine import LocalEngine, RunContext, Work
from geomatch.errors import ImageError
from geomatch.geometry import warp_points
from geomatch.images import Image
from geomatch.keypoints import GridDetector, OpenCVDetector
from geomatch.store import Store
from geomatch.types import Features, Matches

GRID = Extraction(GridDetector(12), "dift-tiny-dense")


def write(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, code = cv2.imencode(path.suffix, pixels)
    path.write_bytes(code.tobytes())


def views(
    folder: Path, photo: Image, count: int, size: tuple[int, int] = (400, 300)
) -> list[np.ndarray[Any, Any]]:
    """The photograph and parts of it under known homographies."""
    rng = np.random.default_rng(5)
    width, height = size
    pixels = cv2.resize(photo.pixels[..., ::-1], size, interpolation=cv2.INTER_AREA)
    corners = np.float32([[0, 0], [width, 0], [width, height], [0, height]])
    found = []
    for number in range(count):
        moved = corners + rng.uniform(-25, 25, (4, 2)).astype(np.float32) * (number > 0)
        matrix = cv2.getPerspectiveTransform(corners, moved)
        write(folder / f"view{number}.png", cv2.warpPerspective(pixels, matrix, size, flags=cv2.INTER_AREA))
        found.append(matrix)
    return found


def errors_of(pair: MatchedPair, features: Any, truth: list[Any]) -> Any:
    """(M,) distances in pixels of the matches of two views from the truth."""
    matrix = truth[int(pair.name1[4])] @ np.linalg.inv(truth[int(pair.name0[4])])
    i, j = pair.matches.indices.T
    there = warp_points(matrix, features[pair.name0].keypoints[i])
    return np.linalg.norm(there - features[pair.name1].keypoints[j], axis=1)


def run(folder: Path, store: Path, extraction: Extraction, **options: Any) -> CollectionResult:
    """In this process unless another engine is given."""
    context = RunContext(store, options.pop("engine", LocalEngine(1)), progress=False)
    return match_collection(find_images(folder), extraction=extraction, context=context, **options)


def matches_of(result: CollectionResult) -> list[Any]:
    return [(pair.name0, pair.name1, pair.matches) for pair in result.correspondences.pairs]


def test_images_are_found_by_colmaps_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/x 1.JPG", "a.png", ".hidden/c.png", "out/d.png", "a/y.txt"):
        write((tmp_path / name).with_suffix(".png"), np.zeros((4, 4), np.uint8))
        (tmp_path / name).with_suffix(".png").rename(tmp_path / name)
    assert find_images(tmp_path, exclude=tmp_path / "out").names == ("a.png", "b/x 1.JPG")
    every = find_images(tmp_path, exclude=tmp_path)  # the folder itself is not left out
    assert every.names[-1] == "out/d.png"
    # nor when it lies below: `geomatch reconstruct scene/images scene`, as 3DGS and nerfstudio lay them out
    assert find_images(tmp_path / "b", exclude=tmp_path).names == ("x 1.JPG",)
    for folder, error in (("a", "no images there"), ("none", "no such folder")):
        with pytest.raises(ImageError, match=error):
            find_images(tmp_path / folder)
    (tmp_path / "two\nlines.png").write_bytes(b"x")
    PILImage.new("RGB", (8, 8)).save(tmp_path / "b.webp")

    def scandir(path: Any, listed: Any = os.scandir) -> Any:  # as for users who are not root
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", scandir)
        assert find_images(tmp_path).skipped["b"] == "the folder cannot be read (Permission denied)"
    assert find_images(tmp_path).skipped == {
        "two\nlines.png": "its name holds a line break",
        "b.webp": "COLMAP does not read this format; convert it to JPEG or PNG",
    }


@dataclass(frozen=True)
class Counting:
    """SIFT that leaves a mark for every image it sees."""

    marks: str

    def detect(self, image: Image) -> Features:
        with open(self.marks, "a") as file:
            file.write("x")
        return OpenCVDetector("sift", 120).detect(image)


def test_nothing_is_done_twice(tmp_path: Path, photo0: Image) -> None:
    folder, store, marks = tmp_path / "images", tmp_path / "store", tmp_path / "marks"
    truth = views(folder, photo0, 3)
    (folder / "broken.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "view0.png").read_bytes()[:5000])  # its header is right
    extraction = Extraction(Counting(str(marks)), "dift-tiny")
    first = run(folder, store, extraction)
    assert first.computed == (3, 3)
    assert sorted(first.skipped) == ["broken.png", "cut.png"]
    for pair in first.correspondences.pairs:
        assert len(pair.matches) > 60
        assert np.mean(errors_of(pair, first.correspondences.features, truth) < 3) > 0.95
    pairs = matches_of(first)
    second = run(folder, store, extraction)
    assert second.computed == (0, 0)
    assert len(marks.read_text()) == 3
    assert matches_of(second) == pairs
    assert run(folder, store, extraction, matching=Matching(max_ratio=0.7)).computed == (0, 3)
    views(folder, photo0, 2)  # the same files again: content counts
    assert run(folder, store, extraction).computed == (0, 0)
    for pack in (store / "matches").rglob("*.npz"):
        pack.unlink()
    again = run(folder, store, extraction)
    assert again.computed == (0, 3)
    assert matches_of(again) == pairs
    for file in store.rglob("*.npz"):
        file.write_bytes(file.read_bytes()[:100])  # a failing disk
    assert run(folder, store, extraction).computed == (3, 3)


def test_a_users_describer_works_everywhere_under_its_own_key(tmp_path: Path, photo0: Image) -> None:
    """Two describers that differ in an array share no results; worker processes give the same as this one."""
    folder = tmp_path / "images"
    views(folder, photo0, 3)
    weights = np.hanning(13)[1:-1].astype(np.float32)
    results = []
    with LocalEngine(2) as engine:
        for number, array in enumerate((weights, weights**2, weights)):
            extraction = Extraction("sift", Patches(array), max_keypoints=100)
            results.append(run(folder, tmp_path / "store", extraction, engine=engine))
            assert results[-1].computed == ((3, 3) if number < 2 else (0, 0))
    here = run(folder, tmp_path / "other", Extraction("sift", Patches(weights), max_keypoints=100))
    first, second, _ = (result.correspondences.features for result in results)
    for name in first:
        assert first[name] == here.correspondences.features[name]
        np.testing.assert_array_equal(first[name].keypoints, second[name].keypoints)
        assert not np.array_equal(first[name].descriptors, second[name].descriptors)  # type: ignore[arg-type]
    assert min(len(matches) for *_, matches in matches_of(here)) > 20
    assert matches_of(results[0]) == matches_of(here)


def test_guided_matching_finds_back_what_the_ratio_test_drops(photo0: Image, photo1: Image) -> None:
    truth = geomatch.bundled_pair().homography
    dift = DIFTExtractor()
    detector = OpenCVDetector("sift", 400)
    features0, features1 = (dift.describe(photo, detector.detect(photo)) for photo in (photo0, photo1))

    def match_features(first: Features, second: Features, matching: Matching) -> Matches:
        return match_block([first, second], [(0, 1)], matching)[0]

    distinct = match_features(features0, features1, Matching(max_ratio=0.8, guided=False))
    guided = match_features(features0, features1, Matching(max_ratio=0.8))
    every = match_features(features0, features1, Matching(guided=False))

    def right(matches: Matches) -> int:
        i, j = matches.indices.T
        errors = np.linalg.norm(warp_points(truth, features0.keypoints[i]) - features1.keypoints[j], axis=1)
        return int((errors < 4).sum())

    assert right(guided) > right(distinct)
    assert right(guided) / len(guided) > 0.97 > right(every) / len(every)
    assert len(match_features(features0, features0[:0], Matching())) == 0
    noise = np.random.default_rng(0).normal(0, 1, (400, 16)).astype(np.float32)
    unrelated0 = replace(features0, descriptors=noise[: len(features0)])
    unrelated1 = replace(features1, descriptors=noise[: len(features1)][::-1])
    assert len(match_features(unrelated0, unrelated1, Matching())) == 0


def test_large_keypoints_come_first(photo0: Image) -> None:
    found = OpenCVDetector("sift", 50, rank_by="size").detect(photo0)
    assert found.scales is not None
    assert (np.diff(found.scales) <= 0).all()
    assert found.scales.min() > np.median(OpenCVDetector("sift", None).detect(photo0).scales)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rank_by"):
        OpenCVDetector("sift", rank_by="beauty")  # type: ignore[arg-type]


def test_grid_keypoints_are_shared(tmp_path: Path, photo0: Image) -> None:
    """The same pixel has one index in all pairs, whatever it is matched with."""
    folder = tmp_path / "images"
    truth = views(folder, photo0, 3, (280, 210))
    (folder / "view3.png").write_bytes((folder / "view2.png").read_bytes())  # two images, one content
    found = run(folder, tmp_path / "store", GRID)
    features = found.correspondences.features
    for name in features:
        np.testing.assert_array_equal(features[name].keypoints, features["view0.png"].keypoints)
    errors = [errors_of(pair, features, [*truth, truth[2]]) for pair in found.correspondences.pairs]
    assert (np.concatenate(errors) < 12).sum() > 300  # right up to the grid


def test_retrieval_tells_scenes_apart(tmp_path: Path, photo0: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views of the photograph look more like each other than like two synthetic scenes."""
    rng = np.random.default_rng(1)
    views(tmp_path / "all", photo0, 3)
    for scene in range(2):
        noise = rng.uniform(0, 255, (20 + 40 * scene, 30, 3)).astype(np.uint8)
        whole = cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC)
        for number in range(3):
            write(tmp_path / "all" / f"x{scene}{number}.png", np.roll(whole, 15 * number, axis=1))
    folder = find_images(tmp_path / "all")
    extractor, files = dense_twin(DIFTExtractor()), ImageFiles(folder.root)
    work = Work(LocalEngine(1), progress=False)
    photos = [
        photo for _, photo in examine(files, folder.names, work, False) if isinstance(photo, Photograph)
    ]
    store = Store.at(tmp_path / "store")
    pooled = pool_images(files, photos, extractor, store, work)
    group = [name[:2] for name in folder.names]
    best = nearest_images(store, pooled, 2)
    for index in range(9):
        assert {group[other] for other in best[index]} == {group[index]}
    monkeypatch.setattr("geomatch.collection.retrieval.CHUNK", 4)  # bounded memory changes nothing
    np.testing.assert_array_equal(nearest_images(store, pooled, 2), best)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / "global").rglob("*.npz")}
    assert pool_images(files, photos, extractor, store, work) == pooled
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_keypoints_without_scale_are_described_upright(photo0: Image) -> None:
    """In a collection every detector but a grid gets patches; those without scale are of one size."""
    plain = OpenCVDetector("fast", 50).detect(photo0)
    assert plain.scales is None or plain.orientations is None
    _, describer = Extraction("fast").parts()
    assert isinstance(describer, DIFTExtractor)
    assert describer.config.sampling == "patch"
    size = np.full(len(plain), UPRIGHT_SIDE / describer.config.patch_scale)
    oriented = replace(plain, scales=size.astype(np.float32), orientations=np.zeros(len(plain), np.float32))
    rows = [describer.describe(photo0, found).descriptors for found in (plain, oriented)]
    assert max(photo0.size) <= 2048
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-5)
    _, dense = Extraction("grid").parts()
    assert isinstance(dense, DIFTExtractor)
    assert dense.config.sampling == "dense"
