"""The README's commands, and the Python of all pages and docstrings, run as printed."""

import doctest
import importlib
import json
import pkgutil
import pydoc
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import correspondence_data as synthetic
import cv2
import numpy as np
import pytest
import rendered_scene
import torch
from layout import PACKAGES, ROOT

import geomatch
from geomatch.benchmarks.methods.strings import create_dense_method
from geomatch.cli import main
from geomatch.demo import BundledPair
from geomatch.dift import PRESETS

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


BLOCKS = [
    [line for line in block.splitlines() if line.startswith("geomatch ")]
    for block in blocks(ROOT / "README.md", "sh")
]
NO_MODEL = ("geomatch triangulate", "geomatch localize", "geomatch colmap outputs")
DOWNLOADS = ("geomatch data hpatches ", "geomatch data spair ")


def is_slow(line: str) -> bool:
    """True for a command that starts processes."""
    return "--workers 2" in line or "--engine ray" in line


LINES = [
    pytest.param(
        number,
        place,
        id=line.partition("#")[0].strip(),
        marks=[pytest.mark.slow] if is_slow(line) else [],
    )
    for number, block in enumerate(BLOCKS)
    for place, line in enumerate(block)
    if not line.startswith(DOWNLOADS)
]


@dataclass
class Workplace:
    """A folder with everything that the README's commands name, small."""

    folder: Path
    pair: BundledPair
    codes: dict[str, int] = field(default_factory=dict)

    def run(self, number: int, place: int, wanted: bool = True) -> int:
        """Run a command of a block after those that come before it there, each once.

        Those before start no processes, and download nothing."""
        if place:
            self.run(number, place - 1, wanted=False)
        command = BLOCKS[number][place].partition("#")[0].replace("512x512", "128x128")
        if not wanted:
            command = command.replace("--workers 2", "").replace("--engine ray", "")
        if command not in self.codes:
            self.codes[command] = 0 if command.startswith(DOWNLOADS) else main(shlex.split(command)[1:])
        return self.codes[command]


