"""A real Ray cluster of three nodes on this machine: same results as here, whatever dies meanwhile."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from stores import damaged_objects

from geomatch.images import Image
from geomatch.store import Store
from geomatch.store.upkeep import inspect_store

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed")]
HELPERS = Path(__file__).parent / "helpers"
OPTIONS = ["--max-keypoints", "150", "--pairs", "retrieval:5", "--pairs", "sequential:2"]
OPTIONS += ["--verification", "geomatch"]
IMAGES = 12


@dataclass
class RayCluster:
    """The nodes."""

    process: "subprocess.Popen[str]"
    address: str
    raylets: list[int]

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"RAY_ADDRESS": self.address, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

    def export(self, images: Path, out: Path, *more: str) -> "subprocess.Popen[str]":
        return export(images, out, "--engine", "ray", *more, env=self.environment)

    def tell(self, word: str) -> str:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def workers(self) -> list[int]:
        """Processes of ours on any node."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                title = (folder / "cmdline").read_bytes()
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if title.startswith(b"ray::Remote") and parent in self.raylets:
                found.append(int(folder.name))
        return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with subprocess.Popen(
        [sys.executable, HELPERS / "ray_cluster.py"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdout
        lines = iter(process.stdout.readline, "")
        line = next(line for line in lines if line.startswith("{"))
        found = json.loads(line)
        yield RayCluster(process, found["address"], found["raylets"])
        assert process.stdin
        process.stdin.close()
        process.wait(60)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, photo0: Image) -> Path:
    """Views of a photograph, of two sizes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(2)
    for number in range(IMAGES):
        width, height = (480, 360) if number % 3 else (400, 400)
        corners = np.array([[0, 0], [640, 0], [640, 480], [0, 480]], np.float32)
        moved = np.array([[0, 0], [width, 0], [width, height], [0, height]]) + rng.uniform(-25, 25, (4, 2))
        matrix = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
        view = cv2.warpPerspective(photo0.pixels[..., ::-1], matrix, (width, height))
        (folder / f"view{number:02}.png").write_bytes(cv2.imencode(".png", view)[1].tobytes())
    return folder


def export(images: Path, out: Path, *more: str, **keywords: Any) -> "subprocess.Popen[str]":
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "geomatch", "colmap", "export", str(images), str(out / "x.db"), *OPTIONS]
    command += ["--store", str(out / "store"), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **keywords)


def output(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Traceback" not in err, err
    return out


def tables(out: Path) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(out / "x.db")) as database:
        return {
            table: database.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
            for table in ("images", "cameras", "keypoints", "matches", "two_view_geometries")
        }


def objects(place: Path, *kinds: str) -> dict[str, bytes]:
    store = Store.at(place)
    kinds = kinds or ("features", "matches", "global")
    return {f"{kind}/{key}": store.read(kind, key) for kind in kinds for key in store.sizes(kind)}


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("local")
    output(export(images, out))
    return out


def when(condition: Callable[[], object], process: "subprocess.Popen[str]", seconds: float = 120) -> None:
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("it never came to this")


def made(place: Path, kind: str, count: int) -> Callable[[], bool]:
    return lambda: len(list((place / kind).glob("*/[!.]*.npz"))) >= count


def same(out: Path, undisturbed: Path) -> None:
    """Complete, sound, and nothing else than without a disturbance."""
    assert tables(out) == tables(undisturbed)
    assert damaged_objects(Store.at(out / "store")) == []
    for kind in ("features", "global"):
        assert objects(out / "store", kind) == objects(undisturbed / "store", kind)
    (state,) = inspect_store(Store.at(out / "store"))[1]
    assert state.manifest.complete
    assert not state.manifest.failed
    assert state.done["features"] == (IMAGES, IMAGES)


def test_the_same_bytes_as_here(images: Path, undisturbed: Path, cluster: RayCluster, tmp_path: Path) -> None:
    assert f"computed    {IMAGES} images" in output(cluster.export(images, tmp_path))
    same(tmp_path, undisturbed)
    assert objects(tmp_path / "store") == objects(undisturbed / "store")
    (tmp_path / "x.db").unlink()
    again = cluster.export(images, tmp_path, "--ray-address", cluster.address)
    assert "computed    0 images, 0 pairs" in output(again)


def test_a_worker_is_killed(images: Path, undisturbed: Path, cluster: RayCluster, tmp_path: Path) -> None:
    process = cluster.export(images, tmp_path)
    when(made(tmp_path / "store", "features", 2), process)
    os.kill(cluster.workers()[0], signal.SIGKILL)
    when(made(tmp_path / "store", "matches", 1), process)
    assert "retried     1 blocks of work" in output(process)
    same(tmp_path, undisturbed)


def test_the_driver_is_killed_and_started_again(
    images: Path, undisturbed: Path, cluster: RayCluster, tmp_path: Path
) -> None:
    process = cluster.export(images, tmp_path)
    when(made(tmp_path / "store", "features", 4), process)
    process.kill()
    process.communicate()
    stored = len(list((tmp_path / "store" / "features").glob("*/[!.]*.npz")))
    assert 4 <= stored < IMAGES
    out = output(cluster.export(images, tmp_path))
    assert int(out.split("computed    ")[1].split()[0]) <= IMAGES - stored
    same(tmp_path, undisturbed)


def test_a_node_is_stopped(images: Path, undisturbed: Path, cluster: RayCluster, tmp_path: Path) -> None:
    process = cluster.export(images, tmp_path)
    when(lambda: len(cluster.workers()) == 3, process)
    when(made(tmp_path / "store", "features", 1), process)
    assert cluster.tell("stop") == "stopped"
    output(process)  # what the node had in work, if anything, is done again
    same(tmp_path, undisturbed)
    cluster.raylets[-1] = int(cluster.tell("add"))


def test_hpatches_on_the_cluster(cluster: RayCluster, tmp_path: Path, photo0: Image) -> None:
    photo = tmp_path / "a.png"
    photo.write_bytes(cv2.imencode(".png", photo0.pixels[..., ::-1])[1].tobytes())

    def run(*arguments: str) -> None:
        command = [sys.executable, "-m", "geomatch", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=cluster.environment)
        assert done.returncode == 0, done.stderr

    run("data", "synthetic", str(tmp_path / "made"), str(photo))
    evaluate = ("benchmark", "hpatches", str(tmp_path / "made"), "--protocol", "mma,auc480")
    evaluate += ("--method", "orb,sift")
    run(*evaluate, "--out", str(tmp_path / "here"), "--workers", "1")
    run(*evaluate, "--out", str(tmp_path / "there"), "--engine", "ray", "--store", str(tmp_path / "store"))
    records = []
    for name in ("here", "there"):
        (path,) = (tmp_path / name).glob("hpatches-*.json")
        record = json.loads(path.read_text())
        records.append([{k: v for k, v in row.items() if k != "seconds"} for row in record["rows"]])
    assert records[0] == records[1]
    assert Store.at(tmp_path / "store").sizes("rows")


def test_no_cluster_is_one_line(tmp_path: Path, images: Path) -> None:
    environment = os.environ | {"RAY_ADDRESS": "nonsense"}
    process = export(images, tmp_path, "--engine", "ray", env=environment)
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 2
    assert "Traceback" not in error
    assert "no Ray cluster at nonsense" in error.splitlines()[-1]
