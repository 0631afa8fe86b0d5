"""Projection heads: exact files, a fit that goes on, and a gain that photographs show."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from network_heads import save_network_head
from PIL import Image as PILImage
from safetensors.torch import load, save_file

import geomatch
from geomatch import GeomatchError, Image, WeightsError
from geomatch.cli import main
from geomatch.dift import PRESETS, DIFTConfig, DIFTExtractor
from geomatch.dift.head.distilled import PatchNetwork
from geomatch.dift.head.projection import LinearHead, NetworkHead, load_head
from geomatch.dift.inputs import network_patches
from geomatch.images import load_image
from geomatch.keypoints import OpenCVDetector
from geomatch.tensors import upload_features
from geomatch.training import fit_on_images
from geomatch.weights.adm import convert_adm
from geomatch.weights.folders import HEAD_FILES
from geomatch.weights.sources import model_folder

TINY = replace(PRESETS["dift-tiny"], head=False, device="cpu")
SMALL = replace(TINY, layers=("down_blocks.1.resnets.0",))


@pytest.fixture(scope="module", autouse=True)
def _small_views() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geomatch.training.VIEW_SIZE", (320, 240))
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two free photographs, small."""
    folder = tmp_path_factory.mktemp("photos")
    pair = geomatch.bundled_pair()
    for name, path in (("a", pair.image0), ("b", pair.image1)):
        PILImage.open(path).convert("RGB").resize((400, 300)).save(folder / f"{name}.png")
    return folder


def test_linear_head_keeps_what_it_was_fitted_on(tmp_path: Path, rng: np.random.Generator) -> None:
    head = LinearHead(np.zeros(6), np.eye(6)[:, :2], {"timestep": 3}, {"images": ["ab"], "pairs": 9})
    head.save(tmp_path)
    loaded = load_head(tmp_path / HEAD_FILES["patch"])
    assert (loaded.settings, loaded.training) == ({"timestep": 3}, {"images": ["ab"], "pairs": 9})
    np.testing.assert_array_equal(loaded.projection, head.projection)
    with pytest.raises(ValueError, match="it is another network's"):
        loaded.apply(rng.normal(size=(4, 5)).astype(np.float32))


def test_any_bit_of_a_head_file_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of either kind, and of the one that comes with the package."""
    linear = LinearHead(np.zeros(6), np.eye(6)[:, :2], {"timestep": 3}, {"images": ["ab"], "pairs": 9})
    linear.save(tmp_path / "linear")
    shipped = (model_folder("dift-tiny") / HEAD_FILES["patch"]).read_bytes()
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / HEAD_FILES["patch"]).write_bytes(shipped)
    for kind in ("linear", "shipped"):
        path = tmp_path / kind / HEAD_FILES["patch"]
        data = path.read_bytes()
        load_head(path)
        for bit in range(3, 8 * len(data), 8 * len(data) // 41):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            with pytest.raises(WeightsError, match=r"not a readable projection head.*checksum"):
                load_head(path)
    photos = [str(path) for path in (geomatch.bundled_pair().image0, geomatch.bundled_pair().image1)]
    assert main(["match", *photos, "--head", str(tmp_path / "shipped"), "--max-keypoints", "20"]) == 2
    assert "not a readable projection head" in capsys.readouterr().err
    tensors = load(shipped)
    save_file(tensors, tmp_path / "shipped" / HEAD_FILES["patch"], metadata={"kind": '{"kind": "linear"}'})
    with pytest.raises(WeightsError, match=r"projection head .it holds no checksum of geomatch"):
        load_head(tmp_path / "shipped" / HEAD_FILES["patch"])


def test_fitted_head_is_better_and_goes_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a photograph held out, the closed form of raw activations finds more partners."""
    paths = [photos / "a.png", photos / "b.png", photos / "none.png"]
    PILImage.new("RGB", (64, 64)).save(paths[2])  # nothing to find there
    fitted = fit_on_images(SMALL, paths, tmp_path, dimension=64, views=4)
    assert fitted.images == 1
    assert fitted.head.projection.shape == (1024, 64)
    assert list(fitted.skipped.values()) == ["no common keypoints in its views"]
    assert fitted.rank1 is not None
    assert fitted.rank1[1] > fitted.rank1[0] > 0.3
    assert len(fitted.head.training["images"][0]) == 64
    monkeypatch.delattr("geomatch.training.view_activations")  # nothing is computed again
    again = fit_on_images(SMALL, paths, tmp_path, dimension=32, views=4).head.projection
    np.testing.assert_allclose(np.abs(again), np.abs(fitted.head.projection[:, :32]), atol=1e-3)
    paths[2].unlink()
    with pytest.raises(GeomatchError, match="needs at least 2000"):
        fit_on_images(SMALL, paths[:2], tmp_path, dimension=1000, views=4)


