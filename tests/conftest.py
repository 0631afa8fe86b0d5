"""What several test modules need."""

import json
import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported, which reads it once

import numpy as np
import pytest
import torch

import geomatch
from geomatch.images import Image, load_image

SHARED = Path(__file__).parents[2] / "shared"
PAIR = geomatch.bundled_pair()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test finds the user's cache or asks a hub."""
    monkeypatch.setenv("GEOMATCH_HOME", str(tmp_path / "geomatch-cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def photo0() -> Image:
    return load_image(PAIR.image0)


@pytest.fixture(scope="session")
def photo1() -> Image:
    return load_image(PAIR.image1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def hpatches() -> Path:
    folder = SHARED / "data" / "hpatches-sequences"
    if not folder.is_dir():
        pytest.skip("the HPatches sequences of the development checkout are not here")
    return folder


def _seeded(shapes: Mapping[str, Sequence[int]], salt: str) -> dict[str, torch.Tensor]:
    """Weights by the rule of the golden files: normal numbers seeded by each parameter's name."""
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
def seeded() -> Callable[..., dict[str, torch.Tensor]]:
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
