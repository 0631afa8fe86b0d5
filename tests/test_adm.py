"""Converting ADM checkpoints: architecture from shapes, strictness, damage."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from geomatch import DIFTConfig, DIFTExtractor, WeightsError
from geomatch.dift.inventory import fetch_weights
from geomatch.dift.presets import PRESETS
from geomatch.weights.adm import adm_config, convert_adm
from geomatch.weights.download import cache_folder
from geomatch.weights.models import ADM
from geomatch.weights.sources import ADM_CHECKPOINT, converted_folder

GOLDEN = np.load(Path(__file__).parent / "golden" / "adm_tiny.npz")
SHAPES: dict[str, list[int]] = dict(json.loads(str(GOLDEN["state_dict_shapes"])))
Seeded = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture
def state(seeded: Seeded) -> dict[str, torch.Tensor]:
    return seeded(SHAPES, "geomatch-adm:")


def save(state: Mapping[str, object], path: Path) -> Path:
    torch.save(dict(state), path)
    return path


def test_the_published_architecture_is_recognised() -> None:
    """Shapes of 256x256_diffusion_uncond: 8 times the width of the golden model, heads of 64."""
    with torch.device("meta"):
        state = {
            name: torch.zeros([n * 8 if n >= 32 else n for n in shape]) for name, shape in SHAPES.items()
        }
        config = adm_config(state)
        unet = UNet2DModel.from_config(config)
    assert config["block_out_channels"] == [256, 256, 512, 512, 1024, 1024]
    assert config["attention_head_dim"] == 64
    assert config["down_block_types"] == ["ResnetDownsampleBlock2D"] * 3 + ["AttnDownBlock2D"] * 3
    assert config["up_block_types"] == ["AttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"] * 3
    assert (config["layers_per_block"], config["out_channels"]) == (2, 6)
    assert round(sum(value.numel() for value in unet.parameters()) / 1e6, 1) == 552.8
    assert adm_config(state, 32)["attention_head_dim"] == 32
    with pytest.raises(WeightsError, match="512 channels cannot be split into heads of 24"):
        adm_config(state, 24)


def test_a_stock_diffusers_folder_comes_out(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    checkpoint = save(state, tmp_path / "adm.pt")
    folder = convert_adm(checkpoint, tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "conversion.json",
        "diffusion_pytorch_model.safetensors",
        "scheduler_config.json",
    ]
    unet = UNet2DModel.from_pretrained(folder, low_cpu_mem_usage=False).eval()
    schedule = DDPMScheduler.from_pretrained(folder)
    seen = []
    unet.up_blocks[3].register_forward_hook(lambda module, inputs, output: seen.append(output))
    image, noise = torch.from_numpy(GOLDEN["image"]), torch.from_numpy(GOLDEN["noise"])
    with torch.no_grad():
        unet(schedule.add_noise(image, noise, torch.tensor([41])), 41)
    expected = torch.from_numpy(GOLDEN["output_block_11"])
    assert (seen[0] - expected).abs().max() <= 1e-4 * expected.abs().max()
    with pytest.raises(FileExistsError, match="exists already"):
        convert_adm(checkpoint, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adm.pt", "out"]


def test_checkpoints_of_the_old_file_format(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    old = convert_adm(tmp_path / "old.pt", tmp_path / "old")
    new = convert_adm(save(state, tmp_path / "new.pt"), tmp_path / "new")
    name = "diffusion_pytorch_model.safetensors"
    assert (old / name).read_bytes() == (new / name).read_bytes()


def test_other_files_are_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    def fails(path: Path, words: str) -> None:
        with pytest.raises(WeightsError, match=words):
            convert_adm(path, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def saved(changes: Mapping[str, object], name: str) -> Path:
        return save({**state, **changes}, tmp_path / name)

    good = save(state, tmp_path / "good.pt")
    (tmp_path / "photo.pt").write_bytes(b"\xff\xd8\xff\xe0 no checkpoint")
    fails(tmp_path / "photo.pt", "photo.pt: damaged, truncated, or no torch checkpoint")
    (tmp_path / "cut.pt").write_bytes(good.read_bytes()[:-5000])
    fails(tmp_path / "cut.pt", r"cut.pt: damaged, truncated, or no torch checkpoint")
    fails(tmp_path / "none.pt", "no such file")
    fails(save({"weight": torch.zeros(1)}, tmp_path / "other.pt"), "there are no output_blocks")
    torch.save([1, 2], tmp_path / "list.pt")
    fails(tmp_path / "list.pt", "holds no state dict")
    torch.save({"x": Path("code")}, tmp_path / "code.pt")  # a pickle that would run code
    fails(tmp_path / "code.pt", "weights alone")
    fails(saved({"label_emb.weight": torch.zeros(1000, 128)}, "labels.pt"), "class-conditional")
    fails(saved({"input_blocks.3.0.op.weight": torch.zeros(1)}, "plain.pt"), "resblock_updown=False")
    fewer = {name: value for name, value in state.items() if name != "middle_block.1.norm.bias"}
    fails(save(fewer, tmp_path / "fewer.pt"), r"1 parameters differ, such as mid_block.att.*norm.bias")
    fails(saved({"surprise.0.weight": torch.zeros(1)}, "more.pt"), "no guided-diffusion UNet")
    wide = saved({"out.2.weight": torch.zeros(6, 64, 3, 3)}, "wide.pt")
    fails(wide, r"conv_out.weight: \(6, 64, 3, 3\) instead of \(6, 32, 3, 3\)")


def test_fetching_converts(state: dict[str, torch.Tensor]) -> None:
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
    raw = found.sample(np.array([[3.0, 4.0]]), preset.metric)
    np.testing.assert_allclose(
        raw / np.linalg.norm(raw), found.sample(np.array([[3.0, 4.0]])), rtol=1e-4, atol=1e-6
    )
    assert not np.isclose(np.linalg.norm(raw), 1)


def test_what_a_pixel_model_cannot_do(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    folder = convert_adm(save(state, tmp_path / "adm.pt"), tmp_path / "adm")
    with pytest.raises(ValueError, match="has no autoencoder: use latent='mode'"):
        _ = DIFTExtractor(DIFTConfig(str(folder), latent="sample")).model
    with pytest.raises(ValueError, match="leave out the prompt embedding"):
        _ = DIFTExtractor(DIFTConfig(str(folder)), np.zeros((77, 8), np.float32)).model
    with pytest.raises(ValueError, match="indices of this model are 0 to 17"):
        _ = DIFTExtractor(DIFTConfig(str(folder), layers=(18,))).model
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_class_embeds": 10}))
    with pytest.raises(WeightsError, match="class-conditional UNet"):
        _ = DIFTExtractor(DIFTConfig(str(folder))).model
