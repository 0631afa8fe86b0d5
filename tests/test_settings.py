"""Whatever the process is set to: the same answers, no crash, and nothing is set otherwise afterwards."""

import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import PIL.Image
import pytest
import torch

import geomatch
from geomatch import DIFTConfig, DIFTExtractor, Features, GeomatchError, Image, WeightsError, places
from geomatch.cli import main
from geomatch.describers import release
from geomatch.dift import PRESETS
from geomatch.dift.head.projection import LinearHead, load_head
from geomatch.dift.maps.transfer import transfer_points
from geomatch.drawing.similarity import principal_components
from geomatch.estimators import create_estimator
from geomatch.keypoints import (
    GridDetector,
    MagicLeapSuperPoint,
    MixedDetector,
    OpenCVDetector,
    SuperPointDetector,
    TinyDetector,
)
from geomatch.keypoints.superpoint import SuperPointNetwork
from geomatch.places import cache_folder, cached_path, hub_caches
from geomatch.store import Store
from geomatch.training import fit_head
from geomatch.video.propagation import LabelPropagator, PropagationConfig
from geomatch.weights.hub import hub_folder

Arrays = list[np.ndarray]
Use = Callable[[], Arrays]
SIDE = 96


@contextmanager
def changed(change: Callable[[Any], object], value: Any, back: Any) -> Iterator[None]:
    change(value)
    try:
        yield
    finally:
        change(back)


dtype = partial(changed, torch.set_default_dtype, back=torch.float32)
SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: dtype(torch.float64),
    "bfloat16": lambda: dtype(torch.bfloat16),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default device": lambda: changed(torch.set_default_device, "meta", None),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "deterministic": lambda: changed(torch.use_deterministic_algorithms, True, False),
}
QUICK = ("float64", "autocast", "default device")  # those that went wrong most; the others are slow tests
KERNELS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "matmul precision": lambda: changed(torch.set_float32_matmul_precision, "medium", "highest"),
    "threads": lambda: changed(torch.set_num_threads, 2, 1),
}


@cache
def views() -> tuple[Image, Image]:
    pixels = geomatch.load_image(geomatch.bundled_pair().image0).pixels
    small = cv2.resize(pixels, (160, 120), interpolation=cv2.INTER_AREA)
    parts = small[:SIDE, :SIDE], small[3 : SIDE + 3, 5 : SIDE + 5]
    first, second = (Image(np.ascontiguousarray(part, np.uint8), "view") for part in parts)
    return first, second


@cache
def points() -> Features:
    return OpenCVDetector("sift", 30).detect(views()[0])


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, small_sd: Path) -> dict[str, Callable[[], Use]]:
    """What makes a part; what it made is called to use it."""
    from diffusers import UNet2DModel

    folder = tmp_path_factory.mktemp("settings")
    state = SuperPointNetwork().state_dict()
    for name, value in state.items():
        if value.ndim > 1:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            state[name] = torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5
    torch.save(state, folder / "superpoint.pth")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        kinds = ("DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")
        widths = {
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 4,
        }
        UNet2DModel(down_block_types=kinds[0], up_block_types=kinds[1], **widths).save_pretrained(
            folder / "pixels"
        )
    pixels = DIFTConfig(str(folder / "pixels"), 51, (0, 1), image_size=48, ensemble_size=2, device="cpu")
    sd = DIFTConfig(str(small_sd), 51, (1, 2), image_size=None, latent="sample", device="cpu")
    dense = replace(PRESETS["dift-tiny-dense"], device="cpu")
    superpoint = partial(SuperPointDetector, folder / "superpoint.pth", 50)
    return {
        "mixed": lambda: detecting(MixedDetector(max_keypoints=50)),
        "superpoint-tiny": lambda: detecting(TinyDetector(max_keypoints=50)),
        "superpoint": lambda: detecting(superpoint()),
        "superpoint's descriptors": lambda: describing(superpoint()),
        "dift-tiny": lambda: describing(DIFTExtractor(replace(PRESETS["dift-tiny"], device="cpu"))),
        "dift-tiny-dense": lambda: describing(DIFTExtractor(dense)),
        "stable diffusion": lambda: describing(DIFTExtractor(sd)),
        "stable diffusion in bfloat16": lambda: describing(DIFTExtractor(replace(sd, dtype="bfloat16"))),
        "pixel unet": lambda: describing(DIFTExtractor(pixels)),
        "match": lambda: release() or matching,
        "kornia": lambda: partial(estimating, "kornia"),
        "no network": lambda: without_network,
        "fitted head": lambda: partial(fitting, folder),
        "transfer": lambda: partial(transferring, DIFTExtractor(dense)),
        "propagation": lambda: partial(propagating, DIFTExtractor(dense)),
    }


def arrays_of(features: Features) -> Arrays:
    found = (
        getattr(features, name) for name in ("keypoints", "scores", "scales", "orientations", "descriptors")
    )
    return [array for array in found if array is not None]


