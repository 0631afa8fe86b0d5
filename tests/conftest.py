"""What several test modules need."""

import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported, which reads it once
# tests run in one process per core, and so do the processes that they start
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
from numpy.typing import NDArray
from small_photos import FAST, SIZE

import geomatch
from geomatch import Pipeline
from geomatch.images import Image, load_image, reduce_image

SHARED = Path(__file__).parents[2] / "shared"
PAIR = geomatch.bundled_pair()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests run in one process, which share fixtures, and so do those of all that load diffusers.

    The groups of pytest-xdist 3.8 are none under pytest 9.2, which ignores the names that it gives.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "diffusers" if _loads_diffusers(config.rootpath / file) else file

    return ByFile(config, log)


@cache
def _loads_diffusers(file: Path) -> bool:
    return re.search("small_sd|diffusers|denoise", file.read_text(encoding="utf-8")) is not None


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test finds the user's cache or asks a hub."""
    monkeypatch.setenv("GEOMATCH_HOME", str(tmp_path / "geomatch-cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pretend", action="store_true", help="device 'auto' is that of helpers/pretend_device.py"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--pretend"):
        from pretend_device import pretend_device

        import geomatch.devices

        name, find = pretend_device(), geomatch.devices.find_device
        geomatch.devices.find_device = lambda device: find(name if device == "auto" else device)


@pytest.fixture(scope="session")
def photo0() -> Image:
    return load_image(PAIR.image0)


@pytest.fixture(scope="session")
def photo1() -> Image:
    return load_image(PAIR.image1)


@pytest.fixture(scope="session")
def small(photo0: Image) -> NDArray[np.uint8]:
    return reduce_image(photo0, SIZE[0]).pixels


@pytest.fixture(scope="session")
def pipeline() -> Pipeline:
    return Pipeline(**FAST)  # type: ignore[arg-type]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def dying() -> Callable[..., Callable[..., Any]]:
    """A function that does as another one, until it is interrupted in its n-th call."""

    def wrapped(function: Callable[..., Any], n: int) -> Callable[..., Any]:
        calls: list[int] = []

        def dies(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == n:
                raise KeyboardInterrupt
            return function(*arguments)

        return dies

    return wrapped


@pytest.fixture
def hpatches() -> Path:
    folder = SHARED / "data" / "hpatches-sequences"
    if not folder.is_dir():
        pytest.skip("the HPatches sequences of the development checkout are not here")
    return folder


@pytest.fixture
def sfm() -> Callable[[str], Path]:
    """Folders of photographs that lie beside a development checkout."""

    def folder(place: str) -> Path:
        found = SHARED / "data" / "sfm" / place
        if not found.is_dir():
            pytest.skip("the photographs of the development checkout are not here")
        return found

    return folder


def _seeded(shapes: Mapping[str, Sequence[int]], salt: str) -> dict[str, Any]:
    """Weights by the rule of the golden files: normal numbers seeded by each parameter's name."""
    import torch  # which pytest-xdist's own process, that runs no tests, need not load

    state = {}
    for name, shape in shapes.items():
        generator = torch.Generator().manual_seed(zlib.crc32((salt + name).encode()))
        r = torch.randn(tuple(shape), generator=generator)
        if r.ndim == 1:
            state[name] = 1 + 0.1 * r if name.endswith("weight") else 0.1 * r
        else:
            state[name] = r / math.sqrt(r[0].numel())
    return state


@pytest.fixture(scope="session")
def seeded() -> Callable[..., dict[str, Any]]:
    return _seeded


@pytest.fixture(scope="session")
def small_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion pipeline of small width, as ``save_pretrained`` leaves it.

    Only prompt embeddings may be added to it."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    golden = np.load(Path(__file__).parent / "golden" / "sd_tiny.npz")
    folder = tmp_path_factory.mktemp("small-sd")

    def save(network: Any, name: str) -> None:
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        network.load_state_dict(_seeded(shapes, f"geomatch-sd:{name}:"))
        network.save_pretrained(folder / name)

    save(UNet2DConditionModel.from_config(json.loads(str(golden["unet_config"]))), "unet")
    save(AutoencoderKL.from_config(json.loads(str(golden["vae_config"]))), "vae")
    DDIMScheduler.from_config(json.loads(str(golden["scheduler_config"]))).save_pretrained(
        folder / "scheduler"
    )
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    try:
        from transformers import CLIPTextConfig, CLIPTextModel
    except ImportError:
        return folder
    save(CLIPTextModel(CLIPTextConfig(**json.loads(str(golden["text_encoder_config"])))), "text_encoder")
    # the files that Stable Diffusion's repositories have
    letters = [chr(97 + i) for i in range(26)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: index for index, word in enumerate(words)}
    special = {"bos_token": words[0], "eos_token": words[1], "pad_token": words[1], "unk_token": words[1]}
    contents = {
        "vocab.json": json.dumps(vocabulary),
        "merges.txt": "#version: 0.2\n",
        "special_tokens_map.json": json.dumps(special),
        "tokenizer_config.json": json.dumps(
            special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
        ),
    }
    (folder / "tokenizer").mkdir()
    for name, content in contents.items():
        (folder / "tokenizer" / name).write_text(content)
    return folder


@pytest.fixture(scope="session")
def workplace(
    tmp_path_factory: pytest.TempPathFactory, small_sd: Path, seeded: Callable[..., dict[str, Any]]
) -> Any:
    """What commands on pages name, small; see helpers/pages.py."""
    import pages

    return pages.make_workplace(tmp_path_factory.mktemp("pages") / "material", small_sd, seeded)


@pytest.fixture
def here(workplace: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The workplace, in its folder, with everything small."""
    import pages

    yield from (workplace for _ in pages.everything_small(workplace, monkeypatch))


@dataclass(frozen=True)
class Scene:
    """A folder of (black) images, what is seen in them, and the true model."""

    folder: Path
    correspondences: Any
    truth: Any

    def changed(self, **parts: Any) -> "Scene":
        """With other features or pairs."""
        return replace(self, correspondences=replace(self.correspondences, **parts))

    def export(self, path: Path, **options: Any) -> Any:
        """To a database."""
        from geomatch.colmap import export_database
        from geomatch.engine import LocalEngine, RunContext

        context = RunContext(engine=LocalEngine(1), progress=False)
        return export_database(self.folder, self.correspondences, path, context=context, **options)


@pytest.fixture
def make_scene(tmp_path: Path) -> Callable[..., Scene]:
    """Views of random points, made by COLMAP: its own keypoints in our coordinates, all matches right."""

    def make(
        frames: int = 6, points: int = 300, rename: Callable[[str], str] = str, cameras: int = 1
    ) -> Scene:
        import cv2

        from geomatch.cameras import pycolmap
        from geomatch.collection import Correspondences, MatchedPair

        library = pycolmap()
        folder = tmp_path / "scene"
        folder.mkdir()
        library.set_random_seed(1)
        options = library.SyntheticDatasetOptions()
        options.num_rigs, options.num_cameras_per_rig = 1, cameras
        options.num_frames_per_rig, options.num_points3D = frames, points
        with library.Database.open(str(tmp_path / "truth.db")) as database:
            truth = library.synthesize_dataset(options, database)
            names = {image.image_id: rename(image.name) for image in database.read_all_images()}
            features, pairs = {}, []
            for image in database.read_all_images():
                camera = database.read_camera(image.camera_id)
                rows = database.read_keypoints(image.image_id)[:, :2] - np.float32(0.5)
                size = (camera.width, camera.height)
                name = names[image.image_id]
                features[name] = geomatch.Features(rows, np.ones(len(rows), np.float32), size)
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                _, code = cv2.imencode(".png", np.zeros(size[::-1], np.uint8))
                (folder / name).write_bytes(code.tobytes())
            for i in names:
                for j in names:
                    if i < j:
                        indices = database.read_matches(i, j).astype(np.int64)
                        matches = geomatch.Matches(indices, np.ones(len(indices), np.float32))
                        pairs.append(MatchedPair(names[i], names[j], matches))
        return Scene(folder, Correspondences(features, pairs), truth)

    return make


@pytest.fixture
def small_views(tmp_path: Path, photo0: "geomatch.Image") -> Path:
    """A folder of four small photographs of one place."""
    import cv2

    folder = tmp_path / "views"
    folder.mkdir()
    rng = np.random.default_rng(5)
    corners = np.float32([[0, 0], [320, 0], [320, 240], [0, 240]])  # type: ignore[call-overload, call-arg]
    picture = cv2.resize(photo0.pixels[..., ::-1], (320, 240), interpolation=cv2.INTER_AREA)
    for number in range(4):
        moved = corners + rng.uniform(-15, 15, (4, 2)).astype(np.float32) * (number > 0)
        view = cv2.warpPerspective(picture, cv2.getPerspectiveTransform(corners, moved), (320, 240))
        (folder / f"view{number}.png").write_bytes(cv2.imencode(".png", view)[1].tobytes())
    return folder
