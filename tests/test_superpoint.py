"""Parity with the reference implementation, and the loading of weights."""

import hashlib
import http.server
import json
import math
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geomatch import Image, WeightsError
from geomatch.keypoints import MagicLeapSuperPoint, SuperPointDetector
from geomatch.keypoints.superpoint import SuperPointNetwork, load_superpoint
from geomatch.keypoints.tiny import load_network
from geomatch.weights.download import SUPERPOINT_V6, WeightsFile, locate_weights

GOLDEN = np.load(Path(__file__).parent / "golden" / "superpoint_v6.npz")


def seeded_state(salt: str = "geomatch-superpoint:") -> dict[str, torch.Tensor]:
    """Weights by the rule of the golden file: normal numbers seeded by each parameter's name."""
    state = {}
    for name, value in SuperPointNetwork().state_dict().items():
        if not value.is_floating_point():
            state[name] = value
            continue
        generator = torch.Generator().manual_seed(zlib.crc32((salt + name).encode()))
        r = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            state[name] = 1 + 0.1 * r.abs()
        elif value.ndim == 1:
            state[name] = 1 + 0.1 * r if name.endswith("weight") else 0.1 * r
        else:
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
    detector = SuperPointDetector(
        weights=weights,
        max_keypoints=conf["max_num_keypoints"],
        detection_threshold=conf["detection_threshold"],
    )
    keypoints, scores, descriptors = detector.detect_tensor(torch.from_numpy(GOLDEN["image"]))
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


def test_broken_and_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weights file; get it from https"):
        load_superpoint(tmp_path / "none.pth")
    (tmp_path / "bad.pth").write_bytes(b"not weights")
    with pytest.raises(WeightsError, match=r"bad.pth does not hold SuperPoint weights"):
        load_superpoint(tmp_path / "bad.pth")
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="does not hold SuperPoint"):
        load_superpoint(tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"downloads are off; download https://.* and put it at "):
        load_superpoint()


@pytest.mark.parametrize("silent", [OSError(), ValueError("\n"), KeyError()])
def test_errors_without_a_message_are_reported(
    silent: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other libraries raise them; the type is named in their place."""

    def fail(*arguments: object, **options: object) -> None:
        raise silent

    (tmp_path / "x.pth").write_bytes(b"x")
    monkeypatch.setattr("torch.load", fail)
    monkeypatch.setattr("safetensors.torch.load_file", fail)
    for load in (load_superpoint, load_network):
        with pytest.raises(WeightsError, match=rf"does not hold .*\({type(silent).__name__}\)"):
            load(tmp_path / "x.pth")


@pytest.fixture
def server(weights: Path) -> Iterator[str]:
    """A local HTTP server with the weights on it; yields its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(weights.parent))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            if not self.path.endswith("cut.pth"):
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_address[1]}"
        http_server.shutdown()


def test_download_into_the_cache(server: str, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    known = hashlib.sha256(weights.read_bytes()).hexdigest()
    file = WeightsFile(weights.name, f"{server}/{weights.name}", "MIT", known)
    path = locate_weights(file)
    assert path.read_bytes() == weights.read_bytes()
    assert sorted(p.name for p in path.parent.iterdir() if p.is_file()) == [weights.name]
    load_superpoint()  # finds it in the cache
    (path.parent / (weights.name + ".sha256")).unlink()

    wrong = replace(file, file_name="other.pth", sha256="0" * 64)
    with pytest.raises(WeightsError, match=r"cannot download other.pth .*SHA-256"):
        locate_weights(wrong)
    assert sorted(p.name for p in path.parent.iterdir() if p.is_file()) == [weights.name]
    cut = replace(file, file_name="cut.pth", url=f"{server}/cut.pth", sha256=None)
    with pytest.raises(WeightsError, match=r"got 10 of 1000 bytes"):
        locate_weights(cut)
    missing = replace(file, file_name="missing.pth", url=f"{server}/missing.pth")
    with pytest.raises(WeightsError, match="404"):
        locate_weights(missing)


def test_first_download_binds_later_reads(
    server: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    file = WeightsFile(weights.name, f"{server}/{weights.name}", "MIT", None)
    path = locate_weights(file)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match="damaged or was replaced"):
        locate_weights(file)


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
    tiny = Image(np.zeros((5, 7, 3), np.uint8), "tiny")
    assert len(MagicLeapSuperPoint(str(tmp_path / "model")).detect(tiny)) == 0
    with pytest.raises(WeightsError, match="cannot load nobody/nothing"):
        MagicLeapSuperPoint("nobody/nothing").detect(photo0)
