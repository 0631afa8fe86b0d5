"""Projection heads of maps of whole images: exact cells, their files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from network_heads import save_network_head

import geomatch
from geomatch import Image, WeightsError
from geomatch.dift import PRESETS, DIFTExtractor
from geomatch.dift.head.dense import DenseNetwork
from geomatch.dift.head.distilled import PatchNetwork
from geomatch.dift.head.projection import LinearHead, NetworkHead, load_head
from geomatch.dift.maps.feature_map import FeatureMap, cell_centres
from geomatch.editing.edit import carry_edit, prepare_edit
from geomatch.images import reduce_image
from geomatch.weights.folders import HEAD_FILES

CONFIG = replace(
    PRESETS["dift-tiny-dense"], layers=("down_blocks.1.resnets.0",), head=False, device="cpu", image_size=96
)


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


@pytest.mark.parametrize("maps", [[(3, 2), (5, 4), (4, 8)], [(4, 1), (3, 16)]], ids=str)
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
    save_network_head(NetworkHead(network, CONFIG.feature_settings(), {}), tmp_path)
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
    save_network_head(NetworkHead(network, noisy.feature_settings(), {}), tmp_path)
    raw = DIFTExtractor(replace(noisy, ensemble_size=2)).dense(photo0).maps[0]
    asking = DIFTExtractor(replace(noisy, ensemble_size=2, head=str(tmp_path)))
    torch.testing.assert_close(asking.dense(photo0).maps[0], network([raw[None]])[0], atol=1e-4, rtol=0)


def test_file_beside_that_of_patches(tmp_path: Path, photo0: Image) -> None:
    network, settings = network_of([(64, 4)]), CONFIG.feature_settings()
    save_network_head(NetworkHead(network, settings, {"images": ["00"]}), tmp_path)
    save_network_head(NetworkHead(PatchNetwork((8, 8, 8), 4).eval(), {"sampling": "patch"}, {}), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(HEAD_FILES.values())
    loaded = load_head(tmp_path / HEAD_FILES["dense"])
    assert isinstance(loaded, NetworkHead)
    assert (loaded.dimension, loaded.settings, loaded.training) == (16, settings, {"images": ["00"]})
    assert load_head(tmp_path / HEAD_FILES["patch"]).dimension == 4
    maps = maps_of(network, 40, 32)
    on = loaded.network.on("cpu", torch.float32)
    torch.testing.assert_close(on(maps), network(maps), atol=1e-5, rtol=0)
    assert network.last[0].bias is None  # folding changed a copy
    config = replace(CONFIG, head=str(tmp_path))
    keys = [DIFTExtractor(replace(config, head=head)).cache_key() for head in (config.head, False)]
    with pytest.raises(ValueError, match="was fitted with timestep=20"):
        _ = DIFTExtractor(replace(config, timestep=7)).head
    save_network_head(NetworkHead(network, settings, {"images": ["01"]}), tmp_path)
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


def test_maps_with_a_head_serve_all_that_uses_maps(tmp_path: Path, photo0: Image) -> None:
    """An edit finds its place in the map of the head."""
    save_network_head(NetworkHead(network_of([(64, 4)]), CONFIG.feature_settings(), {}), tmp_path)
    extractor = DIFTExtractor(replace(CONFIG, head=str(tmp_path)))
    small = reduce_image(photo0, 160)
    edit = np.zeros((*small.pixels.shape[:2], 4), np.uint8)
    edit[20:100, 20:140] = 255
    result = carry_edit(prepare_edit(edit, small, geomatch.Pipeline(descriptor=extractor)), small)
    assert result
    apart = np.abs(result.points0 - result.points1).max(axis=1)
    assert np.mean(apart == 0) > 0.99  # where two places are nearly alike, the processor's rounding decides
    assert apart.max() <= 2