@pytest.fixture(scope="module")
def workplace(
    tmp_path_factory: pytest.TempPathFactory, small_sd: Path, seeded: Callable[..., dict[str, torch.Tensor]]
) -> Workplace:
    """Photographs of 200x150, models of small width with random weights, data sets of three images."""
    folder = tmp_path_factory.mktemp("readme")
    pair = geomatch.bundled_pair()
    names = ("a.jpg", "b.jpg"), ("1.jpg", "2.jpg"), ("image0.jpg", "image1.jpg")
    for place, path in enumerate((pair.image0, pair.image1)):
        reduced = cv2.resize(cv2.imread(str(path)), (200, 150), interpolation=cv2.INTER_AREA)
        jpeg = cv2.imencode(".jpg", reduced)[1].tobytes()
        for where, name in zip((".", "hpatches-sequences/v_demo", "photos"), names, strict=True):
            (folder / where).mkdir(parents=True, exist_ok=True)
            (folder / where / name[place]).write_bytes(jpeg)
    scale = np.diag([200 / 640, 150 / 480, 1])
    truth = scale @ pair.homography @ np.linalg.inv(scale)
    np.savetxt(folder / "hpatches-sequences" / "v_demo" / "H_1_2", truth)
    home = folder / "hub" / "models--sd2-community--stable-diffusion-2-1"
    shutil.copytree(small_sd, home / "snapshots" / "0123")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0123")
    shapes = json.loads(str(np.load(ROOT / "tests" / "golden" / "adm_tiny.npz")["state_dict_shapes"]))
    torch.save(seeded(dict(shapes), "geomatch-adm:"), folder / "256x256_diffusion_uncond.pt")
    small = geomatch.load_image(folder / "a.jpg").pixels
    motions = [synthetic.moved(0, 0), synthetic.moved(4, -2), synthetic.moved(8, -4)]
    synthetic.make_spair(folder / "SPair-71k", small, motions)
    synthetic.make_davis(folder / "DAVIS", small, {"walk": motions})
    walk = cv2.VideoWriter(str(folder / "walk.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, synthetic.SIZE)
    for motion in motions:
        walk.write(np.ascontiguousarray(synthetic.view(small, motion)[..., ::-1]))
    walk.release()
    (folder / "pairs.txt").write_text("a.jpg b.jpg\n")
    synthetic.save(folder / "objects.png", synthetic.first_mask())
    painted = np.zeros((*small.shape[:2], 4), np.uint8)
    painted[55:85, 80:120] = 255, 200, 0, 200
    synthetic.save(folder / "edit.png", painted)
    images = folder / "photos" / "image0.jpg", folder / "photos" / "image1.jpg"
    return Workplace(folder, BundledPair(*images, truth, pair.credit))


@pytest.fixture
def here(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    """Everything small: the bundled pair, what presets look at, views; one worker, and no charts."""
    monkeypatch.chdir(workplace.folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(workplace.folder / "hub"))
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    monkeypatch.setattr("geomatch.training.VIEW_SIZE", (320, 240))
    monkeypatch.setattr("geomatch.benchmarks.harness.report.draw_curves", lambda *_: "")
    monkeypatch.setattr("geomatch.bundled_pair", lambda: workplace.pair)
    for name, config in PRESETS.items():
        size = config.image_size
        if config.sampling == "dense":
            small = (128, 128) if isinstance(size, tuple) else 128
            monkeypatch.setitem(PRESETS, name, replace(config, image_size=small))
    yield workplace
    create_dense_method.cache_clear()  # other tests want the presets as they are


@pytest.mark.parametrize(("number", "place"), LINES)
def test_readme_command(
    number: int,
    place: int,
    here: Workplace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = BLOCKS[number][place]
    code = here.run(number, place)
    # random weights need not find a homography, and two views of one plane are no model: 1 says so
    random = line.startswith("geomatch match") and "--descriptor" in line
    allowed = (0, 1) if random or line.startswith("geomatch reconstruct") else (0,)
    told = capsys.readouterr().err
    if line.startswith(NO_MODEL):  # two views of a plane make none
        assert "no COLMAP model there" in told
        allowed = (2,)
    assert code in allowed, told


@pytest.mark.slow
def test_pages_about_models_run_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their commands, page after page, on views of a courtyard, one of which is new to the model."""
    rendered_scene.write(tmp_path / "courtyard", 8, 320)
    (tmp_path / "more").mkdir()
    view = tmp_path / "courtyard" / "images" / "view04.jpg"
    shutil.copy(view, tmp_path / "more" / "other.jpg")
    view.rename(tmp_path / "new.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    for name in ("colmap", "outputs", "localize"):
        lines = [line for block in blocks(ROOT / "docs" / f"{name}.md", "sh") for line in block.splitlines()]
        assert lines
        for line in lines:
            assert main(shlex.split(line.partition("#")[0])[1:]) == 0, line


def test_readme_shows_every_command() -> None:
    shown = {line.split()[1] for block in BLOCKS for line in block}
    from geomatch.cli import app

    assert set(app.commands) <= shown


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        *((f"README.md, block {n}", [code]) for n, code in enumerate(blocks(PAGES[0], "python"), 1)),
        *((page.name, found) for page in PAGES[1:] if (found := blocks(page, "python"))),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_python_runs_as_printed(
    name: str, codes: list[str], here: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block of the README alone, those of another page one after the other, as one script."""
    assert codes
    monkeypatch.chdir(tmp_path)
    script = {"__name__": "__main__"}
    for number, code in enumerate(codes, 1):
        exec(compile(code, f"{name}, block {number} of {len(codes)}", "exec"), script)


def test_names_on_pages_are_there() -> None:
    """Every dotted name in backticks, and every path of the repository."""
    for page in [*ROOT.glob("*.md"), *PAGES[1:]]:
        text = page.read_text()
        for name in re.findall(r"`(?:python -m )?(geomatch(?:\.\w+)+)", text):
            assert pydoc.locate(name) is not None, f"{page.name}: {name}"
        for name in re.findall(r"`((?:geomatch|keypoints|estimators|benchmarks|tests)/[\w./-]+)`", text):
            assert "NAME" in name or "VERSION" in name or (ROOT / name).exists(), f"{page.name}: {name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_doctests(package: str, request: pytest.FixtureRequest) -> None:
    if package == "geomatch":  # on the small pair
        request.getfixturevalue("here")
    root = importlib.import_module(package)
    names = [package, *(f"{package}.{m.name}" for m in pkgutil.iter_modules(root.__path__) if not m.ispkg)]
    for name in names:
        if name.endswith("__main__"):
            continue
        failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
        assert failed == 0, name
