"""Stages that overlap: reading ahead of a network on a pretended accelerator, and writing behind it."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from geomatch import stream
from geomatch.collection import find_images
from geomatch.collection.features import extract_features, feature_key
from geomatch.collection.folder import ImageFiles, Photograph, examine
from geomatch.engine import FailedBlock, FailedItem, LocalEngine, StreamTask, Work
from geomatch.errors import ImageError
from geomatch.images import Image, stream_images
from geomatch.keypoints import OpenCVDetector
from geomatch.provenance import cache_key
from geomatch.store import Store
from geomatch.types import Features, Traits

PATIENCE = 5.0  # seconds that a test waits for what must happen


class Accelerated(LocalEngine):
    """Says that its networks run on CUDA."""

    def device(self, name: str) -> str:
        return "cuda"


def number(item: int) -> Any:
    if item == 4:
        return FailedItem("no such image")
    if item == 7:
        raise ValueError("bad luck")
    return None if item == 10 else item


def doubled(values: Sequence[int]) -> list[int]:
    return [2 * value for value in values]


def told(item: int, made: int) -> tuple[int, int]:
    return item, made


def blocks_of(count: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def test_overlapping_changes_no_result_and_no_error_spreads() -> None:
    """Items that fail or are done already are results; an exception is its block's, which is tried again."""
    task = StreamTask([number], doubled, told)
    blocks = blocks_of(13, 3)
    plain, streamed = (dict(LocalEngine(1).map(replace(task, overlaps=over), blocks)) for over in (0, 1))
    assert list(streamed) == list(range(5))
    assert streamed == plain
    assert plain[1] == [(3, 6), FailedItem("no such image"), (5, 10)]
    assert plain[2] == FailedBlock("bad luck")
    assert plain[3] == [(9, 18), None, (11, 22)]
    found = dict(Work(LocalEngine(1), False).results(replace(task, overlaps=True), blocks, "toys", "toy"))
    assert found[7] == FailedItem("bad luck")
    assert [item for item, value in found.items() if not value] == [4, 10, 7]


def test_the_stages_overlap() -> None:
    """The network waits until the next image is read, which waits for nobody; likewise with the writing."""
    read, made = ([threading.Event() for _ in range(3)] for _ in range(2))

    def reading(item: int) -> int:
        read[item].set()
        return item

    def network(values: Sequence[int]) -> list[int]:
        made[values[0]].set()
        assert read[min(values[0] + 1, 2)].wait(PATIENCE), "read only after the network"
        return list(values)

    def write(item: int, value: int) -> int:
        assert made[min(item + 1, 2)].wait(PATIENCE), "written before the network went on"
        return value

    task = StreamTask([reading], network, write, overlaps=True)
    assert list(LocalEngine(1).map(task, [[0], [1], [2]])) == [(0, [0]), (1, [1]), (2, [2])]


class Pixels:
    """Counts those of its kind that live."""

    alive = most = 0

    def __init__(self, item: int) -> None:
        with stream_lock:
            Pixels.alive += 1
            Pixels.most = max(Pixels.most, Pixels.alive)

    def __del__(self) -> None:
        with stream_lock:
            Pixels.alive -= 1


stream_lock = threading.RLock()


@pytest.mark.parametrize(("pixels", "ahead"), [(None, 6), (10, 3)])
def test_memory_is_bounded(pixels: int | None, ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "AHEAD", 6)
    monkeypatch.setattr(stream, "AHEAD_PIXELS", 35)
    Pixels.alive = Pixels.most = 0

    def network(values: Sequence[Pixels]) -> list[int]:
        time.sleep(0.005)  # reading could run away
        return [0] * len(values)

    size = None if pixels is None else (lambda item: pixels)
    task = StreamTask([Pixels], network, told, overlaps=True, pixels=size)
    assert len(list(LocalEngine(1).map(task, blocks_of(40, 2)))) == 20
    assert ahead <= Pixels.most <= ahead + 2  # and the block in the network
    assert Pixels.alive == 0


