"""On an accelerator: nothing mixes two devices, little comes back, and the results are the processor's.

The device is that of `helpers/pretend_device.py`; ``pytest --pretend`` runs all the tests on it.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from network_heads import save_network_head
from pretend_device import pretend_device, traffic
from torch import Tensor, nn
from torch.nn import functional

import geomatch
from geomatch import DIFTConfig, DIFTExtractor, Features, Image
from geomatch.devices import find_device, upload_pixels
from geomatch.dift import PRESETS
from geomatch.dift.head.dense import DenseNetwork
from geomatch.dift.head.projection import NetworkHead
from geomatch.dift.maps.refine import refine_points, search_radius
from geomatch.keypoints import MixedDetector, OpenCVDetector, TinyDetector
from geomatch.matching import match_many, match_mutual
from geomatch.tensors import ARRAYS, upload_features
from geomatch.types import EstimationFailure, Matches, Metric
from geomatch.views.features import FramedFeatures
from geomatch.views.matching import nearest_elsewhere
from geomatch.views.search import search_views

VIEW = np.array([[1.02, 0.05, -6], [-0.04, 0.98, 5], [1e-5, 2e-5, 1]])


@pytest.fixture(scope="module")
def device() -> str:
    return pretend_device()


@pytest.fixture(scope="module")
def small(photo0: Image) -> Image:
    return Image(cv2.resize(photo0.pixels, (320, 240), interpolation=cv2.INTER_AREA), "small")


@pytest.fixture(scope="module")
def found(small: Image) -> Features:
    return TinyDetector(max_keypoints=60, device="cpu").detect(small)


def assert_equal_features(got: Features, wanted: Features) -> None:
    assert got.image_size == wanted.image_size
    for name in ARRAYS:
        ours, other = getattr(got, name), getattr(wanted, name)
        assert (ours is None) == (other is None), name
        if other is not None:
            np.testing.assert_allclose(ours, other, rtol=1e-4, atol=1e-5, err_msg=name)


def crossed(shapes: list[tuple[int, ...]]) -> int:
    """Numbers in tensors of these shapes."""
    return sum(int(np.prod(shape)) for shape in shapes)


def test_the_device_is_as_strict_as_an_accelerator(device: str) -> None:
    assert find_device(device) == device
    here, there = torch.rand(2, 3), torch.rand(2, 3).to(device)
    for mixed in (
        lambda: here + there,
        lambda: torch.cat([there, here]),
        lambda: functional.linear(there, here),
        lambda: nn.Linear(3, 2)(there),
        lambda: torch.where(there > 0, there, here),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    for unseen in (lambda: np.asarray(there), there.numpy):
        with pytest.raises(TypeError, match="cpu"):
            unseen()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), traffic() as seen:
        assert nn.Linear(3, 2).to(device)(there * 2 + torch.tensor(1.0)).device.type == device
        assert (seen.downloads, seen.waits) == ([], [])
        assert float(there[0, 0]) == there.tolist()[0][0] == there.numpy(force=True)[0, 0]
        assert there[there > 2].shape == (0,)
        assert (seen.downloads, seen.waits) == ([(2, 3)] * 2, ["item", "index"])


def test_features_cross_whole_and_come_back(device: str, found: Features, small: Image) -> None:
    there = upload_features(found, device)
    assert upload_pixels(small.pixels, device).device.type == there[:3].keypoints.device.type == device
    assert_equal_features(there.to_features(), found)
    assert_equal_features(there.to("cpu")[2:4].to_features(), there[2:4].to_features())


def test_keypoints(device: str, found: Features, small: Image) -> None:
    assert_equal_features(TinyDetector(max_keypoints=60, device=device).detect(small), found)


@pytest.fixture(scope="module")
def configs(small_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, DIFTConfig]:
    """Each kind of model."""
    from diffusers import UNet2DModel

    pixels = tmp_path_factory.mktemp("pixels")
    torch.manual_seed(0)
    UNet2DModel(
        block_out_channels=(8, 16), down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"), norm_num_groups=4, attention_head_dim=4,
        layers_per_block=1, resnet_time_scale_shift="scale_shift",
    ).save_pretrained(pixels)  # fmt: skip
    sd = DIFTConfig(
        str(small_sd), 51, (0, 2), ensemble_size=2, latent="sample", image_size=(64, 64), device="cpu"
    )
    return {
        "patches": replace(PRESETS["dift-tiny"], device="cpu", dtype="float32"),
        "dense": replace(PRESETS["dift-tiny-dense"], device="cpu"),
        "stable diffusion": sd,
        "dense head": replace(PRESETS["dift-tiny-dense"], device="cpu", head=_saved_head(pixels)),
        "adm": DIFTConfig(str(pixels), 41, (1, 3), metric="l2", image_size=(64, 48), device="cpu"),
    }


def _saved_head(folder: Path) -> str:
    network = DenseNetwork([(48, 2), (64, 4), (96, 8)], 8, 16).eval()
    save_network_head(NetworkHead(network, PRESETS["dift-tiny-dense"].feature_settings(), {}), folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["patches", "dense", "dense head", "stable diffusion", "adm"])
def test_descriptors(
    kind: str, configs: dict[str, DIFTConfig], device: str, found: Features, small: Image
) -> None:
    prompt = {"prompt_embeds": np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)}
    embedding = prompt if "stable" in kind else None
    wanted = DIFTExtractor(configs[kind], embedding).describe(small, found)
    extractor = DIFTExtractor(replace(configs[kind], device=device), embedding)
    assert_equal_features(extractor.describe(small, found), wanted)
    assert extractor.dimension == wanted.descriptors.shape[1]


def rows(count: int, seed: int) -> Tensor:
    return functional.normalize(torch.randn(count, 32, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize(("metric", "ratio"), [("cosine", None), ("cosine", 0.9), ("l2", 0.9)])
def test_matches(metric: Metric, ratio: float | None, device: str) -> None:
    a, b = rows(300, 0), rows(200, 1)
    least = 0.1 if metric == "cosine" else None
    ((wanted, passed),) = match_many([a, b], [(0, 1)], metric, least, ratio)
    there = a.to(device), b.to(device)
    with traffic() as seen:
        ((got, distinct),) = match_many(there, [(0, 1)], metric, least, ratio)
    np.testing.assert_array_equal(got.indices, wanted.indices)
    np.testing.assert_array_equal(distinct, passed)
    np.testing.assert_allclose(got.similarity, wanted.similarity, rtol=1e-5)
    # how many there are, and the matches, whatever the number of rows
    assert crossed(seen.downloads) + crossed(seen.uploads) <= 8 + 5 * len(got)
    assert len(seen.waits) + len(seen.downloads) <= 7


def test_refined_points(device: str, configs: dict[str, DIFTConfig], found: Features, small: Image) -> None:
    here = DIFTExtractor(configs["dense"]).dense(small)
    there = replace(here, maps=tuple(layer.to(device) for layer in here.maps))
    targets = here.sample(found.keypoints[::-1])
    wanted, got = (
        refine_points(dense, found.keypoints, targets, search_radius(dense)) for dense in (here, there)
    )
    np.testing.assert_allclose(got, wanted, atol=1e-3)


@pytest.mark.parametrize("kind", ["patches", "dense"])
def test_the_whole_path(kind: str, configs: dict[str, DIFTConfig], device: str, small: Image) -> None:
    """Through the public door: the same homography."""
    moved = cv2.warpPerspective(small.pixels, VIEW, small.size, borderMode=cv2.BORDER_REFLECT)
    results = []
    for place in ("cpu", device):
        detector = MixedDetector(max_keypoints=150, device=place)
        config = replace(configs[kind], device=place)
        results.append(geomatch.match(small, Image(moved, "moved"), detector=detector, descriptor=config))
    wanted, got = results
    assert_equal_features(got.features0, wanted.features0)
    assert_equal_features(got.features1, wanted.features1)
    found0, found1 = (sorted(own.matches.indices.tolist()) for own in results)  # rounding orders them
    assert found0 == found1
    assert np.abs(got.homography.matrix - VIEW)[:2, 2].max() < 1
    np.testing.assert_allclose(got.homography.matrix, wanted.homography.matrix, rtol=1e-4, atol=1e-7)


def test_stored_keypoints_and_views_are_searched_together(
    configs: dict[str, DIFTConfig], device: str, found: Features, small: Image
) -> None:
    """As the hard pairs of a collection are: plain descriptors come from the store, those of views do not."""
    describer = DIFTExtractor(replace(configs["patches"], device=device))
    plain = upload_features(describer.describe(small, found), "cpu")
    sift = OpenCVDetector("sift")
    counts: list[int] = []

    def relate(matches: Matches, *_: FramedFeatures) -> EstimationFailure:
        counts.append(len(matches))
        return EstimationFailure("none")

    both, pair = [small, small], [plain, plain]
    search_views(
        both, pair, sift, describer, partial(nearest_elsewhere, metric="cosine"), [(2.0, 60)], relate
    )
    assert counts[0] > 20


def test_keypoints_stay_there(device: str, found: Features, small: Image) -> None:
    """Not even their number depends on a map that is brought here."""
    detector = TinyDetector(max_keypoints=60, device=device)
    detector.detect_tensors(small)  # loads the network
    with traffic() as seen:
        there = detector.detect_tensors(small)
    assert {getattr(there, name).device.type for name in ARRAYS[:4]} == {device}
    assert crossed(seen.downloads) <= 2 * 9  # per level of the pyramid, how many were found
    assert len(seen.downloads) + len(seen.waits) <= 16
    assert crossed(seen.uploads) <= small.pixels.size + 1000
    assert_equal_features(there.to_features(), found)


@pytest.mark.parametrize("kind", ["patches", "dense", "dense head", "stable diffusion", "adm"])
def test_descriptors_stay_there(
    kind: str, configs: dict[str, DIFTConfig], device: str, found: Features, small: Image
) -> None:
    prompt = {"prompt_embeds": np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)}
    extractor = DIFTExtractor(replace(configs[kind], device=device), prompt if "stable" in kind else None)
    there = upload_features(found, device)
    extractor.describe_tensors([small], [there])
    with traffic() as seen:
        (described,) = extractor.describe_tensors([small], [there])
    assert described.descriptors is not None
    assert described.descriptors.device.type == device
    assert crossed(seen.downloads) <= 8
    assert len(seen.downloads) + len(seen.waits) <= 8
    wanted = DIFTExtractor(configs[kind], extractor.conditioning).describe(small, found)
    assert_equal_features(described.to_features(), wanted)


def test_noise_stays_there(configs: dict[str, DIFTConfig], device: str, small: Image) -> None:
    """Drawn once: the second image carries its pixels alone."""
    config = replace(configs["stable diffusion"], device=device)
    extractor = DIFTExtractor(config, {"prompt_embeds": np.zeros((4, 32), np.float32)})
    extractor.dense(small)
    with traffic() as seen:
        maps = extractor.dense(small).maps
    assert {layer.device.type for layer in maps} == {device}
    assert crossed(seen.uploads) <= small.pixels.size + 100
    assert crossed(seen.downloads) == 0


@pytest.mark.parametrize("kind", ["patches", "dense"])
def test_what_a_pair_brings_back(
    kind: str, configs: dict[str, DIFTConfig], device: str, small: Image
) -> None:
    """The keypoints with their descriptors, once, and the matches; nothing else of any size."""
    moved = Image(cv2.warpPerspective(small.pixels, VIEW, small.size, borderMode=cv2.BORDER_REFLECT), "moved")
    detector = TinyDetector(max_keypoints=150, device=device)
    describer = DIFTExtractor(replace(configs[kind], device=device))
    geomatch.match(small, moved, detector=detector, descriptor=describer)
    with traffic() as seen:
        result = geomatch.match(small, moved, detector=detector, descriptor=describer)
    assert result.homography
    keypoints = len(result.features0) + len(result.features1)
    width = 5 + describer.dimension
    content = 4 if kind == "dense" else 1  # `check_content` describes moved images
    assert crossed(seen.downloads) <= content * keypoints * width + 4 * len(result.matches) + 200
    assert len(seen.downloads) + len(seen.waits) <= 60 * content


def test_a_pair_in_half_precision(configs: dict[str, DIFTConfig], found: Features, small: Image) -> None:
    """float16 differs from float32 by less than 1e-3 in mean cosine."""
    dense = replace(configs["dense"], image_size=128)
    full = DIFTExtractor(replace(dense, dtype="float32")).describe(small, found).descriptors
    half = DIFTExtractor(replace(dense, dtype="float16")).describe(small, found).descriptors
    assert 0 < 1 - (full * half).sum(1).mean() < 1e-3


def test_many_pairs_wait_once(device: str) -> None:
    images = [rows(100 + 10 * k, k).to(device) for k in range(5)]
    pairs = [(a, b) for b in range(5) for a in range(b)]
    with traffic() as seen:
        found = match_many(images, pairs, max_ratio=0.9)
    assert len(seen.downloads) + len(seen.waits) <= 10  # far fewer than pairs times what one needs
    assert crossed(seen.uploads) <= 4 * len(pairs)
    for (a, b), (matches, distinct) in zip(pairs, found, strict=True):
        wanted = match_mutual(images[a].numpy(force=True), images[b].numpy(force=True), max_ratio=0.9)
        assert matches.indices[distinct].tolist() == wanted.indices.tolist()
