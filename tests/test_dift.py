"""The extractor on small random UNets: exact geometry, early stop, determinism, errors."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import late_diffusers as diffusers
import numpy as np
import pytest
import torch

import geomatch
from geomatch import DIFTConfig, DIFTExtractor, Features, Image, WeightsError
from geomatch.devices import find_device
from geomatch.dift import PRESETS, FeatureMap
from geomatch.dift.backends.layers import layer_names
from geomatch.dift.backends.schedule import load_schedule
from geomatch.dift.backends.wanted import WantedPart, known_layers
from geomatch.dift.inputs import dense_size
from geomatch.images import write_png
from geomatch.provenance import cache_key
from geomatch.training import fit_head
from geomatch.weights.sources import model_folder


def small_unet(channels: int = 3, attention: bool = False) -> Any:
    torch.manual_seed(0)
    kind = "Attn" if attention else ""
    return diffusers.UNet2DModel(
        sample_size=32,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(8, 16, 16),
        down_block_types=("DownBlock2D", f"{kind}DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", f"{kind}UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
    ).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    small_unet().save_pretrained(path)
    return path


@pytest.fixture
def config(folder: Path) -> DIFTConfig:
    return DIFTConfig(model=str(folder), timestep=41, layers=("up_blocks.1",), image_size=None, device="cpu")


@pytest.fixture(scope="module")
def image() -> Image:
    return Image(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8), "noise")


def keypoints(image: Image, n: int = 20, oriented: bool = False) -> Features:
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 1, (n, 2)) * (np.array(image.size) - 1)
    scales, turns = (rng.uniform(2, 8, n), rng.uniform(0, 6, n)) if oriented else (None, None)
    return Features(points, np.ones(n), image.size, scales, turns)


@pytest.mark.parametrize(
    ("layers", "attention"),
    [(("up_blocks.0",), True), (("up_blocks.2", "down_blocks.0.resnets.0", "mid_block"), False)],
)
def test_maps_are_the_activations_of_a_plain_forward_pass(
    layers: tuple[str, ...], attention: bool, image: Image, tmp_path: Path
) -> None:
    unet = small_unet(attention=attention)
    unet.save_pretrained(tmp_path)
    seen: dict[str, torch.Tensor] = {}
    for name in layers:

        def hook(module: object, inputs: object, output: Any, name: str = name) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        unet.get_submodule(name).register_forward_hook(hook)
    clean = torch.from_numpy(image.pixels / np.float32(127.5) - 1).permute(2, 0, 1)[None]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))
    noisy = diffusers.DDPMScheduler().add_noise(clean, noise, torch.tensor([41]))
    with torch.no_grad():
        unet(noisy, 41)
    config = DIFTConfig(str(tmp_path), 41, layers, seed=5, image_size=None, device="cpu")
    maps = DIFTExtractor(config).dense(image).maps
    for name, layer in zip(layers, maps, strict=True):
        torch.testing.assert_close(layer, seen[name][0], rtol=1e-4, atol=1e-5)


def test_nothing_runs_after_the_last_wanted_layer() -> None:
    unet = small_unet()
    ran: list[str] = []
    for name in ("mid_block.resnets.1", "up_blocks.0.resnets.0", "up_blocks.0.resnets.1", "conv_out"):
        unet.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    part = WantedPart(unet, ["down_blocks.1", "up_blocks.0.resnets.0"])
    with torch.no_grad():
        part(torch.zeros(1, 3, 32, 32), torch.tensor([0]))
        assert ran == ["mid_block.resnets.1", "up_blocks.0.resnets.0"]
        with pytest.raises(RuntimeError, match=r"shape|channels"):
            part(torch.zeros(1, 5, 32, 32), torch.tensor([0]))


def test_unknown_layers() -> None:
    unet = small_unet()
    for layer, words in (
        ("up_blocks.7", r"unknown layer 'up_blocks.7': .* lists them; near are up_blocks\.\d, "),
        ("time_embedding", "unknown layer 'time_embedding'"),
        (18, "layer 18: the numbers of this model are 0 to 2"),
    ):
        with pytest.raises(ValueError, match=words):
            layer_names([layer], ["up_blocks.0", "up_blocks.1", "up_blocks.2"], known_layers(unet))


def test_sampling_is_exact_at_pixel_centres() -> None:
    """A map of coordinates, sampled, gives (x + 0.5) w / width - 0.5, clamped at the border."""
    w, h, size = 16, 12, (64, 36)
    ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    one = torch.ones(h, w) * 100  # a constant channel survives normalisation as a known ratio
    feature_map = FeatureMap((torch.stack([xs.float(), ys.float(), one]),), size)
    points = np.array([[0, 0], [31.5, 17.5], [63, 35], [10.25, 30.75]])
    rows = feature_map.sample(points)
    got = rows[:, :2] / rows[:, 2:] * 100
    expected = (points + 0.5) * [w / size[0], h / size[1]] - 0.5
    np.testing.assert_allclose(got, np.clip(expected, 0, [w - 1, h - 1]), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_layers_weigh_the_same_whatever_their_size() -> None:
    maps = (torch.rand(3, 4, 4), 1000 * torch.rand(5, 8, 8))
    rows = FeatureMap(maps, (8, 8)).sample(np.random.default_rng(0).uniform(0, 7, (6, 2)))
    for part in np.split(rows, [3], axis=1):
        np.testing.assert_allclose(np.linalg.norm(part, axis=1), np.sqrt(0.5), atol=1e-6)


def test_size_rule() -> None:
    for size, rule, expected in (
        ((640, 480), None, (640, 480)),
        ((641, 475), None, (640, 472)),
        ((1280, 960), 640, (640, 480)),
        ((320, 240), 640, (320, 240)),
        ((1000, 600), (768, 768), (768, 768)),
        ((3, 3), None, (8, 8)),
        ((5000, 3), 800, (800, 8)),
    ):
        assert dense_size(size, rule, 8) == expected
    # that of video in the paper: short side 480, the other cut to a multiple of 32, small frames enlarged
    for size, long in (((854, 480), 832), ((640, 360), 832), ((1000, 10), 48000)):
        assert dense_size(size, 480, 8, "short") == (long, 480)
    assert dense_size((480, 854), 480, 32, "short") == (480, 832)


def test_same_seed_same_descriptors_and_other_seed_others(config: DIFTConfig, image: Image) -> None:
    points = keypoints(image)
    one = DIFTExtractor(config).describe(image, points)
    assert one == DIFTExtractor(config).describe(image, points)
    assert one != DIFTExtractor(replace(config, seed=1)).describe(image, points)
    assert one == DIFTExtractor(config).describe(image.pixels, points)


def test_cache_key_holds_what_decides_the_descriptors(config: DIFTConfig) -> None:
    config = replace(config, device="auto")
    key = cache_key(DIFTExtractor(config))
    same = [{"batch_size": 3}, {"device": find_device("auto")}, {"compile": "off"}]
    if find_device("auto") != "cuda":
        same.append({"dtype": "float32"})
    for change in (*same, {"seed": 1}, {"timestep": 3}, {"dtype": "bfloat16"}, {"image_size": 64}):
        assert (cache_key(DIFTExtractor(replace(config, **change))) == key) == (change in same)


def test_layers_may_share_their_output(config: DIFTConfig, image: Image) -> None:
    """The last block's output is that of its last resnet, one tensor; ensembles count it once each."""
    names = ("up_blocks.2", "up_blocks.2.resnets.1")
    several = replace(config, ensemble_size=2, batch_size=1)
    together = DIFTExtractor(replace(several, layers=names)).dense(image).maps
    for name, layer in zip(names, together, strict=True):
        alone = DIFTExtractor(replace(several, layers=(name,))).dense(image).maps[0]
        torch.testing.assert_close(layer, alone, rtol=1e-4, atol=1e-5)