def detecting(detector: Any) -> Use:
    return lambda: arrays_of(detector.detect(views()[0]))


def without_network() -> Arrays:
    return [*detecting(OpenCVDetector("sift", 50))(), *detecting(GridDetector())(), *estimating("poselib")]


def describing(describer: Any) -> Use:
    def use() -> Arrays:
        rows = describer.describe(views()[0], points()).descriptors
        return [rows, np.array(getattr(describer, "dimension", 0))]

    return use


def matching() -> Arrays:
    found = geomatch.match(*(image.pixels for image in views()), max_keypoints=40)
    assert found.homography
    return [*arrays_of(found.features1), found.points0, found.homography.matrix]


def estimating(name: str) -> Arrays:
    rng = np.random.default_rng(0)
    first = rng.uniform(0, SIDE, (60, 2))
    second = geomatch.warp_points(np.array([[1, 0.05, 3], [-0.05, 1, 2], [1e-4, 0, 1]]), first)
    second[45:] = rng.uniform(0, SIDE, (15, 2))
    found = create_estimator(name, 3.0).estimate(first, second, (SIDE, SIDE))
    assert found
    return [found.matrix, found.inliers]


def fitting(folder: Path) -> Arrays:
    rng = np.random.default_rng(1)
    first = rng.normal(size=(300, 12)).astype(np.float32)
    fit_head(first, first + 0.1 * rng.normal(size=first.shape).astype(np.float32), 4, {}).save(folder)
    head = load_head(folder / "head.safetensors")
    assert isinstance(head, LinearHead)
    return [head.mean, head.projection]


def transferring(extractor: DIFTExtractor) -> Arrays:
    first, second = (extractor.dense(image) for image in views())
    found = [
        transfer_points(first, second, np.array([[20.0, 30], [50, 50]]), "l2", r)
        for r in ("argmax", "soft-argmax")
    ]
    return [*(one.points for one in found), principal_components(first)]


def propagating(extractor: DIFTExtractor) -> Arrays:
    first, second = (extractor.dense(image).maps[0] for image in views())
    labels = torch.from_numpy(np.eye(*first.shape[1:], dtype=np.float32)[None])
    return [LabelPropagator(PropagationConfig(), first, labels).step(second).numpy()]


@pytest.fixture(scope="module")
def answer(parts: dict[str, Callable[[], Use]]) -> Callable[[str], Arrays]:
    """A part's answer with nothing set."""
    return cache(lambda name: parts[name]()())


def state() -> list[object]:
    return [
        torch.get_default_dtype(), torch.get_default_device(), torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        torch.random.get_rng_state().numpy().tobytes(), str(np.random.get_state()), cv2.getNumThreads(),
    ]  # fmt: skip


PARTS = (
    "no network", "mixed", "superpoint-tiny", "superpoint", "superpoint's descriptors", "dift-tiny",
    "dift-tiny-dense", "stable diffusion", "stable diffusion in bfloat16", "pixel unet", "match", "kornia",
    "fitted head", "transfer", "propagation",
)  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "setting",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in ["nothing", *SETTINGS]],
)
def test_same_answer_and_nothing_changed(
    part: str, setting: str, parts: dict[str, Callable[[], Use]], answer: Callable[[str], Arrays]
) -> None:
    """Bit for bit, also when what was loaded under the setting is used without it, and again with it."""
    wanted = answer(part)
    with SETTINGS.get(setting, nullcontext)():
        before = state()
        use = parts[part]()
        within = use()
        assert state() == before
    again = use()
    for found in (within, again):
        assert [(array.dtype, array.shape) for array in found] == [
            (array.dtype, array.shape) for array in wanted
        ]
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["dift-tiny", "dift-tiny-dense", "stable diffusion", "pixel unet", "kornia"])
@pytest.mark.parametrize("setting", KERNELS)
def test_settings_that_choose_other_kernels(
    part: str, setting: str, parts: dict[str, Callable[[], Use]], answer: Callable[[str], Arrays]
) -> None:
    wanted = answer(part)
    with KERNELS[setting]():
        found = parts[part]()()
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=5e-3)


FORKED = """
import multiprocessing, sys
import torch
import geomatch
from geomatch.keypoints import OpenCVDetector

image = geomatch.load_image(geomatch.bundled_pair().image0)
features = OpenCVDetector("sift", 100).detect(image)
describer = geomatch.DIFTExtractor()

def describe(threads):
    torch.set_num_threads(threads)
    try:
        print(len(describer.describe(image, features).descriptors), flush=True)
    except geomatch.GeomatchError as error:
        print(error, flush=True)

describe(2)
for threads in (2, 1):
    child = multiprocessing.get_context("fork").Process(target=describe, args=(threads,))
    child.start()
    child.join()
"""


