"""Small models of every family: equal to plain diffusers, told what pipelines tell."""

import inspect
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones import (
    FAMILIES,
    GOLDEN,
    family_folder,
    golden_folder,
    golden_text,
    make_mistral,
    make_network,
    text_of,
)
from torch import Tensor

from geomatch import DIFTConfig, DIFTExtractor, WeightsError
from geomatch.dift.backends.latent import named_layers
from geomatch.dift.backends.layers import catch
from geomatch.weights.families import FAMILIES as FAMILY
from geomatch.weights.families import Told, find_family
from geomatch.weights.prompt import encode_prompt, pipeline_of

GOLDENS = ("sdxl", "sd3", "flux", "pixart", "dit")
Folder = Callable[[str], Path]
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)  # not square


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Folders of families; only prompts may be added to them."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            place = tmp_path_factory.mktemp("model")
            golden = GOLDEN / f"{name}_tiny.npz"
            made[name] = (
                golden_folder(np.load(golden), place) if name in GOLDENS else family_folder(name, place)
            )
        return made[name]

    return make


def assert_close(got: Tensor, wanted: Any) -> None:
    """To 1e-4 of the largest value."""
    wanted = torch.as_tensor(wanted)
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("name", GOLDENS)
def test_equal_to_plain_diffusers(name: str, folder: Folder) -> None:
    """Blocks, what enters their attention, latents, noisy latents, at two timesteps."""
    golden = np.load(GOLDEN / f"{name}_tiny.npz")
    kinds = ("",) if name == "sdxl" else ("", ".modulated")
    layers = tuple(f"{block}{kind}" for block in json.loads(str(golden["blocks"])) for kind in kinds)
    times = [int(key.removeprefix("noise_t")) for key in golden.files if key.startswith("noise_t")]
    config = DIFTConfig(str(folder(name)), times[0], layers, image_size=None, device="cpu")
    model = DIFTExtractor(config, golden_text(golden)).model
    clean = torch.from_numpy(golden["image"]) / 127.5 - 1
    latents, deviation = model.encode(clean)
    assert deviation is not None
    assert_close(latents, golden["latents"])
    assert_close(deviation, golden["latents_std"])
    with torch.inference_mode():
        for time in times:
            noisy = model.add_noise(latents, torch.from_numpy(golden[f"noise_t{time}"]), time)
            assert_close(noisy, golden[f"noisy_t{time}"])
            for layer, found in zip(layers, model.activations(noisy, time), strict=True):
                assert_close(found, golden[f"{layer}_t{time}"])
    assert model.stride == (8 if name == "sdxl" else 16)


@pytest.mark.parametrize("name", GOLDENS[:-1])
def test_prompts_are_encoded_as_pipelines_do(name: str, folder: Folder) -> None:
    pytest.importorskip("transformers")
    golden = np.load(GOLDEN / f"{name}_tiny.npz")
    model = DIFTExtractor(DIFTConfig(str(folder(name)), layers=(0,), device="cpu")).model
    assert model.text is not None
    for key, value in golden_text(golden).items():
        assert_close(model.text[key][0], value)


