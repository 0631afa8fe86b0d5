"""Projection heads of maps of whole images: exact cells, a training that learns and resumes, their files."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

import geomatch
from geomatch import GeomatchError, Image, WeightsError
from geomatch.cli import main
from geomatch.dift import PRESETS, DIFTExtractor
from geomatch.dift.head.dense import DenseNetwork
from geomatch.dift.head.distilled import PatchNetwork
from geomatch.dift.head.projection import LinearHead, NetworkHead, load_head
from geomatch.dift.maps.feature_map import FeatureMap, cell_centres
from geomatch.editing.edit import carry_edit, prepare_edit
from geomatch.files import sha256_of
from geomatch.images import reduce_image
from geomatch.training import checkpoint, dense_head
from geomatch.training.checkpoint import read_checkpoint
from geomatch.training.dense_head import (
    DenseConfig,
    ViewPair,
    checkpoint_folder,
    dense_loss,
    found_right,
    train_dense_head,
)
from geomatch.weights.folders import HEAD_FILES

CONFIG = replace(
    PRESETS["dift-tiny-dense"], layers=("down_blocks.1.resnets.0",), head=False, device="cpu", image_size=96
)
SMALL = DenseConfig(width=8, dimension=16, size=64, pairs=2, points=48, steps=6, learning_rate=1e-2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two free photographs, small."""
    folder, pair = tmp_path_factory.mktemp("photos"), geomatch.bundled_pair()
    for name, path in (("a", pair.image0), ("b", pair.image1)):
        PILImage.open(path).convert("RGB").resize((160, 120)).save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in "ab"]


def network_of(maps: list[tuple[int, int]]) -> DenseNetwork:
    """Random weights and statistics, as float16 keeps them."""
    torch.manual_seed(0)
    network = DenseNetwork(maps, 8, 16).eval().requires_grad_(False)
    for name, value in network.named_buffers():
        if name.endswith(("mean", "var")):
            value.uniform_(0.5, 2)
    return network.half().float()