def run_script(text: str, folder: Path, **environment: str) -> list[str]:
    (folder / "script.py").write_text(text)
    command, variables = [sys.executable, "script.py"], {**os.environ, **environment}
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_forked_process_says_why_it_would_hang(tmp_path: Path) -> None:
    parent, two, one = run_script(FORKED, tmp_path, OMP_NUM_THREADS="2")
    assert parent == one == "100"
    assert "forked" in two
    assert "get_context('spawn')" in two


@pytest.mark.slow
def test_the_loader_of_the_page(tmp_path: Path) -> None:
    """It describes in spawned processes what is found in this one."""
    page = (Path(__file__).parents[1] / "docs" / "settings.md").read_text()
    [script] = re.findall(r'```py skip="starts processes"\n(.*?)```', page, re.DOTALL)
    photos, counts = tmp_path / "photos", []
    photos.mkdir()
    for number, view in enumerate(views()):
        PIL.Image.fromarray(view.pixels).save(photos / f"{number}.png")
        counts.append(len(MixedDetector(max_keypoints=500).detect(view)))
    script = script.replace("*.jpg", "*.png")
    assert run_script(script, tmp_path, PYTHONWARNINGS="error::UserWarning") == [
        f"{count} torch.Size([{count}, 128])" for count in counts
    ]


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without name or home; returns the folder of temporary files."""
    for name in ("HOME", "GEOMATCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", Mock(side_effect=KeyError("getpwuid(): uid not found: 54321")))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "~/.cache/huggingface/hub")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    places._temporary.cache_clear()
    return tmp_path


def test_without_a_home_the_cache_is_temporary(homeless: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = homeless / f"geomatch-{os.getuid()}"
    for _ in range(2):
        assert cache_folder() == own
        assert cached_path("weights.pth") == own / "weights.pth"
        assert hub_caches() == [own / "huggingface"]
    assert own.stat().st_mode & 0o777 == 0o700
    assert caplog.messages == [f"~ is nobody's home; files are kept in {own}"]
    with pytest.raises(WeightsError, match="not in the cache"):
        hub_folder("nobody/nothing", None, [["*"]], lambda folder: ["all"])
    assert main(["models"]) == 0
    assert [path.name for path in homeless.iterdir()] == [own.name]


def test_somebody_elses_temporary_folder_is_not_used(homeless: Path) -> None:
    own = homeless / f"geomatch-{os.getuid()}"
    (homeless / "elsewhere").mkdir()
    own.symlink_to(homeless / "elsewhere")
    assert cache_folder() != own
    assert cache_folder().parent == homeless


def test_caches_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is there is read, other files go to the temporary folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    places._temporary.cache_clear()
    own = tmp_path / f"geomatch-{os.getuid()}"
    monkeypatch.setenv("GEOMATCH_HOME", "/dev/null/geomatch")
    assert cache_folder() == own
    monkeypatch.setenv("GEOMATCH_HOME", "~nosuch/geomatch")
    assert cache_folder() == own
    locked, allowed = tmp_path / "locked", os.access
    locked.mkdir()
    (locked / "there.pth").touch()
    monkeypatch.setenv("GEOMATCH_HOME", str(locked))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(locked / "hub"))
    assert cached_path("absent.pth") == locked / "absent.pth"
    monkeypatch.setattr(
        "os.access", lambda path, mode: allowed(path, mode) and (path != locked or not mode & os.W_OK)
    )
    assert cache_folder() == locked
    assert cached_path("there.pth") == locked / "there.pth"
    assert cached_path("absent.pth") == own / "absent.pth"
    assert hub_caches() == [locked / "hub", own / "huggingface"]
    assert [message.partition(";")[0] for message in caplog.messages] == [
        "/dev/null/geomatch cannot be written to",
        "~nosuch/geomatch is nobody's home",
        f"{locked} cannot be written to",
        f"{locked / 'hub'} cannot be written to",
    ]


@pytest.mark.parametrize("path", ["~nosuch/x", "~/x"])
def test_homes_that_are_not_there(path: str, homeless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, wherever a path is given."""
    line = f"{path}: {path.partition('/')[0]} is nobody's home; write the whole path"
    pair = geomatch.bundled_pair()
    assert main(["match", str(pair.image0), str(pair.image1), "--descriptor", path]) == 2
    assert capsys.readouterr().err == f"geomatch: {line}\n"
    places_of: list[Callable[[], object]] = [
        lambda: Store.at(path),
        lambda: SuperPointDetector(path).network,
        lambda: MagicLeapSuperPoint(path).cache_key(),
        lambda: DIFTExtractor(DIFTConfig(path)).load_networks(),
        lambda: DIFTExtractor(DIFTConfig(head=path)).load_networks(),
        lambda: DIFTExtractor(DIFTConfig(unet_file=path)).load_networks(),
    ]
    for place in places_of:
        with pytest.raises(GeomatchError, match=re.escape(line)):
            place()