def test_an_interruption_ends_the_threads_and_keeps_what_was_made() -> None:
    written, read = [], []

    def reading(item: int) -> int:
        read.append(item)
        return item

    def network(values: Sequence[int]) -> list[int]:
        if values[0] == 3:
            raise KeyboardInterrupt
        return list(values)

    def write(item: int, value: int) -> int:
        time.sleep(0.02)
        written.append(item)
        return value

    threads = set(threading.enumerate())
    task = StreamTask([reading], network, write, overlaps=True)
    blocks = blocks_of(500, 1)
    with pytest.raises(KeyboardInterrupt):
        list(LocalEngine(1).map(task, blocks))
    assert written == [0, 1, 2]
    assert len(read) < 100
    answers = LocalEngine(1).map(replace(task, network=list), blocks)
    next(answers)
    answers.close()  # nobody listens any more
    assert set(threading.enumerate()) == threads
    assert len(read) < 200


def test_networks_on_an_accelerator_work_in_this_process() -> None:
    task = StreamTask([number], lambda values: [os.getpid()] * len(values), told)
    assert list(Accelerated().map(task, [[1]])) == [(0, [(1, os.getpid())])]


@dataclass(frozen=True)
class Means:
    """Describes keypoints by the grey around them, images together; says how many came at a time."""

    seen: list[int]
    traits = Traits(dense=True)

    def cache_key(self) -> str:
        return "means"

    def describe(self, image: Image, features: Features) -> Features:
        blurred = cv2.GaussianBlur(image.pixels, (0, 0), 3)
        x, y = np.rint(features.keypoints).astype(int).T
        return replace(features, descriptors=blurred[y, x].astype(np.float32))

    def describe_many(self, images: Sequence[Image], features: Sequence[Features]) -> list[Features]:
        self.seen.append(len(images))
        return [self.describe(*pair) for pair in zip(images, features, strict=True)]


@dataclass(frozen=True)
class Alone:
    """SIFT that does not say that several threads may call it."""

    def detect(self, image: Image) -> Features:
        assert threading.current_thread() is threading.main_thread()
        return OpenCVDetector("sift", 50).detect(image)


@pytest.mark.parametrize("detector", [OpenCVDetector("sift", 50), Alone()])
def test_a_collection_has_the_same_features(detector: Any, tmp_path: Path, photo0: Image) -> None:
    """Ten images of two sizes, one of them damaged: the same bytes as one after the other."""
    for index in range(10):
        part = photo0.pixels[10 * index :, :][:120, : 160 + 20 * (index % 2)]
        (tmp_path / f"{index}.png").write_bytes(cv2.imencode(".png", part)[1].tobytes())
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:3000])  # its header is right
    folder, found = find_images(tmp_path), []
    for engine in (LocalEngine(1), Accelerated()):
        work, describer = Work(engine, progress=False), Means([])
        examined = examine(ImageFiles(folder.root), folder.names, Work(LocalEngine(1), progress=False), False)
        photos = [photo for _, photo in examined if isinstance(photo, Photograph)]
        parts_key = [cache_key(detector), cache_key(describer)]
        keys = {photo.name: feature_key(photo.sha256, parts_key) for photo in photos}
        store = Store.at(tmp_path / f"store{len(found)}")
        made, failed = extract_features(
            ImageFiles(folder.root), photos, keys, (detector, describer), store, work
        )
        assert (made, list(failed)) == (9, ["3.png"])
        objects = {name: store.read("features", key) for name, key in keys.items() if name != "3.png"}
        found.append((objects, failed))
        assert describer.seen == ([1] * 9 if len(found) == 1 else [5, 4])
    assert found[0] == found[1]


def test_files_are_read_in_the_order_they_are_given(tmp_path: Path) -> None:
    pixels = [np.full((8, 9, 3), value, np.uint8) for value in range(5)]
    paths = [tmp_path / f"{value}.png" for value in range(5)]
    for path, own in zip(paths, pixels, strict=True):
        path.write_bytes(cv2.imencode(".png", own)[1].tobytes())
    sources = iter([paths[3], pixels[1], str(paths[0]), Image(pixels[4], "own"), paths[2]])
    assert [int(image.pixels[0, 0, 0]) for image in stream_images(sources)] == [3, 1, 0, 4, 2]
    with pytest.raises(ImageError, match=r"none\.png"):
        list(stream_images([paths[0], tmp_path / "none.png", tmp_path / "neither.png", paths[1]]))
