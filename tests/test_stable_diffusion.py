"""A small Stable Diffusion: equal to DIFT's featurizer, what is read, batches, prompts, damage."""

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from geomatch import DIFTConfig, DIFTExtractor, MissingDependencyError, ShapeError, WeightsError
from geomatch.cli import main
from geomatch.dift.files import model_fingerprint
from geomatch.images import Image, ImageLike
from geomatch.weights.families import FAMILIES
from geomatch.weights.prompt import Conditioning, cached_conditioning, encode_prompt

GOLDEN = np.load(Path(__file__).parent / "golden" / "sd_tiny.npz")
SD = FAMILIES["Stable Diffusion 1 or 2"]
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def image() -> Image:
    return Image(np.random.default_rng(3).integers(0, 256, (64, 96, 3), dtype=np.uint8), "noise")


@pytest.fixture
def folder(small_sd: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(small_sd, tmp_path / "sd"))


def config(folder: Path | str) -> DIFTConfig:
    return DIFTConfig(str(folder), timestep=0, layers=(2,), image_size=None, device="cpu")


def assert_golden(got: torch.Tensor, name: str) -> None:
    """To 1e-4 of the largest value."""
    wanted = torch.from_numpy(GOLDEN[name])
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("timestep", [0, 261])
def test_equal_to_the_published_featurizer(
    small_sd: Path, timestep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = np.ascontiguousarray(GOLDEN["image"][0].transpose(1, 2, 0))
    settings = DIFTConfig(str(small_sd), timestep, (0, 1, 2, 3), image_size=None, batch_size=1, device="cpu")
    extractor = DIFTExtractor(settings, {"prompt_embeds": GOLDEN["empty_prompt_embeds"][0]})
    noise = torch.from_numpy(GOLDEN[f"noise_t{timestep}"])
    clean = torch.from_numpy(picture / np.float32(127.5) - 1).permute(2, 0, 1)[None]
    latents, _ = extractor.model.encode(clean)
    assert_golden(latents, "latents")
    assert_golden(extractor.model.add_noise(latents, noise, timestep), f"noisy_t{timestep}")
    given = [noise, -noise, noise / 2]
    monkeypatch.setattr("geomatch.dift.ensemble.drawn_noises", lambda seed, *_: (given[seed],))
    for index, layer in enumerate(extractor.dense(picture).maps):
        assert_golden(layer[None], f"up{index}_t{timestep}")
    # the mean over an ensemble, however it is cut into batches
    alone = [replace(extractor, config=replace(settings, seed=seed)).dense(picture) for seed in range(3)]
    mean = sum(found.maps[2] for found in alone) / 3
    for size in (1, 2, 8):
        several = replace(extractor, config=replace(settings, ensemble_size=3, batch_size=size))
        torch.testing.assert_close(several.dense(picture).maps[2], mean, rtol=1e-4, atol=1e-5)


def test_prompt_embedding(small_sd: Path) -> None:
    pytest.importorskip("transformers")
    encoded = encode_prompt(SD, small_sd, "")["prompt_embeds"]
    assert_golden(torch.from_numpy(encoded)[None], "prompt_embeds")
    np.testing.assert_array_equal(cached(small_sd, "")["prompt_embeds"], encoded)


def cached(folder: Path, prompt: str) -> Conditioning:
    found = cached_conditioning(SD, folder, prompt)
    assert found is not None
    return found


def dense(settings: DIFTConfig, image: ImageLike) -> torch.Tensor:
    return DIFTExtractor(settings).dense(image).maps[0]


def test_only_what_is_needed_is_read(small_sd: Path) -> None:
    """Neither later up-blocks nor the decoder, for the same features.

    Latents' sides halve unevenly: a block that is the last one loaded still gets its true size.
    """
    odd = np.random.default_rng(0).integers(0, 256, (72, 104, 3), dtype=np.uint8)
    full = DIFTExtractor(replace(config(small_sd), layers=(0, 1, 2, 3))).dense(odd).maps
    assert [tuple(layer.shape[1:]) for layer in full[1:]] == [(5, 7), (9, 13), (9, 13)]
    for index, expected in enumerate(full):
        extractor = DIFTExtractor(replace(config(small_sd), layers=(index,)))
        torch.testing.assert_close(extractor.dense(odd).maps[0], expected, rtol=1e-4, atol=1e-5)
        for later in range(4):
            kept = list(extractor.model.network.get_submodule(f"up_blocks.{later}").parameters())
            assert bool(kept) == (later <= index)
    middle = DIFTExtractor(replace(config(small_sd), layers=("mid_block", "down_blocks.0.attentions.1")))
    assert [len(layer) for layer in middle.dense(odd).maps] == [64, 32]


def test_sampled_latents_and_seeds(small_sd: Path, image: Image) -> None:
    """Ensemble of N = mean of N single runs with the derived seeds, with the autoencoder's noise too."""
    sampled = replace(config(small_sd), latent="sample", timestep=261)
    together = dense(replace(sampled, ensemble_size=3, seed=4), image)
    alone = [dense(replace(sampled, seed=4 + k), image) for k in range(3)]
    torch.testing.assert_close(together, sum(alone) / 3, rtol=1e-4, atol=1e-5)
    assert torch.equal(together, dense(replace(sampled, ensemble_size=3, seed=4), image))
    assert not torch.allclose(dense(replace(sampled, latent="mode", seed=4), image), alone[0], rtol=1e-3)


def test_images_do_not_depend_on_one_another(small_sd: Path, image: Image) -> None:
    images = [Image(np.roll(image.pixels, 9 * k, axis=1), "rolled") for k in range(3)]
    images.insert(1, Image(np.ascontiguousarray(image.pixels.transpose(1, 0, 2)), "tall"))
    extractor = DIFTExtractor(replace(config(small_sd), ensemble_size=2, timestep=100))
    together = extractor.dense_many(images)
    assert [found.image_size for found in together] == [(96, 64), (64, 96), (96, 64), (96, 64)]
    for one, found in zip(images, together, strict=True):
        torch.testing.assert_close(extractor.dense(one).maps[0], found.maps[0], rtol=1e-4, atol=1e-5)


def test_batches_shrink_when_memory_runs_out(small_sd: Path, image: Image) -> None:
    extractor = DIFTExtractor(replace(config(small_sd), ensemble_size=8, batch_size=8, timestep=100))
    expected = extractor.dense(image).maps[0]
    sizes: list[int] = []

    def limited(limit: int) -> object:
        def forward(*arguments: torch.Tensor) -> object:
            sizes.append(len(arguments[0]))
            if len(arguments[0]) > limit:
                raise RuntimeError("MPS backend out of memory")
            return original(*arguments)

        return forward

    network = extractor.model.part.network
    original = network.forward
    network.forward = limited(3)  # type: ignore[method-assign, assignment]
    torch.testing.assert_close(extractor.dense(image).maps[0], expected, rtol=1e-4, atol=1e-5)
    assert sizes == [8, 4, 2, 2, 2, 2]
    network.forward = limited(0)  # type: ignore[method-assign, assignment]
    with pytest.raises(MemoryError, match="smaller image_size"):
        extractor.dense(image)


@pytest.mark.slow
def test_half_precision_stays_close(small_sd: Path, image: Image) -> None:
    full = dense(replace(config(small_sd), dtype="float32"), image)
    for dtype, least in (("bfloat16", 0.98), ("float16", 0.999)):
        half = dense(replace(config(small_sd), dtype=dtype), image)
        assert half.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(full, half, dim=0).min() > least


def test_embedding_is_computed_once(folder: Path, image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    asking = replace(config(folder), prompt="a cat")
    first, encoded = dense(asking, image), cached(folder, "a cat")
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    assert torch.equal(dense(asking, image), first)
    with pytest.raises(MissingDependencyError, match=r"geomatch-dift\[transformers\]"):
        _ = DIFTExtractor(replace(asking, prompt="a dog")).model
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / part)
    assert torch.equal(dense(asking, image), first)
    with pytest.raises(WeightsError, match="text_encoder: missing, and the encoding of prompt 'a dog'"):
        _ = DIFTExtractor(replace(asking, prompt="a dog")).model
    given = DIFTExtractor(replace(asking, prompt="a dog"), conditioning=encoded)
    assert torch.equal(given.dense(image).maps[0], first)
    with pytest.raises(ShapeError, match=r"\(tokens, 32\), got \(77, 8\)"):
        _ = DIFTExtractor(asking, {"prompt_embeds": encoded["prompt_embeds"][:, :8]}).model
    for path in (folder / "prompt_embeddings").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(WeightsError, match="not a readable prompt embedding"):
        _ = DIFTExtractor(asking).model


def test_another_text_encoder_makes_other_embeddings(folder: Path) -> None:
    """Whatever part of it is another, the last weight included."""
    pytest.importorskip("transformers")

    def embedding() -> np.ndarray[Any, Any]:
        DIFTExtractor(config(folder)).load_networks()
        return cached(folder, "")["prompt_embeds"]

    before = embedding()
    path = folder / "text_encoder" / "model.safetensors"
    state = load_file(path)
    name = next(key for key in state if key.endswith("final_layer_norm.bias"))
    for make_other in (
        lambda: save_file({**state, name: state[name] + 0.1}, path, metadata={"format": "pt"}),
        lambda: change(folder / "text_encoder" / "config.json", {"hidden_act": "gelu"}),
        lambda: change(folder / "tokenizer" / "vocab.json", {"<|startoftext|>": 1, "<|endoftext|>": 0}),
    ):
        make_other()
        assert cached_conditioning(SD, folder, "") is None
        after = embedding()
        assert not np.allclose(before, after)
        before = after


def test_fingerprint_covers_all_that_decides(folder: Path) -> None:
    pytest.importorskip("transformers")
    asking = config(folder)
    seen = {model_fingerprint(asking)}
    assert model_fingerprint(asking) in seen
    for part, name in (("unet", "conv_in.weight"), ("vae", "encoder.conv_in.weight")):
        state = load_file(folder / part / WEIGHTS)
        save_file({**state, name: state[name] * 1.1}, folder / part / WEIGHTS)
        seen.add(model_fingerprint(asking))
    change(folder / "scheduler" / "scheduler_config.json", {"beta_end": 0.5})
    seen.add(model_fingerprint(asking))
    for part in ("unet", "vae"):
        change(folder / part / "config.json", {"norm_eps": 0.5})
        seen.add(model_fingerprint(asking))
    seen.add(model_fingerprint(replace(asking, prompt="a cat")))
    assert len(seen) == 7


def test_other_files_of_the_same_weights(folder: Path, image: Image) -> None:
    """Pickled weights, shards with an index, old names in the autoencoder."""
    expected = dense(config(folder), image)
    unet, vae = folder / "unet" / WEIGHTS, folder / "vae" / WEIGHTS
    state = load_file(unet)
    unet.unlink()
    names = sorted(state)
    shards = {"part-1.safetensors": names[:50], "part-2.safetensors": names[50:]}
    for shard, members in shards.items():
        save_file({name: state[name] for name in members}, folder / "unet" / shard)
    index = {"weight_map": {name: shard for shard, members in shards.items() for name in members}}
    (folder / "unet" / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    old = load_file(vae)
    vae.unlink()
    for new, then in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        old = {name.replace(f".{new}.", f".{then}."): value for name, value in old.items()}
    assert any(".query." in name for name in old)
    torch.save(old, folder / "vae" / "diffusion_pytorch_model.bin")
    assert torch.equal(dense(config(folder), image), expected)
    (folder / "unet" / "part-2.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"unet/part-2.safetensors is missing; `geomatch models check"):
        dense(config(folder), image)


def test_replaced_unet(folder: Path, image: Image, tmp_path: Path) -> None:
    """As for CleanDIFT: another UNet's weights in a pipeline whose own are not even there."""
    expected = dense(config(folder), image)
    file = tmp_path / "clean.safetensors"
    shutil.move(folder / "unet" / WEIGHTS, file)
    swapped = replace(config(folder), unet_file=str(file))
    assert torch.equal(dense(swapped, image), expected)
    save_file({"conv_in.weight": torch.zeros(1)}, file)
    for settings, words in (
        (config(folder), r"unet/diffusion_pytorch_model.safetensors is missing"),
        (swapped, r"clean.safetensors: weights of another network"),
        (replace(swapped, unet_file="nowhere.safetensors"), "no such file"),
    ):
        with pytest.raises(WeightsError, match=words):
            DIFTExtractor(settings).load_networks()


def change(path: Path, changes: dict[str, object]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_damage_is_named(folder: Path, small_sd: Path) -> None:
    def fails(words: str) -> None:
        with pytest.raises(WeightsError, match=words) as caught:
            DIFTExtractor(config(folder)).load_networks()
        assert str(folder) in str(caught.value)
        for path in small_sd.rglob("*"):  # mend it
            if path.is_file():
                target = folder / path.relative_to(small_sd)
                target.parent.mkdir(exist_ok=True)
                shutil.copy(path, target)

    for part in ("unet", "vae"):
        path = folder / part / WEIGHTS
        path.write_bytes(path.read_bytes()[:-1000])
        fails(rf"{part}/{WEIGHTS}: not a readable file of weights")
        path.unlink()
        fails(rf"{part}/{WEIGHTS} is missing")
        (folder / part / "config.json").unlink()
        fails(rf"{part}/config.json")
        state = load_file(folder / part / WEIGHTS)
        name = "encoder.conv_in.weight" if part == "vae" else "conv_in.weight"
        save_file({key: value for key, value in state.items() if key != name}, path)
        fails(rf"lacks {name}")
        save_file({**state, "surplus": torch.zeros(1)}, path)
        fails(r"has unknown surplus \(1 such\)")
        save_file({**state, name: state[name][:1]}, path)
        fails(rf"{name} has shape")
    schedule, unet = folder / "scheduler" / "scheduler_config.json", folder / "unet" / "config.json"
    schedule.unlink()
    fails("scheduler_config.json is missing")
    for path, changes, words in (
        (schedule, {"beta_schedule": "no such"}, "scheduler_config.json: not a readable noise schedule"),
        (unet, {"_class_name": "Kandinsky3UNet"}, "describes Kandinsky3UNet, of which .* supported are"),
        (unet, {"block_out_channels": [32]}, "not a readable description of a UNet2DConditionModel"),
        (unet, {"in_channels": 9}, "takes 9 channels, the autoencoder gives 4; inpainting"),
        (unet, {"class_embed_type": "projection"}, "wants more than text"),
    ):
        change(path, changes)
        fails(words)


def test_what_a_folder_is_checked_for(
    folder: Path, small_sd: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not only what is there: weights that are whole and belong to their configurations, and the schedule."""

    def told(*words: str, code: int = 1) -> None:
        assert main(["models", "check", str(folder)]) == code
        out, err = capfd.readouterr()
        assert err == ""
        for word in words:
            assert word in out

    told("Stable Diffusion 1 or 2", "any prompt" if find_spec("transformers") else "", code=0)
    unet, vae = folder / "unet" / WEIGHTS, folder / "vae" / "config.json"
    content, described = unet.read_bytes(), vae.read_text()
    unet.write_bytes(content[:-1000])
    told("wrong", f"{unet}: not a readable file of weights", "nothing yet")
    save_file(load_file(small_sd / "vae" / WEIGHTS), unet)
    told("wrong", "weights of another network", "nothing yet")
    unet.write_bytes(content)
    change(vae, {"_class_name": "VQModel"})
    told("wrong", f"{vae}: is a VQModel", "nothing yet")
    vae.write_text(described)
    change(vae, {"a_setting_of_later_versions": 1})  # of which diffusers would tell
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    told("wrong", "without betas", "nothing yet")


def test_text_encoders_that_do_not_fit_are_refused(folder: Path) -> None:
    """Nothing is made up in place of tensors or words that are missing; the file is named."""
    pytest.importorskip("transformers")
    encoder, tokenizer = folder / "text_encoder", folder / "tokenizer"
    asking = replace(config(folder), prompt="a cat")

    def fails(words: str) -> None:
        with pytest.raises(WeightsError, match=words):
            _ = DIFTExtractor(asking).model
        assert not (folder / "prompt_embeddings").exists()

    shutil.rmtree(folder / "prompt_embeddings", ignore_errors=True)
    for changes in ({"num_hidden_layers": 9}, {"intermediate_size": 7}):
        described = (encoder / "config.json").read_text()
        change(encoder / "config.json", changes)
        fails(rf"^{encoder / 'model.safetensors'}: weights of another text encoder: lacks .*config.json$")
        (encoder / "config.json").write_text(described)
    content = (encoder / "model.safetensors").read_bytes()
    (encoder / "model.safetensors").write_bytes(content[:-9])
    fails(rf"^{encoder}: not a readable text encoder")
    (encoder / "model.safetensors").write_bytes(content)
    (tokenizer / "vocab.json").write_text("nothing")
    fails(rf"^{tokenizer}: not a readable tokenizer")
    (tokenizer / "vocab.json").unlink()
    fails(rf"^{tokenizer}: incomplete")


def test_long_prompts_are_told_and_settings_of_libraries_stay(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    transformers = pytest.importorskip("transformers")
    logs = transformers.utils.logging
    before = logs.get_verbosity(), logs.is_progress_bar_enabled()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda letter: encode_prompt(SD, folder, 99 * f"{letter} "), "abc"))
    assert (logs.get_verbosity(), logs.is_progress_bar_enabled()) == before
    told = [record.getMessage() for record in caplog.records if record.name.startswith("geomatch")]
    assert told == [f"{folder / 'tokenizer'}: reads 77 tokens, the prompt has more"] * 3
