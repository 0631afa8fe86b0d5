"""Parity with the reference implementation, and the loading of weights."""

import json
import math
import shutil
import zlib
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from geomatch import Image, WeightsError
from geomatch.keypoints import MagicLeapSuperPoint, SuperPointDetector
from geomatch.keypoints.superpoint import SuperPointNetwork
from geomatch.keypoints.tiny import load_network
from geomatch.places import cache_folder
from geomatch.weights.download import SUPERPOINT_V6

GOLDEN = np.load(Path(__file__).parent / "golden" / "superpoint_v6.npz")


def seeded_state() -> dict[str, torch.Tensor]:
    """Weights by the rule of the golden file: normal numbers seeded by each parameter's name."""
    state = SuperPointNetwork().state_dict()
    for name, value in state.items():
        seed = zlib.crc32(f"geomatch-superpoint:{name}".encode())
        r = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed))
        if name.endswith("running_var"):
            state[name] = 1 + 0.1 * r.abs()
        elif value.ndim == 1:
            state[name] = 1 + 0.1 * r if name.endswith("weight") else 0.1 * r
        elif value.ndim > 1:
            state[name] = r * math.sqrt(2 / value[0].numel())
    return state


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / SUPERPOINT_V6.file_name
    torch.save(seeded_state(), path)
    return path


def test_golden_output(weights: Path) -> None:
    shapes = {name: list(value.shape) for name, value in SuperPointNetwork().state_dict().items()}
    assert shapes == json.loads(str(GOLDEN["state_dict_shapes"]))
    conf = json.loads(str(GOLDEN["conf"]))
    least, most = conf["detection_threshold"], conf["max_num_keypoints"]
    detector = SuperPointDetector(weights=weights, max_keypoints=most, detection_threshold=least)
    keypoints, scores, descriptors = detector.search(torch.from_numpy(GOLDEN["image"]))
    np.testing.assert_array_equal(keypoints.numpy(), GOLDEN["keypoints"])
    np.testing.assert_allclose(scores.numpy(), GOLDEN["scores"], rtol=1e-4)
    np.testing.assert_allclose(descriptors.numpy(), GOLDEN["descriptors"], atol=1e-4)


def test_detecting_on_images(weights: Path, photo0: Image) -> None:
    found = SuperPointDetector(weights=weights, max_keypoints=100).detect(photo0)
    assert 0 < len(found) <= 100
    assert found.descriptors is not None
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-5)
    tiny = Image(np.zeros((5, 7, 3), np.uint8), "tiny")
    assert len(SuperPointDetector(weights=weights).detect(tiny)) == 0


def load_superpoint(path: Path | None = None) -> SuperPointNetwork:
    return SuperPointDetector(path).network


def test_broken_and_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weights file; get it from https"):
        load_superpoint(tmp_path / "none.pth")
    (tmp_path / "bad.pth").write_bytes(b"not weights")
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pth")
    for name in ("bad", "other"):
        with pytest.raises(WeightsError, match=rf"{name}.pth: not a readable file of weights of SuperPoint"):
            load_superpoint(tmp_path / f"{name}.pth")
    with pytest.raises(WeightsError, match=r"downloads are off; download https://.* and put it at "):
        load_superpoint()


def test_errors_without_a_message_are_reported_by_their_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.pth").write_bytes(b"x")
    for silent in (OSError(), ValueError("\n"), KeyError()):
        monkeypatch.setattr("torch.load", Mock(side_effect=silent))
        monkeypatch.setattr("geomatch.keypoints.tiny.load_tensors", Mock(side_effect=silent))
        for load in (load_superpoint, load_network):
            with pytest.raises(WeightsError, match=rf"not a readable .*\({type(silent).__name__}\)"):
                load(tmp_path / "x.pth")


def test_weights_in_the_cache_are_found(weights: Path) -> None:
    cache_folder().mkdir(parents=True)
    shutil.copy(weights, cache_folder())
    assert SuperPointDetector()._files() == [cache_folder() / weights.name]
    assert SuperPointDetector().network.stride == 8


def test_magic_leap_weights_through_transformers(tmp_path: Path, photo0: Image) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SuperPointConfig(keypoint_threshold=0.0)
    transformers.SuperPointForKeypointDetection(config).save_pretrained(tmp_path / "model")
    part = Image(photo0.pixels[200:320, 200:360], "part")
    found = MagicLeapSuperPoint(str(tmp_path / "model"), max_keypoints=50).detect(part)
    assert len(found) == 50
    assert found.descriptors is not None
    assert found.descriptors.shape == (50, 256)
    # whole pixels, well inside, not relative coordinates
    np.testing.assert_allclose(found.keypoints, np.round(found.keypoints), atol=1e-3)
    assert found.keypoints.max() > 100
    try:
        torch.set_default_dtype(torch.bfloat16)  # transformers would round places to it
        with pytest.raises(ValueError, match=r"would round to torch's default dtype, torch\.bfloat16"):
            MagicLeapSuperPoint(str(tmp_path / "model")).detect(part)
    finally:
        torch.set_default_dtype(torch.float32)
    tiny = Image(np.zeros((5, 7, 3), np.uint8), "tiny")
    assert len(MagicLeapSuperPoint(str(tmp_path / "model")).detect(tiny)) == 0
    with pytest.raises(WeightsError, match="nobody/nothing is not in the cache of huggingface_hub"):
        MagicLeapSuperPoint("nobody/nothing").detect(photo0)
