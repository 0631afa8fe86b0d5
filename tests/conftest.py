"""What several test modules need."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported, which reads it once

import numpy as np
import pytest

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