def test_each_keypoint_is_described_by_itself(config: DIFTConfig, image: Image) -> None:
    order = np.random.default_rng(2).permutation(20)
    points = keypoints(image, oriented=True)
    for sampling in ("dense", "patch"):
        extractor = DIFTExtractor(replace(config, sampling=sampling))
        whole, part = (extractor.describe(image, some).descriptors for some in (points, points[order[:7]]))
        np.testing.assert_allclose(part, whole[order[:7]], atol=1e-5)


def test_folders_of_diffusers(tmp_path: Path, image: Image) -> None:
    """A bare UNet, one with a model_index.json and pickled weights beside it, and a pipeline."""
    unet, settings = small_unet(), DIFTConfig(str(tmp_path), image_size=None)
    unet.save_pretrained(tmp_path)
    bare = DIFTExtractor(settings)
    assert_schedule(bare.model.schedule, diffusers.DDPMScheduler())
    expected = bare.dense(image).maps[0]
    diffusers.DDPMScheduler().save_pretrained(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(unet.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    assert torch.equal(DIFTExtractor(settings).dense(image).maps[0], expected)
    unet.save_pretrained(tmp_path / "pipeline" / "unet")
    schedule = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    schedule.save_pretrained(tmp_path / "pipeline" / "scheduler")
    model = DIFTExtractor(DIFTConfig(str(tmp_path / "pipeline"))).model
    assert_schedule(model.schedule, schedule)


def assert_schedule(schedule: tuple[torch.Tensor, torch.Tensor], scheduler: Any) -> None:
    alphas = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(schedule, (alphas.sqrt(), (1 - alphas).sqrt()))


def test_schedules_of_every_kind(tmp_path: Path) -> None:
    scaled = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    for number, (kind, settings) in enumerate((
        (diffusers.DDPMScheduler, {}),
        (diffusers.DDPMScheduler, {"beta_end": 0.03, "num_train_timesteps": 500}),
        (diffusers.PNDMScheduler, scaled),
        (diffusers.EulerDiscreteScheduler, scaled),
        (diffusers.DDIMScheduler, scaled | {"rescale_betas_zero_snr": True}),
        (diffusers.DDPMScheduler, {"trained_betas": [0.1, 0.2, 0.3]}),
    )):  # fmt: skip
        scheduler = kind(**settings)
        scheduler.save_pretrained(tmp_path / str(number))
        assert_schedule(load_schedule(tmp_path / str(number)), scheduler)
    diffusers.CMStochasticIterativeScheduler().save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="a CMStochasticIterativeScheduler without betas"):
        load_schedule(tmp_path)


def test_pixel_blocks_are_inferred_from_the_channels(tmp_path: Path, image: Image) -> None:
    small_unet(channels=12).save_pretrained(tmp_path)
    extractor = DIFTExtractor(
        DIFTConfig(str(tmp_path), layers=("up_blocks.2",), image_size=None, device="cpu")
    )
    assert extractor.model.stride == 8
    assert extractor.dense(image).maps[0].shape == (8, 24, 32)


def test_bad_folders(tmp_path: Path) -> None:
    def fails(path: Path, words: str) -> None:
        with pytest.raises(WeightsError, match=words):
            DIFTExtractor(DIFTConfig(str(path))).load_networks()

    fails(tmp_path / "none", r"neither a known model \(dift-tiny, .*\) nor a folder")
    fails(tmp_path, "no readable diffusers configuration")
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    fails(tmp_path, "vae/config.json is missing")
    (tmp_path / "config.json").write_text("{")
    fails(tmp_path, "config.json")
    small_unet(channels=4).save_pretrained(tmp_path / "four")
    fails(tmp_path / "four", "4 input channels")
    small_unet().save_pretrained(tmp_path / "schedule")
    (tmp_path / "schedule" / "scheduler_config.json").write_text("[]")
    fails(tmp_path / "schedule", "scheduler_config.json: not a readable diffusers configuration")


def test_describing_asks_for_what_it_needs(config: DIFTConfig, image: Image, tmp_path: Path) -> None:
    def fails(words: str, **changes: Any) -> None:
        with pytest.raises(ValueError, match=words):
            DIFTExtractor(replace(config, **changes)).dense(image)

    with pytest.raises(ValueError, match="features are of an image of"):
        DIFTExtractor(config).describe(image, Features(np.zeros((1, 2)), np.ones(1), (9, 9)))
    patch = replace(config, sampling="patch", patch_size=33)
    with pytest.raises(ValueError, match="patch_size must be a multiple of 4, got 33"):
        DIFTExtractor(patch).describe(image, keypoints(image, oriented=True))
    fails("unknown layer", layers=("time_embedding",))
    fails("leave the prompt empty", prompt="a cat")
    fails("device 'meta' cannot be used", device="meta")
    small_unet().save_pretrained(tmp_path)
    diffusers.DDPMScheduler(num_train_timesteps=10).save_pretrained(tmp_path / "scheduler")
    fails("timestep must be below 10, got 41", model=str(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"timestep": 1000}, {"timestep": 20.5}, {"layers": ()}, {"layers": "up_blocks.1"}, {"layers": (-1,)},
        {"ensemble_size": 0}, {"noise": False, "ensemble_size": 2}, {"sampling": "sparse"}, {"image_size": 0},
        {"image_size": (64,)}, {"image_size": 64.5}, {"patch_scale": 0.0}, {"dtype": "int8"}, {"seed": 2**70},
        {"latent": "mean"}, {"metric": "dot"}, {"image_side": "left"}, {"compile": "yes"}, {"batch_size": 0},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_settings_are_refused(change: dict[str, object]) -> None:
    words = str(change.pop("words", next(iter(change)).split("_")[0]))
    with pytest.raises(ValueError, match=words):
        DIFTConfig(**change)


def test_two_threads_can_share_an_extractor(config: DIFTConfig, image: Image) -> None:
    extractor = DIFTExtractor(config)
    others = [Image(np.roll(image.pixels, k * 7, axis=1), "rolled") for k in range(8)]
    expected = [extractor.describe(other, keypoints(other)) for other in others]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda other: extractor.describe(other, keypoints(other)), others)) == expected


