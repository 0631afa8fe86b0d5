"""Equal to the reference implementations: DIFT's Stable Diffusion featurizer and guided-diffusion's UNet."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geomatch import DIFTConfig, DIFTExtractor
from geomatch.weights.adm import convert_adm

GOLDEN = Path(__file__).parent / "golden"
SD = np.load(GOLDEN / "sd_tiny.npz")
ADM = np.load(GOLDEN / "adm_tiny.npz")


def assert_equal(got: torch.Tensor, expected: np.ndarray) -> None:  # type: ignore[type-arg]
    """To 1e-4 of the largest value."""
    wanted = torch.from_numpy(expected)
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("timestep", [0, 261])
def test_stable_diffusion(small_sd: Path, timestep: int) -> None:
    picture = np.ascontiguousarray(SD["image"][0].transpose(1, 2, 0))
    config = DIFTConfig(str(small_sd), timestep, (0, 1, 2, 3), image_size=None, batch_size=1, device="cpu")
    extractor = DIFTExtractor(config, SD["empty_prompt_embeds"][0])
    noise = torch.from_numpy(SD[f"noise_t{timestep}"])
    clean = torch.from_numpy(picture / np.float32(127.5) - 1).permute(2, 0, 1)[None]
    latents = extractor.model.encode(clean)
    assert_equal(latents.mean, SD["latents"])
    assert_equal(extractor.model.add_noise(latents.mean, noise, timestep), SD[f"noisy_t{timestep}"])
    maps = extractor.dense(picture, noises=[noise]).maps
    for index, layer in enumerate(maps):
        assert_equal(layer[None], SD[f"up{index}_t{timestep}"])
    # the mean over an ensemble, however it is cut into batches
    noises = [noise, -noise, noise / 2]
    alone = [extractor.dense(picture, [member]).maps[2].clone() for member in noises]
    for size in (1, 2, 8):
        several = replace(extractor, config=replace(config, ensemble_size=3, batch_size=size))
        found = several.dense(picture, noises).maps[2]
        torch.testing.assert_close(found, sum(alone) / 3, rtol=1e-4, atol=1e-5)


def test_prompt_embedding(small_sd: Path) -> None:
    pytest.importorskip("transformers")
    from geomatch.weights.prompt import cached_embedding, encode_prompt

    encoded = encode_prompt(small_sd, "")
    assert_equal(torch.from_numpy(encoded), SD["prompt_embeds"][0])
    np.testing.assert_array_equal(cached_embedding(small_sd, ""), encoded)


def test_adm_after_conversion(tmp_path: Path, seeded: Callable[..., dict[str, torch.Tensor]]) -> None:
    shapes = dict(json.loads(str(ADM["state_dict_shapes"])))
    checkpoint = tmp_path / "adm.pt"
    torch.save(seeded(shapes, "geomatch-adm:"), checkpoint)
    folder = convert_adm(checkpoint, tmp_path / "adm")
    timestep = int(ADM["timestep"])
    config = DIFTConfig(str(folder), timestep=timestep, layers=tuple(range(18)), image_size=None)
    extractor = DIFTExtractor(config)
    image, noise = torch.from_numpy(ADM["image"]), torch.from_numpy(ADM["noise"])
    assert extractor.model.stride == 32
    assert_equal(extractor.model.add_noise(image, noise, timestep), ADM["noisy"])
    for index, layer in enumerate(extractor.activations(image, [noise])):
        assert_equal(layer, ADM[f"output_block_{index}"])
    # each alone: the blocks after it are not even loaded
    for index in (0, 4, 11):
        alone = DIFTExtractor(replace(config, layers=(index,)))
        assert_equal(alone.activations(image, [noise])[0], ADM[f"output_block_{index}"])
        assert not list(alone.model.unet.get_submodule("up_blocks.5").parameters())