def test_head_command(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dense model is fitted, and what was fitted describes."""
    out = tmp_path / "out"
    code = main(f"head fit dift-tiny-dense {photos} {out} --dimension 16 --views 2 --image-size 320".split())
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "pairs of keypoints in 1 images" in printed.out
    assert "rank-1" in printed.out
    a, b = (str(photos / f"{name}.png") for name in "ab")
    arguments = f"match {a} {b} --detector sift --descriptor dift-tiny-dense --max-keypoints 200".split()
    assert main([*arguments, "--head", str(out), "--image-size", "320", "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["settings"]["descriptor"]["config"]["head"] == str(out)
    assert main([*arguments, "--head", str(tmp_path / "nowhere")]) == 2
    assert "there is no projection head" in capsys.readouterr().err
    assert main(["head", "fit", "dift-tiny", str(tmp_path / "empty"), str(out)]) == 2
    assert "no such folder of images" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Stable Diffusion", "ADM"])
def test_heads_of_large_models(kind: str, photos: Path, small_sd: Path, tmp_path: Path, seeded: Any) -> None:
    """The file lies beside a small model of that kind, is found there, and shortens descriptors."""
    if kind == "ADM":
        golden = np.load(Path(__file__).parent / "golden" / "adm_tiny.npz")
        state = seeded(json.loads(str(golden["state_dict_shapes"])), "geomatch-adm:")
        torch.save(state, tmp_path / "adm.pt")
        model = convert_adm(tmp_path / "adm.pt", tmp_path / "model")
        config = replace(PRESETS["dift-adm"], model=str(model), layers=(4,), device="cpu")
    else:
        model = Path(shutil.copytree(small_sd, tmp_path / "model"))
        config = DIFTConfig(str(model), timestep=0, layers=(1,), image_size=128, device="cpu")
    config = replace(config, ensemble_size=1, image_size=128, head=False)
    paths = [photos / "a.png", photos / "b.png"]
    fitted = fit_on_images(config, paths, tmp_path / "work", 16, 2)
    assert fitted.rank1 is not None
    image = load_image(photos / "a.png")
    features = OpenCVDetector("sift", max_keypoints=50).detect(image)
    raw = DIFTExtractor(config).describe(image, features).descriptors
    fitted.head.save(model)
    short = DIFTExtractor(replace(config, head=True)).describe(image, features).descriptors
    assert raw.shape[1] > short.shape[1] == 16
    assert (short * fitted.head.apply(raw)).sum(1).min() > 0.97  # cells are projected, then sampled
    with pytest.raises(ValueError, match="was fitted with"):
        DIFTExtractor(replace(config, head=True, timestep=11)).describe(image, features)


def test_shipped_network_needs_no_diffusion_model(photo0: Image) -> None:
    extractor = DIFTExtractor()
    features = OpenCVDetector("sift", 50).detect(photo0)
    described = extractor.describe(photo0, features)
    assert described.descriptors is not None
    assert described.descriptors.shape == (50, 128)
    assert "model" not in extractor.__dict__


def test_file_of_a_network_over_patches(tmp_path: Path, photo0: Image) -> None:
    """What it describes is the same from the file; settings and damage are noticed."""
    torch.manual_seed(0)
    network = PatchNetwork((16, 16, 16), 24).eval().requires_grad_(False)
    network.half().float()  # as the file keeps it
    save_network_head(NetworkHead(network, TINY.feature_settings(), {"images": ["00"], "pairs": 3}), tmp_path)
    loaded = load_head(tmp_path / HEAD_FILES["patch"])
    assert isinstance(loaded, NetworkHead)
    assert loaded.distilled
    assert (loaded.dimension, loaded.settings) == (24, TINY.feature_settings())
    assert loaded.training == {"images": ["00"], "pairs": 3}
    patches = network_patches(torch.rand(5, 3, 32, 32) * 255)
    with torch.inference_mode():
        expected = network(patches)
        torch.testing.assert_close(
            loaded.network.on("cpu", torch.float32)(patches), expected, atol=1e-5, rtol=0
        )
    torch.testing.assert_close(expected.norm(dim=1), torch.ones(5))
    asking = DIFTExtractor(replace(TINY, head=str(tmp_path)))
    features = OpenCVDetector("sift", 40).detect(photo0)
    assert asking.dimension == 24
    rows = asking.describe(photo0, features).descriptors
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    (tensors,) = asking.describe_tensors([photo0], [upload_features(features, "cpu")])
    assert tensors.to_features() == asking.describe(photo0, features)
    dense = replace(PRESETS["dift-tiny-dense"], head=str(tmp_path / HEAD_FILES["patch"]))
    for other, words in ((replace(asking.config, timestep=30), "timestep=20"), (dense, "layers=")):
        with pytest.raises(ValueError, match=f"was fitted with {words}"):
            _ = DIFTExtractor(other).head
    (tmp_path / HEAD_FILES["patch"]).write_bytes((tmp_path / HEAD_FILES["patch"]).read_bytes()[:-10])
    with pytest.raises(WeightsError, match="not a readable projection head"):
        load_head(tmp_path / HEAD_FILES["patch"])
    with pytest.raises(WeightsError, match="geomatch head fit"):
        load_head(tmp_path / "nowhere" / HEAD_FILES["patch"])
