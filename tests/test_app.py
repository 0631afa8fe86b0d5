"""The page of ``geomatch app``: its work as functions, then the page in a browser."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from browser import axe_findings, launched, opened, serious
from rendered_scene import write

import geomatch
from geomatch.app.work import find_point, match_photographs, reconstruct_photographs, run_command
from geomatch.cli import main
from geomatch.images import load_image

PAIR = geomatch.bundled_pair()
FEW = ["--max-keypoints=300", "--detector=sift"]


@pytest.fixture
def uploads(tmp_path: Path) -> list[Path]:
    """The bundled pair as the page gets it."""
    copies = []
    for image in (PAIR.image0, PAIR.image1):
        copies.append(tmp_path / "uploaded" / image.stem / image.name)
        copies[-1].parent.mkdir(parents=True)
        shutil.copy(image, copies[-1])
    return copies


def command_in(told: str) -> list[str]:
    (command,) = re.findall(r"^geomatch .*$", told, re.MULTILINE)
    return shlex.split(command)[1:]


def test_a_pair_and_the_command_that_does_the_same(
    uploads: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "job"
    told, files, pictures = match_photographs(main, uploads, [*FEW, "--max-ratio=0.9"], folder)
    assert told.startswith("**Found: ")
    assert str(tmp_path) not in told
    names = {file.name for file in files}
    assert {"result.json", "matches.npz", "matches.png", "overlay.png", "warped.png"} <= names
    result = json.loads((folder / "matched" / "result.json").read_text())
    assert [result["settings"][f"image{n}"]["name"] for n in (0, 1)] == ["image0.jpg", "image1.jpg"]
    words = command_in(told)
    assert {*FEW, "--max-ratio=0.9", "--out=matched"} <= set(words)
    monkeypatch.chdir(tmp_path)
    assert main(words) == 0
    again = json.loads((tmp_path / "matched" / "result.json").read_text())
    assert again["homography"] == result["homography"]
    image0, warped = load_image(PAIR.image0), load_image(folder / "matched" / "warped.png")
    assert pictures is not None
    assert [picture.shape for picture in pictures] == [image0.pixels.shape] * 2  # they are small
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    image1 = load_image(PAIR.image1).pixels
    truth = cv2.warpPerspective(image1, PAIR.homography, image0.size, flags=flags)
    assert np.abs(truth.astype(float) - warped.pixels).mean() < 4


def test_a_refusal_says_why(uploads: list[Path], tmp_path: Path, rng: np.random.Generator) -> None:
    cv2.imwrite(str(uploads[1]), rng.integers(0, 255, (200, 240, 3), np.uint8))
    told, files, pictures = match_photographs(main, uploads, [*FEW, "--effort=fast"], tmp_path / "job")
    reason = json.loads((tmp_path / "job" / "matched" / "result.json").read_text())["reason"]
    assert told.startswith(f"**Not found: {reason}**")
    assert reason
    assert pictures is None
    assert "warped.png" not in {file.name for file in files}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--threshold=x"], "'x' is not a valid float"),
        (["--detector=none"], "unknown detector 'none'; choose one of"),
        (["--descriptor=no/where/at/all"], "unknown descriptor"),
        (["--geometry=affine", "--estimator=kornia"], "kornia has homographies only"),
        (["--descriptor=own", "--timestep=3"], "--timestep is for descriptors of DIFT"),
    ],
)
def test_errors_are_told(uploads: list[Path], tmp_path: Path, options: list[str], said: str) -> None:
    told, files, pictures = match_photographs(main, uploads, options, tmp_path)
    assert told.startswith("**Error**: ")
    assert said in told
    assert not files
    assert pictures is None


def test_errors_name_files_as_the_user_does(uploads: list[Path], tmp_path: Path) -> None:
    uploads[1].write_bytes(b"words")
    told, *_ = match_photographs(main, uploads, FEW, tmp_path / "job")
    assert told.startswith("**Error**: image1.jpg: not an image in a known format")
    assert run_command(main, ["match"], tmp_path, [None])[1] == "Choose two images first."  # type: ignore[list-item]


def test_a_point_is_looked_for(uploads: list[Path], tmp_path: Path) -> None:
    tmp_path.joinpath("job").mkdir()
    told, picture = find_point(main, uploads, ["--point=320,240", "--image-size=256"], tmp_path / "job")
    assert picture is not None
    assert load_image(picture).size[0] > 640
    found = re.search(r"best match +([\d.]+),([\d.]+) in", told)
    assert found is not None
    truth = geomatch.warp_points(PAIR.homography, [[320, 240]])[0]
    assert np.linalg.norm(np.array([float(found[1]), float(found[2])]) - truth) < 12
    told, picture = find_point(main, uploads, ["--point=9999,1"], tmp_path / "job")
    assert "lies outside image 0" in told
    assert picture is None


def test_photographs_without_a_model(tmp_path: Path, rng: np.random.Generator) -> None:
    photographs = [tmp_path / f"{number}.png" for number in range(3)]
    for path in photographs:
        noise = rng.integers(0, 255, (40, 40), np.uint8)
        cv2.imwrite(str(path), cv2.resize(noise, (320, 320)))
    jobs = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for job in jobs:
        job.mkdir()
    told, packed, view = reconstruct_photographs(main, photographs, [*FEW[:1], "--workers=1"], jobs[0])
    assert "no model    no pair of images has matches" in told
    assert packed is None
    assert not view
    twice, *_ = reconstruct_photographs(main, [photographs[0], photographs[0]], [], jobs[1])
    assert twice == "**Error**: two photographs have the same name; rename one of them"
    none, *_ = reconstruct_photographs(main, [], [], jobs[2])
    assert none.startswith("**Error**: photographs: ")


def test_without_gradio_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app"]) == 2
    assert "pip install 'geomatch-dift[app]'" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["app", "--port", port]) == 2
    said = capsys.readouterr().err
    assert f"geomatch: 127.0.0.1:{port}: Address already in use" in said
    assert main(["app", "--host", "192.0.2.1"]) == 2  # of nobody, RFC 5737
    assert "192.0.2.1:7860: " in capsys.readouterr().err


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running page, which SIGTERM ends, and must leave nothing."""
    pytest.importorskip("gradio")
    place = tmp_path_factory.mktemp("app")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "geomatch", "app", "--port", port]
    environment = {**os.environ, "TMPDIR": str(place), "OMP_NUM_THREADS": "1"}
    environment |= dict.fromkeys(("HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9")  # there is none
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in errors
    assert not list(place.iterdir())


@pytest.fixture(scope="module")
def page(server: str) -> Iterator[Any]:
    with launched() as browser, opened(browser, server) as found:
        found.page.set_default_timeout(60_000)
        yield found


@pytest.mark.slow
def test_the_page(page: Any) -> None:
    shown, status = page.page, page.page.locator("#status")
    shown.get_by_role("button", name="Match", exact=True).click()
    status.get_by_text("Choose two images first").wait_for()
    shown.get_by_role("button", name="Take the bundled pair").click()
    shown.locator("#image1 img").wait_for()
    shown.get_by_text("More settings").click()
    shown.get_by_label("max-keypoints").fill("500")
    shown.get_by_role("button", name="Match", exact=True).click()
    status.get_by_text("Found: ").wait_for()
    text = status.inner_text()
    assert "--max-keypoints=500" in text
    assert str(PAIR.image0) in text  # so that the command works anywhere
    for name in ("warped.png", "result.json", "matches.npz"):
        shown.locator(f"a[download='{name}']").wait_for()
    shown.locator("#image0 img").click(position={"x": 150, "y": 150})
    shown.get_by_text("best match").wait_for()
    shown.locator("#heat img").wait_for(state="attached")  # it is loaded when it is scrolled to
    shown.get_by_label("max-keypoints").fill("many")
    shown.get_by_role("button", name="Match", exact=True).click()
    status.get_by_text("'many' is not a valid int").wait_for()
    assert page.requests == []
    assert page.errors == []
    assert serious(axe_findings(shown)) == []


@pytest.mark.slow
def test_a_refusal_and_a_broken_file_in_the_page(page: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    shown, status = page.page, page.page.locator("#status")
    cv2.imwrite(str(tmp_path / "noise.png"), rng.integers(0, 255, (200, 240, 3), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"no image")
    shown.reload()
    for name, said in (("broken.png", "broken.png: not an image"), ("noise.png", "Not found: ")):
        shown.get_by_role("button", name="Take the bundled pair").click()
        shown.locator("#image0 img").wait_for()
        shown.wait_for_timeout(1000)
        shown.locator("#image1 input[type=file]").set_input_files(tmp_path / name)
        shown.wait_for_timeout(1000)
        shown.get_by_role("button", name="Match", exact=True).click()
        status.get_by_text(said).first.wait_for()


@pytest.mark.slow
def test_a_model_in_the_page(page: Any, tmp_path: Path) -> None:
    write(tmp_path, views=6)
    shown = page.page
    shown.reload()
    shown.get_by_role("tab", name="Reconstruct").click()
    shown.locator("input[type=file][multiple]").set_input_files(sorted((tmp_path / "images").iterdir()))
    shown.wait_for_timeout(2000)
    shown.get_by_role("button", name="Reconstruct").click()
    shown.get_by_text(re.compile("features - ")).first.wait_for()  # the bar of the command
    shown.locator("#model-status").get_by_text("model 0").wait_for(timeout=180_000)
    shown.frame_locator("#view iframe").locator("canvas").wait_for()
    with shown.expect_download() as download:
        shown.locator("a[download='model.zip']").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        names = archive.namelist()
    assert {"summary.json", "model.html", "database.db", "sparse/0/images.bin"} <= set(names)
    assert not [name for name in names if "store" in name]
    assert page.requests == []