def test_squashing_one_axis_does_not_alias(config: DIFTConfig, tmp_path: Path) -> None:
    """Stripes of one pixel become grey when their axis shrinks, though the other axis grows."""
    stripes = np.zeros((30, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    settings = replace(config, layers=("conv_in",), noise=False, timestep=0, image_size=(64, 64))
    squashed, grey = (
        DIFTExtractor(settings).dense(pixels).maps[0][:, 8:-8, 8:-8]
        for pixels in (stripes, np.full((30, 400), 128, np.uint8))
    )
    torch.testing.assert_close(squashed, grey, atol=0.05, rtol=0)


def test_head_is_the_leading_solution_of_the_generalised_problem(rng: np.random.Generator) -> None:
    truth = rng.normal(0, 1, (4000, 6)) * [5, 4, 3, 1, 1, 1]
    a, b = (truth + rng.normal(0, 1, truth.shape) * [0.1, 0.1, 0.1, 3, 3, 3] for _ in range(2))
    head = fit_head(a.astype(np.float32), b.astype(np.float32), 3, {"timestep": 1})
    # the three stable directions, and only these, survive
    assert np.abs(head.projection[3:]).max() < 0.1 * np.abs(head.projection[:3]).max()
    rows = head.apply(a.astype(np.float32))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    # within-pair differences have unit variance in every direction, up to the ridge
    difference = (a - b) @ head.projection
    assert (difference.var(0) / 2 < 1.05).all()
    rows = np.zeros((5, 3), np.float32)
    with pytest.raises(ValueError, match=r"dimension must lie in 1..3"):
        fit_head(rows, rows, 4, {})


def test_embedded_model_is_small_and_independent_of_threads(photo0: Image) -> None:
    extractor = DIFTExtractor()
    rows, none = (extractor.describe(photo0, keypoints(photo0, n, True)).descriptors for n in (30, 0))
    assert (rows.shape, none.shape) == ((30, 128), (0, 128))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    folder = model_folder("dift-tiny")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 10e6
    card = (folder / "README.md").read_text()
    assert "CC-BY-4.0" in card
    assert "MIT" in card
    threads = torch.get_num_threads()
    torch.set_num_threads(4 if threads == 1 else 1)
    try:
        others = extractor.describe(photo0, keypoints(photo0, 30, True)).descriptors
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(others, rows, atol=1e-5)


def test_images_are_described_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many files only those of a batch are held, and the answers are those of each alone, in order."""
    rng = np.random.default_rng(0)
    sizes = [(64, 48), (48, 64), (64, 48), (64, 48), (48, 64)]
    paths = [tmp_path / f"{number}.png" for number in range(len(sizes))]
    for path, (width, height) in zip(paths, sizes, strict=True):
        write_png(path, rng.integers(0, 255, (height, width, 3), np.uint8))
    extractor = DIFTExtractor(replace(PRESETS["dift-tiny-dense"], head=False, batch_size=2))
    alone = [extractor.dense(path) for path in paths]
    taken: list[int] = []
    whole = DIFTExtractor.activations

    def counted(self: DIFTExtractor, images: Any) -> Any:
        taken.append(len(images))
        return whole(self, images)

    monkeypatch.setattr(DIFTExtractor, "activations", counted)
    together = extractor.dense_many(iter(paths))
    assert taken == [2, 2, 1]
    for own, other in zip(alone, together, strict=True):
        assert own.image_size == other.image_size
        for layer, twin in zip(own.maps, other.maps, strict=True):
            torch.testing.assert_close(layer, twin, atol=1e-4, rtol=1e-4)


def test_settings_that_travel_again_find_the_networks_loaded() -> None:
    """A worker gets its methods with every block of work."""
    config = replace(PRESETS["dift-tiny-dense"], head=False, seed=78)
    sent = pickle.dumps(DIFTExtractor(config))
    first = pickle.loads(sent)
    first.load_networks()
    again = pickle.loads(sent)
    assert again.config == config
    assert again.model is first.model
    geomatch.release()
    assert pickle.loads(sent) is not first
    own = pickle.loads(pickle.dumps(Own(config, np.ones((2, 3), np.float32), weight=2.0)))
    assert (type(own), own.config, own.weight) == (Own, config, 2.0)
    np.testing.assert_array_equal(own.conditioning, 1)


@dataclass(frozen=True)
class Own(DIFTExtractor):
    """A subclass with a setting more."""

    weight: float = 1.0