def latents_of(name: str) -> Tensor:
    """Of an image of 160x128 pixels."""
    channels, stride = {"SANA": (8, 4), "FLUX.2": (32, 16), "AuraFlow": (4, 8)}.get(name, (16, 8))
    return torch.randn(1, channels, 128 // stride, 160 // stride, generator=torch.Generator().manual_seed(0))


class CalledError(Exception):
    """A network was called."""


@pytest.mark.parametrize("name", FAMILIES)
def test_networks_are_told_what_pipelines_tell(name: str) -> None:
    """The arguments at the first step of diffusers' own pipeline, whose timestep is 1000."""
    import diffusers

    network, vae = (make_network(config, "") for config in FAMILIES[name])
    text, latents = text_of(name), latents_of(name)
    (pipeline_name,) = list(FAMILY[name].pipelines)[:1]
    kind = getattr(diffusers, pipeline_name)
    parts = {
        part: None
        for part in inspect.signature(kind.__init__).parameters
        if part not in ("self", "is_distilled")
    }
    parts |= {"transformer": network, "vae": vae, "scheduler": diffusers.FlowMatchEulerDiscreteScheduler()}
    pipeline = kind(**parts)
    pipeline.set_progress_bar_config(disable=True)
    seen: dict[str, Any] = {}

    def forward(*given: Any, **named: Any) -> None:
        seen.update(
            zip(inspect.signature(type(network).forward).parameters, (None, *given), strict=False), **named
        )
        raise CalledError

    options: dict[str, Any] = {
        "prompt_embeds": text["prompt_embeds"], "latents": latents, "guidance_scale": 1.0,
        "prompt_attention_mask": text.get("mask", torch.ones(1, 6)), "use_resolution_binning": False,
        "negative_prompt": None, "true_cfg_scale": 1.0,
    }  # fmt: skip
    if name == "FLUX.2":
        options["guidance_scale"] = 4.0
    elif name == "Z-Image":
        options |= {"prompt_embeds": [text["prompt_embeds"][0]], "guidance_scale": 0.0}
    elif name == "Qwen-Image":
        options["latents"] = kind._pack_latents(latents, 1, *latents.shape[1:])
    accepted = inspect.signature(kind.__call__).parameters
    network.forward = forward
    with pytest.raises(CalledError):
        pipeline(
            height=128, width=160, num_inference_steps=2, output_type="latent",
            **{option: value for option, value in options.items() if option in accepted},
        )  # fmt: skip
    inputs = FAMILY[name].inputs
    assert inputs is not None
    ours = inputs(Told(network.config, latents, torch.tensor([1000.0]), text, (160, 128)))
    for key, value in ours.items():
        if value is not None:
            assert_same(value, seen[key])


def assert_same(ours: Any, theirs: Any) -> None:
    if isinstance(ours, list):
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif isinstance(ours, Tensor):
        theirs = theirs.squeeze(0) if theirs.ndim > ours.ndim else theirs
        torch.testing.assert_close(ours, theirs, check_dtype=False)
    else:
        assert tuple(ours) == tuple(theirs)


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_are_the_image_tokens_of_plain_diffusers(name: str, folder: Folder) -> None:
    """All blocks and what enters their attention, whichever is the last; latents of the autoencoder, too."""
    network, vae = (
        make_network(config, f"geomatch-{name}:{part}:")
        for part, config in zip(("transformer", "vae"), FAMILIES[name], strict=True)
    )
    config = DIFTConfig(str(folder(name)), 260, (0,), image_size=None, device="cpu")
    numbered, _ = named_layers(network, FAMILY[name])
    layers = [layer for block in numbered for layer in (block, f"{block}.modulated")]
    whole = DIFTExtractor(replace(config, layers=tuple(layers))).model
    picture = torch.rand(1, 3, 128, 160, generator=torch.Generator().manual_seed(2)) * 2 - 1
    latents = whole.encode(picture)[0]
    assert_close(latents, plain_latents(vae, picture))
    seen: dict[str, Tensor] = {}
    for block in numbered:
        module = network.get_submodule(block)
        module.register_forward_hook(
            lambda _, __, found, block=block: seen.update(
                {block: found[1] if isinstance(found, tuple) else found}
            )
        )
        attention = next(part for part in ("attn", "attn1", "attention") if hasattr(module, part))
        module.get_submodule(attention).register_forward_pre_hook(
            lambda _, given, named, block=block: seen.update(
                {f"{block}.modulated": given[0] if given else named["hidden_states"]}
            ),
            with_kwargs=True,
        )
    inputs = FAMILY[name].inputs
    assert inputs is not None
    count = latents.shape[2] * latents.shape[3] // (1 if name in ("SANA", "FLUX.2") else 4)
    with torch.inference_mode():
        network(**inputs(Told(network.config, latents, torch.tensor([260.0]), text_of(name), (160, 128))))
        for layer, found in zip(layers, whole.activations(latents, 260), strict=True):
            tokens = seen[layer][:, :count] if name == "Z-Image" else seen[layer][:, -count:]
            assert_close(found.flatten(2).transpose(1, 2), tokens)
            assert found.shape[2] / found.shape[3] == 128 / 160
            alone = DIFTExtractor(replace(config, layers=(layer,))).model
            assert_close(alone.activations(latents, 260)[0], found)


def plain_latents(vae: Any, picture: Tensor) -> Tensor:
    """As diffusers' pipelines that start from images make them."""
    if type(vae).__name__ == "AutoencoderDC":
        latent: Tensor = vae.encode(picture).latent * vae.config.scaling_factor
        return latent
    if type(vae).__name__ == "AutoencoderKLQwenImage":
        found = vae.encode(picture[:, :, None]).latent_dist.mode()[:, :, 0]
        mean, deviation = (
            torch.tensor(vae.config[key]).view(-1, 1, 1) for key in ("latents_mean", "latents_std")
        )
        return (found - mean) / deviation
    mode: Tensor = vae.encode(picture).latent_dist.mode()
    if type(vae).__name__ == "AutoencoderKLFlux2":
        from diffusers import Flux2Pipeline

        mode = Flux2Pipeline._patchify_latents(mode)
        variance = vae.bn.running_var + vae.config.batch_norm_eps
        return (mode - vae.bn.running_mean.view(-1, 1, 1)) / variance.sqrt().view(-1, 1, 1)
    return (mode - (vae.config.shift_factor or 0)) * vae.config.scaling_factor


def test_a_network_that_does_not_fit_runs_block_by_block(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block's weights are copies while it runs, and its own before and after."""
    config = DIFTConfig(str(folder("FLUX.2")), 50, (1,), image_size=None, device="cpu")
    latents = latents_of("FLUX.2")
    expected = DIFTExtractor(config).model.activations(latents, 50)[0]
    monkeypatch.setattr("geomatch.dift.backends.latent.fits", lambda *_: False)
    model = DIFTExtractor(config).model
    block = model.network.get_submodule("single_transformer_blocks.0")
    weights, seen = next(block.parameters()), list[int]()
    own = weights.data_ptr()
    block.attn.register_forward_pre_hook(lambda *_: seen.append(weights.data_ptr()))
    for _ in range(2):
        with torch.inference_mode():
            assert torch.equal(model.activations(latents, 50)[0], expected)
        assert weights.data_ptr() == own
    assert len(seen) == 2
    assert own not in seen


def test_channels_that_are_discarded(folder: Folder) -> None:
    config = DIFTConfig(str(folder("dit")), 50, ("0.modulated", 1), image_size=None, device="cpu")
    plain = DIFTExtractor(config).dense(PICTURE).maps
    assert [layer.shape for layer in plain] == [(48, 4, 8)] * 2
    for layer, found in zip(
        plain, DIFTExtractor(replace(config, discard=(3, 47))).dense(PICTURE).maps, strict=True
    ):
        assert not found[[3, 47]].any()
        kept = [channel for channel in range(48) if channel not in (3, 47)]
        assert torch.equal(found[kept], layer[kept])
    with pytest.raises(ValueError, match="discard=48: a layer has 48 channels"):
        DIFTExtractor(replace(config, discard=(48,))).dense(PICTURE)


@pytest.mark.parametrize(
    ("name", "layers", "module", "cells"),
    [
        ("sdxl", ("up_blocks.1.attentions.0.transformer_blocks.0.query", "up_blocks.1"),
         "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q", (8, 10)),
        ("sdxl", ("down_blocks.1.attentions.0.transformer_blocks.0", "mid_block"),
         "down_blocks.1.attentions.0.transformer_blocks.0", (8, 10)),
        ("pixart", ("1.query",), "transformer_blocks.1.attn2.to_q", (8, 10)),
        ("sd3", ("1.query",), "transformer_blocks.1.attn.to_q", (8, 10)),
    ],
)  # fmt: skip
def test_inside_of_blocks(
    name: str, layers: tuple[str, ...], module: str, cells: tuple[int, int], folder: Folder
) -> None:
    """Queries and the blocks of transformers in UNets are what hooks see in the same pass."""
    golden = np.load(GOLDEN / f"{name}_tiny.npz")
    time = 50 if name == "sd3" else 261
    config = DIFTConfig(str(folder(name)), time, layers, image_size=None, device="cpu")
    model = DIFTExtractor(config, golden_text(golden)).model
    seen: list[Tensor] = []
    model.network.get_submodule(module).register_forward_hook(lambda _, __, found: seen.append(found))
    with torch.inference_mode():
        found = model.activations(torch.from_numpy(golden[f"noisy_t{time}"]), time)
        assert_close(found[0].flatten(2).transpose(1, 2), seen[0])
    assert found[0].shape[2:] == cells


def test_queries_of_dual_attention_are_the_joined_ones() -> None:
    """Blocks of Stable Diffusion 3.5 have a second attention, in which the image attends to itself alone."""
    from diffusers.models.attention import JointTransformerBlock

    network = torch.nn.ModuleDict({"block": JointTransformerBlock(8, 1, 8, use_dual_attention=True)})
    caught: dict[str, Tensor] = {}
    catch(network, "block.query", caught)
    queries = network.get_submodule("block.attn.to_q")(torch.ones(1, 2, 8))
    assert torch.equal(caught["block.query"], queries)


def test_a_layer_by_two_names(folder: Folder) -> None:
    """Twice in the map, and the default is what enters the middle block's attention."""
    layers = (1, "transformer_blocks.1", "1.modulated", "default")
    config = DIFTConfig(str(folder("flux")), 50, layers, image_size=None, device="cpu")
    middle = replace(config, layers=("single_transformer_blocks.0.modulated",))  # of 2 and 3 blocks
    first, second, modulated, default = DIFTExtractor(config).dense(PICTURE).maps
    assert torch.equal(first, second)
    assert not torch.allclose(first, modulated)
    assert torch.equal(default, DIFTExtractor(middle).dense(PICTURE).maps[0])
    plain = DIFTConfig(str(folder("sdxl")), 50, image_size=None, device="cpu")
    named = replace(plain, layers=("up_blocks.1",))
    maps = [DIFTExtractor(one).dense(PICTURE).maps[0] for one in (plain, named)]
    assert torch.equal(*maps)


def test_models_of_no_text(folder: Folder) -> None:
    """A prompt that was asked for is not left out silently; those of evaluators, one per category, are."""
    extractor = DIFTExtractor(DIFTConfig(str(folder("dit")), layers=(0,), device="cpu"))
    assert extractor.at_prompt("a photo of a cat") is extractor
    asking = replace(extractor.config, prompt="a photo of a cat")
    for wrong in (
        DIFTExtractor(asking),
        DIFTExtractor(extractor.config, golden_text(np.load(GOLDEN / "flux_tiny.npz"))),
    ):
        with pytest.raises(ValueError, match="takes no text: leave the prompt empty, and give no condition"):
            _ = wrong.model


def test_prompts_of_pixart_without_an_index_are_not_cut(tmp_path: Path) -> None:
    """Sigma encodes 300 tokens, of which a mask hides the rest; alpha, which cuts at 120, has to be named."""
    assert pipeline_of(FAMILY["PixArt"], tmp_path)[0] == "PixArtSigmaPipeline"
    (tmp_path / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    assert pipeline_of(FAMILY["PixArt"], tmp_path)[0] == "PixArtAlphaPipeline"


def test_prompts_of_flux_2_need_no_processor_of_images(tmp_path: Path) -> None:
    """Its repository has one for its tokenizer, which wants torchvision and tells no length of prompts."""
    pytest.importorskip("transformers")
    make_mistral(tmp_path)
    found = encode_prompt(FAMILY["FLUX.2"], tmp_path, "dog")
    assert {name: value.shape for name, value in found.items()} == {"prompt_embeds": (512, 3 * 8)}


def test_threads_share_a_network(folder: Folder) -> None:
    config = DIFTConfig(str(folder("flux")), 50, ("0.modulated", 3), image_size=None, device="cpu")
    extractor = DIFTExtractor(config)
    pictures = [
        np.random.default_rng(seed).integers(0, 256, (96, 64, 3), dtype=np.uint8) for seed in range(8)
    ]
    expected = [extractor.dense(picture).maps for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(extractor.dense, pictures), expected, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(found.maps, wanted, strict=True))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"_class_name": "SanaTransformer2DModel", "guidance_embeds": True},
            "SANA Sprint mixes noise in by a law",
        ),
        (
            {"_class_name": "QwenImageTransformer2DModel", "use_additional_t_cond": True},
            "Qwen-Image-Layered works on several images",
        ),
        (
            {"_class_name": "UNet2DConditionModel", "encoder_hid_dim_type": "text_proj"},
            "wants more than text",
        ),
        ({"_class_name": "UNet2DConditionModel", "addition_embed_type": "image"}, "wants more than text"),
        ({"_class_name": "HunyuanDiT2DModel"}, "describes HunyuanDiT2DModel, of which is not known"),
        (
            {"_class_name": "Transformer2DModel", "norm_type": "layer_norm"},
            "describes Transformer2DModel, of which",
        ),
    ],
)
def test_what_is_not_sure_is_refused_by_name(config: dict[str, Any], words: str) -> None:
    with pytest.raises(WeightsError, match=f"place: .*{words}"):
        find_family(config, "place")


def test_networks_by_their_old_names() -> None:
    for norm, name in (("ada_norm_single", "PixArt"), ("ada_norm_zero", "DiT")):
        assert find_family({"_class_name": "Transformer2DModel", "norm_type": norm}, "place") is FAMILY[name]
    sdxl = {"_class_name": "UNet2DConditionModel", "addition_embed_type": "text_time"}
    assert find_family(sdxl, "place") is FAMILY["Stable Diffusion XL"]
    assert find_family({"_class_name": "UNet2DModel"}, "place") is None
