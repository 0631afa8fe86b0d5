"""Converted ADM checkpoints: equal to guided-diffusion's UNet, architecture from shapes, damage."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import late_diffusers as diffusers
import numpy as np
import pytest
import torch

from geomatch import DIFTConfig, DIFTExtractor, WeightsError
from geomatch.dift.inventory import fetch_weights
from geomatch.dift.presets import PRESETS
from geomatch.places import cache_folder
from geomatch.weights.adm import adm_config, convert_adm
from geomatch.weights.models import ADM
from geomatch.weights.sources import ADM_CHECKPOINT, converted_folder

GOLDEN = np.load(Path(__file__).parent / "golden" / "adm_tiny.npz")
SHAPES: dict[str, list[int]] = dict(json.loads(str(GOLDEN["state_dict_shapes"])))
WEIGHTS = "diffusion_pytorch_model.safetensors"
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state(seeded: Callable[..., State]) -> State:
    return seeded(SHAPES, "geomatch-adm:")


def save(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def folder(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("adm")
    return convert_adm(save(state, place / "adm.pt"), place / "out")


def assert_golden(got: torch.Tensor, name: str) -> None:
    """To 1e-4 of the largest value."""
    wanted = torch.from_numpy(GOLDEN[name])
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_equal_to_guided_diffusion(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timestep = int(GOLDEN["timestep"])
    layers = tuple(range(18))
    config = DIFTConfig(str(folder), timestep=timestep, layers=layers, image_size=None, device="cpu")
    extractor = DIFTExtractor(config)
    image, noise = torch.from_numpy(GOLDEN["image"]), torch.from_numpy(GOLDEN["noise"])
    assert extractor.model.stride == 32
    assert_golden(extractor.model.add_noise(image, noise, timestep), "noisy")
    monkeypatch.setattr("geomatch.dift.ensemble.drawn_noises", lambda seed, *_: (noise,))
    for index, layer in enumerate(extractor.activations(image)):
        assert_golden(layer, f"output_block_{index}")
    # each alone: the blocks after it are not even loaded
    for index in (0, 4, 11):
        alone = DIFTExtractor(replace(config, layers=(index,)))
        assert_golden(alone.activations(image)[0], f"output_block_{index}")
        assert not list(alone.model.network.get_submodule("up_blocks.5").parameters())


def test_the_published_architecture_is_recognised() -> None:
    """Shapes of 256x256_diffusion_uncond: 8 times the width of the golden model, heads of 64."""
    with torch.device("meta"):
        state = {key: torch.zeros([n * 8 if n >= 32 else n for n in shape]) for key, shape in SHAPES.items()}
        config = adm_config(state)
        unet = diffusers.UNet2DModel.from_config(config)
    assert config["block_out_channels"] == [256, 256, 512, 512, 1024, 1024]
    assert config["attention_head_dim"] == 64
    assert config["down_block_types"] == ["ResnetDownsampleBlock2D"] * 3 + ["AttnDownBlock2D"] * 3
    assert config["up_block_types"] == ["AttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"] * 3
    assert (config["layers_per_block"], config["out_channels"]) == (2, 6)
    assert round(sum(value.numel() for value in unet.parameters()) / 1e6, 1) == 552.8


def test_a_stock_diffusers_folder_comes_out(state: State, folder: Path, tmp_path: Path) -> None:
    files = ["SHA256SUMS", "config.json", "conversion.json", WEIGHTS, "scheduler_config.json"]
    assert sorted(path.name for path in folder.iterdir()) == files
    unet = diffusers.UNet2DModel.from_pretrained(folder, low_cpu_mem_usage=False).eval()
    schedule = diffusers.DDPMScheduler.from_pretrained(folder)
    seen = []
    unet.up_blocks[3].register_forward_hook(lambda module, inputs, output: seen.append(output))
    image, noise = torch.from_numpy(GOLDEN["image"]), torch.from_numpy(GOLDEN["noise"])
    with torch.no_grad():
        unet(schedule.add_noise(image, noise, torch.tensor([41])), 41)
    assert_golden(seen[0], "output_block_11")
    with pytest.raises(FileExistsError, match="exists already"):
        convert_adm(folder.parent / "adm.pt", folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["adm.pt", "out"]
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    old = convert_adm(tmp_path / "old.pt", tmp_path / "old")
    assert (old / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_other_files_are_refused(state: State, tmp_path: Path) -> None:
    def fails(state: object, name: str, words: str) -> None:
        path = save(state, tmp_path / name) if state else tmp_path / name
        with pytest.raises(WeightsError, match=words):
            convert_adm(path, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    good = save(state, tmp_path / "good.pt")
    (tmp_path / "photo.pt").write_bytes(b"\xff\xd8\xff\xe0 no checkpoint")
    fails(None, "photo.pt", "photo.pt: not a readable torch checkpoint")
    (tmp_path / "cut.pt").write_bytes(good.read_bytes()[:-5000])
    fails(None, "cut.pt", r"cut.pt: not a readable torch checkpoint")
    fails({"weight": torch.zeros(1)}, "other.pt", "there are no output_blocks")
    fails([1, 2], "list.pt", "holds no state dict")
    fails({"x": Path("code")}, "code.pt", "weights alone")  # a pickle that would run code
    fails({**state, "label_emb.weight": torch.zeros(1000, 128)}, "labels.pt", "class-conditional")
    fails({**state, "input_blocks.3.0.op.weight": torch.zeros(1)}, "plain.pt", "resblock_updown=False")
    fewer = {name: value for name, value in state.items() if name != "middle_block.1.norm.bias"}
    fails(fewer, "fewer.pt", r"Missing key.*mid_block.att.*norm.bias")
    fails({**state, "surprise.0.weight": torch.zeros(1)}, "more.pt", "not a readable .*guided-diffusion UNet")
    wide = {**state, "out.2.weight": torch.zeros(6, 64, 3, 3)}
    fails(wide, "wide.pt", r"conv_out.weight: .*\[6, 64, 3, 3\].*\[6, 32, 3, 3\]")


def test_fetching_converts(state: State) -> None:
    """With the checkpoint in the cache already, nothing is downloaded; the presets find the result."""
    cache_folder().mkdir(parents=True)
    save(state, cache_folder() / ADM_CHECKPOINT.file_name)
    assert fetch_weights("dift-adm") == [converted_folder(ADM)]
    assert fetch_weights(ADM) == [converted_folder(ADM)]
    preset = PRESETS["dift-adm-fast"]
    extractor = DIFTExtractor(preset)
    picture = np.random.default_rng(0).integers(0, 256, (64, 100, 3), dtype=np.uint8)
    found = extractor.dense(picture)
    assert found.maps[0].shape == (64, 32, 48)
    point = np.array([[3.0, 4.0]])
    raw = found.sample(point, preset.metric)
    length = np.linalg.norm(raw)
    np.testing.assert_allclose(raw / length, found.sample(point), rtol=1e-4, atol=1e-6)
    assert not np.isclose(length, 1)


def test_what_a_pixel_model_cannot_do(folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder, tmp_path / "adm"))
    plain = DIFTConfig(str(folder))
    for extractor, words in (
        (DIFTExtractor(replace(plain, latent="sample")), "has no autoencoder: use latent='mode'"),
        (DIFTExtractor(plain, {"prompt_embeds": np.zeros((77, 8), np.float32)}), "give no conditioning"),
        (DIFTExtractor(replace(plain, layers=(18,))), "layer 18: the numbers of this model are 0 to 17"),
        (DIFTExtractor(replace(plain, layers=("up_blocks.9",))), "unknown layer 'up_blocks.9'"),
    ):
        with pytest.raises(ValueError, match=words):
            extractor.load_networks()
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_class_embeds": 10}))
    with pytest.raises(WeightsError, match=r"config.json: damaged .*, or correct SHA256SUMS if you changed"):
        DIFTExtractor(plain).load_networks()
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(WeightsError, match="class-conditional UNet"):
        DIFTExtractor(plain).load_networks()