def maps_of(network: DenseNetwork, width: int, height: int) -> list[torch.Tensor]:
    return [torch.randn(1, channels, height // stride, width // stride) for channels, stride in network.maps]


@pytest.mark.parametrize("maps", [[(3, 2), (5, 4), (4, 8)], [(4, 1), (3, 16)], [(6, 8)]], ids=str)
def test_cells_lie_where_they_are_said_to(maps: list[tuple[int, int]]) -> None:
    """A moved image gives the moved map; with symmetric kernels a mirrored one gives the mirrored map."""
    network = network_of(maps)
    first, moved = maps_of(network, 256, 240), maps_of(network, 256, 240)
    for here, there, (_, stride) in zip(first, moved, maps, strict=True):
        there[..., 16 // stride :] = here[..., : -16 // stride]
    whole, other = network(first), network(moved)
    assert whole.shape == (1, 16, 60, 64)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(1, 60, 64))
    torch.testing.assert_close(other[..., 30:38], whole[..., 26:34], atol=1e-5, rtol=0)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.copy_((module.weight + module.weight.flip(3)) / 2)
    mirrored = network([layer.flip(3) for layer in first])
    torch.testing.assert_close(mirrored.flip(3), network(first), atol=1e-5, rtol=0)


def test_any_size_has_whole_cells(tmp_path: Path, photo0: Image) -> None:
    """Of the image as the network sees it: the map covers all of it, whatever its sides."""
    network = network_of([(64, 4)])
    for width, height in ((72, 40), (8, 24)):
        found = network.on("cpu", torch.float32)(maps_of(network, width, height))
        assert found.shape[2:] == (height // 4, width // 4)
    NetworkHead(network, CONFIG.feature_settings(), {}).save(tmp_path)
    extractor = DIFTExtractor(replace(CONFIG, head=str(tmp_path), image_size=None))
    pixels = photo0.pixels[:75, :101]
    dense = extractor.dense(pixels)
    assert DIFTExtractor(replace(PRESETS["dift-tiny"], image_size=96)).dense(pixels).maps[0].shape[0] == 48
    assert (extractor.dimension, extractor.traits.metric, extractor.traits.dense) == (16, "cosine", True)
    assert (dense.image_size, [tuple(layer.shape) for layer in dense.maps]) == ((101, 75), [(16, 18, 26)])
    centres = cell_centres((26, 18), (101, 75), dense.maps[0])
    np.testing.assert_allclose(
        centres[[0, 27]], [[101 / 52 - 0.5, 75 / 36 - 0.5], [101 / 52 * 3 - 0.5, 75 / 12 - 0.5]]
    )
    torch.testing.assert_close(dense.sample_tensor(centres), dense.maps[0].flatten(1).T, atol=1e-4, rtol=0)


def test_the_mean_over_the_ensemble_is_what_it_sees(tmp_path: Path, photo0: Image) -> None:
    network, noisy = network_of([(64, 4)]), replace(CONFIG, noise=True)
    NetworkHead(network, noisy.feature_settings(), {}).save(tmp_path)
    raw = DIFTExtractor(replace(noisy, ensemble_size=2)).dense(photo0).maps[0]
    asking = DIFTExtractor(replace(noisy, ensemble_size=2, head=str(tmp_path)))
    torch.testing.assert_close(asking.dense(photo0).maps[0], network([raw[None]])[0], atol=1e-4, rtol=0)


def test_file_beside_that_of_patches(tmp_path: Path, photo0: Image) -> None:
    network, settings = network_of([(64, 4)]), CONFIG.feature_settings()
    NetworkHead(network, settings, {"images": ["00"]}).save(tmp_path)
    NetworkHead(PatchNetwork((8, 8, 8), 4).eval(), {"sampling": "patch"}, {}).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(HEAD_FILES.values())
    loaded = load_head(tmp_path, "dense")
    assert isinstance(loaded, NetworkHead)
    assert (loaded.dimension, loaded.settings, loaded.training) == (16, settings, {"images": ["00"]})
    assert load_head(tmp_path).dimension == 4
    maps = maps_of(network, 40, 32)
    for on in (loaded.on_maps("cpu", "cosine"), NetworkHead(network, {}, {}).on_maps("cpu", "l2")):
        torch.testing.assert_close(on(maps), network(maps), atol=1e-5, rtol=0)
    assert network.last[0].bias is None  # folding changed a copy
    config = replace(CONFIG, head=str(tmp_path))
    keys = [DIFTExtractor(replace(config, head=head)).cache_key() for head in (config.head, False)]
    with pytest.raises(ValueError, match="was fitted with timestep=20"):
        _ = DIFTExtractor(replace(config, timestep=7)).head
    NetworkHead(network, settings, {"images": ["01"]}).save(tmp_path)
    keys.append(DIFTExtractor(config).cache_key())
    assert len(set(map(str, keys))) == 3
    path = tmp_path / HEAD_FILES["dense"]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="not a readable projection head"):
        DIFTExtractor(config).dense(photo0)


def test_a_linear_head_projects_every_cell(rng: np.random.Generator) -> None:
    """At the centres of cells it gives what it gives for rows sampled there."""
    maps = [torch.randn(2, 5, 9, 12), torch.randn(2, 3, 3, 4)]
    head = LinearHead(rng.normal(size=8), rng.normal(size=(8, 6)))
    found = head.on_maps("cpu", "cosine")(maps)
    for row in (0, 1):
        whole = FeatureMap(tuple(layer[row] for layer in maps), (120, 90))
        rows = whole.sample(cell_centres((12, 9), (120, 90), maps[0]).numpy())
        np.testing.assert_allclose(found[row].flatten(1).T, head.apply(rows), atol=1e-5)


def test_loss_and_accuracy_of_perfect_and_hopeless_maps() -> None:
    cells = cell_centres((16, 16), (64, 64), torch.zeros(1)).numpy()
    points = np.stack([cells[40:200:7], cells[40:200:7]], axis=1)
    pair = ViewPair(np.zeros((2, 64, 64, 3), np.uint8), points)
    perfect = torch.eye(256).view(256, 16, 16)
    hopeless = perfect.roll(3, 2)
    assert dense_loss(torch.stack([perfect, perfect]), [pair], SMALL) < 1e-5
    assert dense_loss(torch.stack([perfect, hopeless]), [pair], SMALL) > 15
    same = torch.full((2, 4, 16, 16), 0.5)
    candidates = 257 - np.array([(np.linalg.norm(cells - point, axis=1) < 6).sum() for point in points[:, 0]])
    assert dense_loss(same, [pair], SMALL) == pytest.approx(np.log(candidates).mean(), abs=1e-3)
    views = [FeatureMap((layer,), (64, 64)) for layer in (perfect, perfect, hopeless)]
    assert found_right(views[:2], pair).all()
    assert not found_right(views[1:], pair).any()


def test_where_a_point_lies_does_not_tell_its_partner(tmp_path: Path, photo0: Image) -> None:
    """Or else the head learns places, which zero padding tells it, in place of content."""
    np.save(tmp_path / "a.npy", reduce_image(photo0, 200).pixels)
    drawn = [
        dense_head.draw_pair([tmp_path / "a.npy"], SMALL, np.random.default_rng(seed)) for seed in range(30)
    ]
    assert all(((pair.points > 2) & (pair.points < SMALL.size - 3)).all() for pair in drawn)
    shifts = np.array([np.median(pair.points[:, 1] - pair.points[:, 0], axis=0) for pair in drawn])
    assert (shifts.std(axis=0) > SMALL.size / 8).all()


def test_training_learns_and_resumes(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying: Any
) -> None:
    """Of two pairs of views, one or the other in each step."""
    draw = dense_head.draw_pair

    def one_of_two(files: Any, config: DenseConfig, rng: np.random.Generator) -> ViewPair:
        return draw(files, config, np.random.default_rng(int(rng.integers(2))))

    monkeypatch.setattr(dense_head, "draw_pair", one_of_two)
    monkeypatch.setattr(checkpoint, "EVERY", 2)
    settings = SMALL
    whole = train_dense_head(CONFIG, photos, tmp_path / "whole", settings)
    log = whole.head.training["log"]
    assert log[-1]["loss"] < log[0]["loss"] / 2
    assert (whole.images, whole.pairs, whole.before, whole.skipped) == (2, 12, None, {})
    with monkeypatch.context() as patch:
        patch.setattr(dense_head, "dense_loss", dying(dense_loss, 5))
        with pytest.raises(KeyboardInterrupt):
            train_dense_head(CONFIG, photos, tmp_path / "cut", settings)
    resumed = train_dense_head(CONFIG, photos, tmp_path / "cut", settings)
    for name, value in whole.head.network.state_dict().items():
        torch.testing.assert_close(resumed.head.network.state_dict()[name], value, rtol=0, atol=0)
    with pytest.raises(WeightsError, match="train into another folder"):
        train_dense_head(CONFIG, photos, tmp_path / "cut", replace(SMALL, steps=9))
    other = train_dense_head(replace(CONFIG, timestep=50), photos, tmp_path / "cut", settings)
    assert other.head.training["log"] != log  # not the same network under other settings
    folders = {checkpoint_folder(tmp_path, CONFIG, some) for some in ("ab", "a", "ab")}
    assert len(folders) == 2


def test_a_damaged_checkpoint_is_not_trained_on(photos: list[Path], tmp_path: Path) -> None:
    train_dense_head(CONFIG, photos, tmp_path, SMALL)
    (path,) = tmp_path.rglob("dense-head.pt")
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
        train_dense_head(CONFIG, photos, tmp_path, SMALL)


def test_one_photograph_of_twenty_is_watched(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geomatch.training.dense_head.HELD_OUT", 2)
    monkeypatch.setattr(dense_head, "WATCHED", 3)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    images = [*photos, broken, photos[0]]
    fitted = train_dense_head(CONFIG, images, tmp_path / "work", replace(SMALL, steps=1))
    assert fitted.head.training["images"] == [sha256_of(photos[1])]
    assert list(fitted.skipped) == [str(broken), str(photos[0])]
    assert fitted.before is not None
    assert fitted.after is not None
    assert fitted.before > 0.05
    with pytest.raises(GeomatchError, match="none of the images can be read"):
        train_dense_head(CONFIG, [broken], tmp_path / "none", SMALL)
    with pytest.raises(ValueError, match="for sampling='dense'"):
        train_dense_head(PRESETS["dift-tiny"], photos, tmp_path / "none", SMALL)


def test_command(
    photos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(dense_head, "DenseConfig", partial(DenseConfig, width=8, size=64, pairs=1, points=16))
    folder, out = photos[0].parent, tmp_path / "out"
    fit = f"head fit dift-tiny-dense {folder} {out} --dense --layers down_blocks.1.resnets.0 --dimension 16"
    assert main([*fit.split(), "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert "fitted on   2 pairs of views of 2 images" in printed
    assert "dense-head.safetensors" in printed
    names = [str(path) for path in photos]
    arguments = ["match", *names, "--descriptor", "dift-tiny-dense", "--layers", str(CONFIG.layers[0])]
    assert main([*arguments, "--detector", "grid", "--head", str(out), "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["seconds"]["refine_keypoints"] > 0
    for wrong, words in ((["--sampling", "patch"], "for sampling='dense'"),):
        assert main([*fit.split(), *wrong]) == 2
        assert words in capsys.readouterr().err


def test_maps_with_a_head_serve_all_that_uses_maps(tmp_path: Path, photo0: Image) -> None:
    """An edit finds its place in the map of the head."""
    NetworkHead(network_of([(64, 4)]), CONFIG.feature_settings(), {}).save(tmp_path)
    extractor = DIFTExtractor(replace(CONFIG, head=str(tmp_path)))
    small = reduce_image(photo0, 160)
    edit = np.zeros((*small.pixels.shape[:2], 4), np.uint8)
    edit[20:100, 20:140] = 255
    result = carry_edit(prepare_edit(edit, small, geomatch.Pipeline(descriptor=extractor)), small)
    assert result
    apart = np.abs(result.points0 - result.points1).max(axis=1)
    assert np.mean(apart == 0) > 0.99  # where two places are nearly alike, the processor's rounding decides
    assert apart.max() <= 2
