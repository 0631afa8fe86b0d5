"""Projection heads: exact files, training that resumes, and a gain that photographs show."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from safetensors.torch import load, save_file

import geomatch
from geomatch import GeomatchError, Image, WeightsError
from geomatch.cli import main
from geomatch.dift import PRESETS, DIFTConfig, DIFTExtractor
from geomatch.dift.head.distilled import PatchNetwork
from geomatch.dift.head.projection import HeadNetwork, LinearHead, NetworkHead, load_head
from geomatch.dift.inputs import network_patches
from geomatch.images import load_image
from geomatch.keypoints import OpenCVDetector
from geomatch.tensors import upload_features
from geomatch.training import checkpoint
from geomatch.training import convolutional_head as training
from geomatch.training.bank import BankImage, PatchBank, load_bank, make_bank
from geomatch.training.checkpoint import read_checkpoint
from geomatch.training.convolutional_head import HeadConfig, pair_loss, train_head, train_network
from geomatch.training.dense_head import DenseConfig, train_dense_head
from geomatch.training.linear_head import fit_on_images, rank1
from geomatch.weights.adm import convert_adm
from geomatch.weights.folders import HEAD_FILES
from geomatch.weights.sources import model_folder

TINY = replace(PRESETS["dift-tiny"], head=False, device="cpu")
SMALL = replace(TINY, layers=("down_blocks.1.resnets.0",))
HEAD = HeadConfig(widths=(8,), dimension=32, views=4, per_view=24, steps=6)


@pytest.fixture(scope="module", autouse=True)
def _small_views() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geomatch.training.bank.VIEW_SIZE", (320, 240))
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two free photographs, small."""
    folder = tmp_path_factory.mktemp("photos")
    pair = geomatch.bundled_pair()
    for name, path in (("a", pair.image0), ("b", pair.image1)):
        PILImage.open(path).convert("RGB").resize((400, 300)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def bank(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[NDArray[Any]]:
    place = PatchBank(tmp_path_factory.mktemp("bank"))
    images = [BankImage(photos / "a.png", "00ff00ff", 3), BankImage(photos / "b.png", "ff00ff00", 2)]
    make_bank(place, images, workers=1)
    return load_bank(place, images)


def small_head(maps: list[tuple[int, int]]) -> HeadNetwork:
    torch.manual_seed(0)
    return HeadNetwork(maps, (8, 8), 16).eval()


def test_head_gives_unit_rows_that_do_not_depend_on_one_another() -> None:
    network = small_head([(4, 16), (6, 8), (5, 4)])
    maps = [torch.randn(7, c, s, s) for c, s in network.maps]
    order = torch.randperm(7)
    with torch.inference_mode():
        whole, part = network(maps), network([layer[order][:3] for layer in maps])
    assert whole.shape == (7, 16)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(7))
    torch.testing.assert_close(part, whole[order][:3], atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"1 halvings do not lead from maps of sides \[16\] to 4"):
        HeadNetwork([(4, 16)], (8,), 16)
    with pytest.raises(ValueError, match="do not lead"):
        HeadNetwork([(4, 16), (4, 6)], (8, 8), 16)


def test_convolutional_head_file(tmp_path: Path, photo0: Image) -> None:
    extractor = DIFTExtractor(TINY)
    features = OpenCVDetector("sift", 40).detect(photo0)
    network = small_head([(48, 16), (64, 8)])
    for name, value in network.named_buffers():
        if name.endswith(("mean", "var")):
            value.uniform_(0.5, 2)
    network.half().float()  # as the file keeps it
    head = NetworkHead(network, TINY.feature_settings(), {"images": ["00"], "pairs": 3})
    head.save(tmp_path)
    loaded = load_head(tmp_path / HEAD_FILES["patch"])
    assert loaded.training == {"images": ["00"], "pairs": 3}
    asking = DIFTExtractor(replace(TINY, head=str(tmp_path)))
    asking.__dict__["model"] = extractor.model
    assert asking.dimension == 16
    rows = asking.describe(photo0, features).descriptors
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    (tensors,) = asking.describe_tensors([photo0], [upload_features(features, "cpu")])
    assert tensors.to_features() == asking.describe(photo0, features)
    maps = [layer.cpu() for layer in extractor.patch_maps(torch.rand(5, 3, 32, 32) * 255)]
    with torch.inference_mode():
        unfolded = network(maps)
        for each in (head, loaded):
            torch.testing.assert_close(each.on("cpu")(maps), unfolded, atol=1e-5, rtol=0)
    dense = replace(PRESETS["dift-tiny-dense"], head=str(tmp_path / HEAD_FILES["patch"]))
    for other, words in ((replace(asking.config, timestep=30), "timestep=20"), (dense, "layers=")):
        with pytest.raises(ValueError, match=f"was fitted with {words}"):
            _ = DIFTExtractor(other).head
    (tmp_path / HEAD_FILES["patch"]).write_bytes((tmp_path / HEAD_FILES["patch"]).read_bytes()[:-10])
    with pytest.raises(WeightsError, match="not a readable projection head"):
        load_head(tmp_path)
    with pytest.raises(WeightsError, match="geomatch head fit"):
        load_head(tmp_path / "nowhere")


def test_linear_head_keeps_what_it_was_fitted_on(tmp_path: Path, rng: np.random.Generator) -> None:
    head = LinearHead(np.zeros(6), np.eye(6)[:, :2], {"timestep": 3}, {"images": ["ab"], "pairs": 9})
    head.save(tmp_path)
    loaded = load_head(tmp_path)
    assert (loaded.settings, loaded.training) == ({"timestep": 3}, {"images": ["ab"], "pairs": 9})
    np.testing.assert_array_equal(loaded.projection, head.projection)
    with pytest.raises(ValueError, match="it is another network's"):
        loaded.apply(rng.normal(size=(4, 5)).astype(np.float32))


def test_any_bit_of_a_head_file_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of either kind, and of the one that comes with the package."""
    linear = LinearHead(np.zeros(6), np.eye(6)[:, :2], {"timestep": 3}, {"images": ["ab"], "pairs": 9})
    linear.save(tmp_path / "linear")
    NetworkHead(small_head([(4, 16), (6, 8)]), {}, {}).save(tmp_path / "trained")
    shipped = (model_folder("dift-tiny") / HEAD_FILES["patch"]).read_bytes()
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / HEAD_FILES["patch"]).write_bytes(shipped)
    for kind in ("linear", "trained", "shipped"):
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
        load_head(tmp_path / "shipped")


def test_a_damaged_checkpoint_is_not_trained_on(bank: list[NDArray[Any]], tmp_path: Path) -> None:
    extractor = DIFTExtractor(SMALL)
    train_network(extractor, bank, HEAD, tmp_path)
    path = tmp_path / training.CHECKPOINT
    data, found = path.read_bytes(), 0
    whole = read_checkpoint(path)["network"]
    for bit in range(5, 8 * len(data), 8 * len(data) // 41):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            again = read_checkpoint(path)["network"]
        except WeightsError:
            found += 1
        else:
            assert all(torch.equal(again[name], value) for name, value in whole.items())
    assert found > 30
    path.write_bytes(data[:-1000])
    with pytest.raises(WeightsError, match=r"head\.pt: damaged checkpoint .*delete it to train"):
        train_network(extractor, bank, HEAD, tmp_path)


def test_bank_holds_one_place_seen_twice(bank: list[NDArray[Any]], photos: Path, tmp_path: Path) -> None:
    """Partners look alike, others do not: raw patches tell most of them apart. It is made once."""
    parts = []
    for rows in bank:
        flat = [rows["patches"][:, side].reshape(len(rows), -1).astype(np.float32) for side in (0, 1)]
        first, second = (part - part.mean(1, keepdims=True) for part in flat)
        parts.append((first, second, np.zeros(len(rows))))
    assert len(bank) == 5
    assert rank1(parts) > 0.5
    place, images = PatchBank(tmp_path), [BankImage(photos / "a.png", "00ff", 1)]
    stamps = []
    for _ in range(2):
        make_bank(place, images, workers=1)
        stamps.append(place.file(images[0]).stat().st_mtime_ns)
    assert stamps[0] == stamps[1]
    assert PatchBank(tmp_path, patch_scale=6.0).file(images[0]) != place.file(images[0])


def test_loss_counts_neighbours_of_a_view_as_no_negatives() -> None:
    rows = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1.0, 0.01], [0, 1.0]]), dim=1)
    both = torch.cat([rows, rows])
    points = np.array([[[10.0, 10], [10, 10]], [[12, 10], [12, 10]], [[90, 90], [90, 90]]])
    views = np.zeros(3, np.int64)
    close = pair_loss(both, points, views, 0.05)
    assert close < 1e-3  # the two look alike, and lie at one place
    apart = pair_loss(both, points * [[[1, 1]]] + np.arange(3)[:, None, None] * 50, views, 0.05)
    assert apart > 0.3
    assert pair_loss(both, points, np.arange(3), 0.05) > 0.3  # of different views they are different places


def test_interrupted_head_ends_as_if_undisturbed(
    bank: list[NDArray[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying: Any
) -> None:
    extractor = DIFTExtractor(SMALL)
    monkeypatch.setattr(checkpoint, "EVERY", 2)

    def train(name: str) -> HeadNetwork:
        return train_network(extractor, bank, HEAD, tmp_path / name)[0]

    whole = train("whole")
    with monkeypatch.context() as patch:
        patch.setattr(training, "pair_loss", dying(training.pair_loss, 5))
        with pytest.raises(KeyboardInterrupt):
            train("cut")
    resumed = train("cut")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0)
    with pytest.raises(WeightsError, match="train into another folder"):
        train_network(extractor, bank, replace(HEAD, steps=9), tmp_path / "cut")
    with pytest.raises(ValueError, match="for sampling='patch' only"):
        train_head(PRESETS["dift-tiny-dense"], [], tmp_path)


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
    assert fitted.after > fitted.before > 0.3
    assert len(fitted.head.training["images"][0]) == 64
    monkeypatch.delattr("geomatch.training.linear_head._activations")  # nothing is computed again
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
    assert None not in (fitted.before, fitted.after)
    image = load_image(photos / "a.png")
    features = OpenCVDetector("sift", max_keypoints=50).detect(image)
    raw = DIFTExtractor(config).describe(image, features).descriptors
    fitted.head.save(model)
    short = DIFTExtractor(replace(config, head=True)).describe(image, features).descriptors
    assert raw.shape[1] > short.shape[1] == 16
    assert (short * fitted.head.apply(raw)).sum(1).min() > 0.97  # cells are projected, then sampled
    with pytest.raises(ValueError, match="was fitted with"):
        DIFTExtractor(replace(config, head=True, timestep=11)).describe(image, features)
    settings = DenseConfig(width=8, dimension=12, size=128, pairs=1, points=16, steps=2)
    listed = [BankImage(path, path.stem * 64, 1) for path in paths]
    train_dense_head(config, listed, tmp_path / "work", settings).head.save(model)
    dense = DIFTExtractor(replace(config, head=True)).dense(image)
    assert [layer.shape for layer in dense.maps] == [(12, 24, 32)]


@pytest.mark.slow
def test_trained_head_command(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photograph that breaks off is skipped by name."""
    out = tmp_path / "out"
    photos = Path(shutil.copytree(photos, tmp_path / "photos"))
    (photos / "broken.png").write_bytes((photos / "a.png").read_bytes()[:20_000])
    alone = partial(make_bank, workers=1)  # no processes of its own
    monkeypatch.setattr(training, "make_bank", lambda bank, images, *_: alone(bank, images))
    code = main(f"head fit dift-tiny {photos} {out} --trained --steps 2 --views 1".split())
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "broken.png: " in printed.err
    assert "pairs of keypoints in 2 images" in printed.out
    head = load_head(out)
    assert isinstance(head, NetworkHead)
    assert (len(head.training["images"]), head.dimension) == (2, 128)


def test_file_of_a_network_over_patches(bank: list[NDArray[Any]], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = PatchNetwork((16, 16, 16), 24).eval().requires_grad_(False)
    NetworkHead(network, TINY.feature_settings(), {"images": ["00"]}).save(tmp_path)
    loaded = load_head(tmp_path)
    assert isinstance(loaded, NetworkHead)
    assert loaded.distilled
    assert (loaded.dimension, loaded.settings) == (24, TINY.feature_settings())
    patches = network_patches(torch.tensor(bank[0]["patches"][:, 0]).permute(0, 3, 1, 2).float())
    with torch.inference_mode():
        expected = network(patches)
    torch.testing.assert_close(expected.norm(dim=1), torch.ones(len(patches)))
    torch.testing.assert_close(loaded.on("cpu", torch.float32)(patches), expected, atol=2e-3, rtol=0)


def test_shipped_network_needs_no_diffusion_model(photo0: Image) -> None:
    extractor = DIFTExtractor()
    features = OpenCVDetector("sift", 50).detect(photo0)
    described = extractor.describe(photo0, features)
    assert described.descriptors is not None
    assert described.descriptors.shape == (50, 128)
    assert "model" not in extractor.__dict__
