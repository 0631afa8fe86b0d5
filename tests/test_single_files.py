"""Models in one file: equal to their folders, decided by shapes, read in part, refused in one line."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import original_names as names
import pytest
import torch
from safetensors.torch import load_file, save_file

from geomatch import DIFTConfig, DIFTExtractor, MissingDependencyError, WeightsError
from geomatch.cli import main
from geomatch.dift.files import model_fingerprint
from geomatch.images import Image
from geomatch.weights import originals
from geomatch.weights.checkpoint import empty_network, fill_network
from geomatch.weights.families import FAMILIES
from geomatch.weights.folders import family_of
from geomatch.weights.prompt import encode_prompt
from geomatch.weights.single_files import single_file_folder
from geomatch.weights.sources import model_folder

PACKAGED = Path(originals.__file__).parent / "single-files"
ENCODERS = {
    "sd1": {"cond_stage_model.transformer.": "text_encoder"},
    "sd2": {"cond_stage_model.model.": "text_encoder"},
    "sdxl": {
        "conditioner.embedders.0.transformer.": "text_encoder",
        "conditioner.embedders.1.model.": "text_encoder_2",
    },
    "sdxl-refiner": {"conditioner.embedders.0.model.": "text_encoder_2"},
}
IMAGE = Image(np.random.default_rng(3).integers(0, 256, (64, 96, 3), dtype=np.uint8), "noise")
State = dict[str, torch.Tensor]


def described(model: Path) -> Any:
    settings = DIFTConfig(str(model), 0, (1,), image_size=None, device="cpu")
    return DIFTExtractor(settings).dense(IMAGE).maps[0]


def copied(folder: Path, to: Path, half: bool = False) -> Path:
    """A copy of a model's folder, in which nothing is cached."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("prompt_embeddings"))
    for path in to.glob("*/*.safetensors") if half else ():
        save_file({name: part.half() for name, part in load_file(path).items()}, path)
    return to


def as_file(folder: Path, path: Path, kind: str) -> Path:
    """The model as one file, beside its configurations and tokenizers."""
    state = names.whole_file(folder, ENCODERS[kind])
    copied(folder, path.parent)
    for weights in path.parent.glob("*/*.safetensors"):
        weights.unlink()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state | {"model_ema.decay": torch.ones(())}, "global_step": 7}, path)
    return path


@pytest.fixture(scope="module")
def small_xl(small_sd: Path, seeded: Callable[..., State], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion XL of small width, with both of its text encoders."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("small-xl") / "xl"
    copied(small_sd, folder)
    shutil.copytree(folder / "tokenizer", folder / "tokenizer_2")
    packaged = json.loads((PACKAGED / "sdxl" / "unet" / "config.json").read_text())
    packaged |= {"block_out_channels": [32, 32, 64], "cross_attention_dim": 40, "norm_num_groups": 16}
    packaged |= {"projection_class_embeddings_input_dim": 24 + 6 * 8, "addition_time_embed_dim": 8}
    packaged |= {"transformer_layers_per_block": [1, 1, 2], "attention_head_dim": [2, 2, 4]}
    sizes = {"num_attention_heads": 2, "vocab_size": 54, "bos_token_id": 0, "eos_token_id": 1}
    first = transformers.CLIPTextConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, **sizes)
    second = transformers.CLIPTextConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=3, projection_dim=24, **sizes
    )
    for name, network in {
        "unet": diffusers.UNet2DConditionModel.from_config(packaged),
        "text_encoder": transformers.CLIPTextModel(first),
        "text_encoder_2": transformers.CLIPTextModelWithProjection(second),
    }.items():
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        network.load_state_dict(seeded(shapes, name))
        network.save_pretrained(folder / name)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    return folder


@pytest.mark.parametrize(("kind", "suffix"), [("sd1", ".ckpt"), ("sdxl", ".safetensors")])
def test_equal_to_the_folder(
    kind: str, suffix: str, small_sd: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Descriptors and encodings of prompts, to the bit; by the text encoders inside."""
    pytest.importorskip("transformers")
    source = small_sd if kind == "sd1" else request.getfixturevalue("small_xl")
    file, folder = as_file(source, tmp_path / "one" / f"model{suffix}", kind), copied(source, tmp_path / "c")
    family = family_of(folder)
    assert family is not None
    for prompt in ("", "a b"):
        ours, theirs = (encode_prompt(family, home, prompt) for home in (model_folder(str(file)), folder))
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            np.testing.assert_array_equal(ours[name], value)
    assert torch.equal(described(file), described(folder))


def test_half_precision(small_sd: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = copied(small_sd, tmp_path / "half", half=True)
    file = as_file(folder, tmp_path / "one" / "model.safetensors", "sd1")
    assert torch.equal(described(file), described(folder))
    assert not torch.equal(described(file), described(small_sd))


def test_openclip(small_sd: Path, tmp_path: Path) -> None:
    """The text encoder of Stable Diffusion 2, whose queries, keys and values are one matrix."""
    pytest.importorskip("transformers")
    file = as_file(small_sd, tmp_path / "one" / "model.safetensors", "sd2")
    sd = FAMILIES["Stable Diffusion 1 or 2"]
    np.testing.assert_array_equal(
        encode_prompt(sd, model_folder(str(file)), "c")["prompt_embeds"],
        encode_prompt(sd, copied(small_sd, tmp_path / "copy"), "c")["prompt_embeds"],
    )


def test_only_what_is_needed_is_read(small_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    class Counting:
        def __init__(self, path: Path, framework: str) -> None:
            self.content = opened(path, framework=framework)
            self.keys, self.get_slice = self.content.keys, self.content.get_slice

        def get_tensor(self, name: str) -> torch.Tensor:
            read.append(name)
            return self.content.get_tensor(name)

    file = as_file(small_sd, tmp_path / "one" / "model.safetensors", "sd1")
    config = DIFTConfig(str(file), 0, (1,), image_size=None, device="cpu")
    conditioning = {"prompt_embeds": np.zeros((77, 32), np.float32)}
    opened = originals.safe_open
    monkeypatch.setattr(originals, "safe_open", Counting)
    width = DIFTExtractor(config, conditioning).model.network.config.cross_attention_dim
    assert width == 32
    assert read
    assert len(read) == len(set(read))
    starts = ("first_stage_model.encoder.", "first_stage_model.quant_conv.", "model.diffusion_model.")
    assert {name for name in read if not name.startswith(starts)} == set()
    assert not [name for name in read if ".output_blocks.11." in name or ".diffusion_model.out." in name]


def full_width(kind: str) -> dict[str, Any]:
    """The networks that the package's configurations describe, without memory."""
    transformers = pytest.importorskip("transformers")
    found = {}
    with torch.device("meta"):
        for path in (PACKAGED / kind).glob("*/config.json"):
            config = json.loads(path.read_text())
            if "_class_name" in config:
                found[path.parent.name] = getattr(diffusers, config["_class_name"]).from_config(config)
            else:
                make = getattr(transformers, config["architectures"][0])
                found[path.parent.name] = make(transformers.CLIPTextConfig(**config))
    return found


SIZES = {  # of the published networks
    "sd1": (859_520_964, 123_060_480), "sd2": (865_910_724, 340_387_840),
    "sdxl": (2_567_463_684, 123_060_480 + 694_659_840), "sdxl-refiner": (2_259_526_660, 694_659_840),
}  # fmt: skip


@pytest.mark.parametrize("kind", SIZES)
def test_configurations_of_the_package(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is chosen by the shapes of its file, and has a place for every tensor in it."""
    networks = full_width(kind)
    parts = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    assert (parts.pop("unet"), parts.pop("vae")) == (SIZES[kind][0], 83_653_863)
    assert sum(parts.values()) == SIZES[kind][1]
    shapes = {f"model.diffusion_model.{n}": p for n, p in names.unet(networks["unet"].state_dict()).items()}
    vae = names.autoencoder(networks["vae"].state_dict())
    shapes |= {f"first_stage_model.{n}": p for n, p in vae.items()}
    tensors = {name: originals._later(part.shape, part.clone) for name, part in shapes.items()}
    monkeypatch.setattr(originals, "stored_tensors", lambda path: dict(tensors))
    file = tmp_path / "model.safetensors"
    file.touch()
    folder = model_folder(str(file))
    assert (folder / "unet" / "config.json").resolve() == PACKAGED / kind / "unet" / "config.json"
    for name in ("unet", "vae"):
        found = originals.network_tensors(networks[name], file)
        assert {n: tuple(p.shape) for n, p in found.items()} == {
            n: tuple(p.shape) for n, p in networks[name].state_dict().items()
        }
    family = family_of(folder)
    assert family is not None
    with pytest.raises(WeightsError, match=r"text_encoder.*give the conditioning, or give a folder with"):
        encode_prompt(family, folder, "")


def test_tokens_of_the_empty_prompt() -> None:
    transformers = pytest.importorskip("transformers")
    pads = {"sd1/tokenizer": 49407, "sd2/tokenizer": 0, "sdxl/tokenizer": 49407, "sdxl/tokenizer_2": 0,
            "sdxl-refiner/tokenizer_2": 0}  # fmt: skip
    for name, pad in pads.items():
        tokenizer = transformers.CLIPTokenizer.from_pretrained(PACKAGED / name, local_files_only=True)
        assert tokenizer("", padding="max_length").input_ids == [49406, 49407, *[pad] * 75]


def test_other_prompts_take_the_tokenizer_of_clip(
    small_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    source = copied(small_sd, tmp_path / "copy")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPTextConfig(vocab_size=49408, bos_token_id=49406, eos_token_id=49407, **sizes)
    transformers.CLIPTextModel(config).save_pretrained(source / "text_encoder")
    words = {"!": 0, "a": 64, "a</w>": 320, "<|startoftext|>": 49406, "<|endoftext|>": 49407}
    (source / "tokenizer" / "vocab.json").write_text(json.dumps(words))
    file = as_file(source, tmp_path / "one" / "model.safetensors", "sd1")
    shutil.rmtree(file.parent / "tokenizer")
    shutil.copytree(PACKAGED / "sd1" / "tokenizer", file.parent / "tokenizer")
    sd, folder = FAMILIES["Stable Diffusion 1 or 2"], single_file_folder(file)
    np.testing.assert_array_equal(
        encode_prompt(sd, folder, "")["prompt_embeds"], encode_prompt(sd, source, "")["prompt_embeds"]
    )
    with pytest.raises(WeightsError, match="openai/clip-vit-large-patch14 is not in the cache"):
        encode_prompt(sd, folder, "a a")
    snapshot = cache / "models--openai--clip-vit-large-patch14" / "snapshots" / "0123"
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(source / "tokenizer", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    np.testing.assert_array_equal(
        encode_prompt(sd, folder, "a a")["prompt_embeds"], encode_prompt(sd, source, "a a")["prompt_embeds"]
    )


def zeros(shapes: dict[str, tuple[int, ...]]) -> State:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


NET, VAE = "model.diffusion_model.", {"first_stage_model.quant_conv.bias": (8,)}
FIRST, CROSS = f"{NET}input_blocks.0.0.weight", f"{NET}input_blocks.1.1.attn2.to_k.weight"
REFUSED = {
    "inpainting": ({FIRST: (4, 9, 3, 3), CROSS: (4, 768), **VAE}, "9 channels.* inpainting"),
    "flux": ({"double_blocks.0.img_mod.lin.weight": (2, 2)}, "FLUX.1 .*--unet-file"),
    "sd3": ({f"{NET}joint_blocks.0.x_block.attn.qkv.weight": (2, 2)}, "Stable Diffusion 3 .*--unet-file"),
    "no autoencoder": ({FIRST: (4, 4, 3, 3), CROSS: (4, 768)}, "an autoencoder .*--unet-file"),
    "diffusers' names": ({"conv_in.weight": (4, 4, 3, 3)}, "expected .* Stable Diffusion 1, 2 or XL"),
    "other width": ({FIRST: (4, 4, 3, 3), CROSS: (4, 512), **VAE}, "put its pipeline's configurations"),
    "unclip": (
        {FIRST: (4, 4, 3, 3), CROSS: (4, 1024), f"{NET}label_emb.0.0.bias": (3,), **VAE}, "the shapes of none"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_refused(name: str, tmp_path: Path) -> None:
    shapes, message = REFUSED[name]
    file = tmp_path / "model.safetensors"
    save_file(zeros(shapes), file)
    with pytest.raises(WeightsError, match=message) as caught:
        model_folder(str(file))
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("broken.safetensors", "broken.ckpt"):
        Path(name).write_bytes(b"x")
        with pytest.raises(WeightsError, match=f"^{name}: not a readable file of weights") as caught:
            model_folder(name)
        assert "torch.load" not in str(caught.value)  # whose advice is to run the file's code
    Path("org").mkdir()
    Path("org/notes.txt").touch()  # which could be an id on the hub
    with pytest.raises(WeightsError, match=r"expected a .safetensors or .ckpt file"):
        model_folder("org/notes.txt")
    with pytest.raises(WeightsError, match="nor a folder or file"):
        model_folder("org/gone.safetensors")
    assert main(["match", "--descriptor", "broken.ckpt", "no.png", "no.png"]) == 2
    assert len(capsys.readouterr().err.splitlines()) <= 3


def test_folders_of_a_hub_cache(small_sd: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = copied(small_sd, repository / "snapshots" / "abc")
    assert model_folder(str(repository)) == snapshot
    (repository / "snapshots" / "def").mkdir()
    with pytest.raises(WeightsError, match="2 snapshots; give the folder of one"):
        model_folder(str(repository))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert model_folder(str(repository)) == snapshot


def test_a_file_that_changes(small_sd: Path, tmp_path: Path) -> None:
    file = as_file(small_sd, tmp_path / "one" / "model.safetensors", "sd1")
    folder, config = single_file_folder(file), DIFTConfig(str(file))
    fingerprint = model_fingerprint(config, {})
    assert single_file_folder(file) == folder
    assert folder.name.startswith("model-")
    assert all(path.is_symlink() for path in folder.rglob("*") if not path.is_dir())
    save_file({name: part + 1 for name, part in load_file(file).items()}, file)
    assert single_file_folder(file) != folder
    assert model_fingerprint(config, {}) != fingerprint


TINY_SD3 = {
    "_class_name": "SD3Transformer2DModel", "sample_size": 8, "num_layers": 3, "attention_head_dim": 8,
    "num_attention_heads": 4, "joint_attention_dim": 24, "caption_projection_dim": 32,
    "pooled_projection_dim": 20, "pos_embed_max_size": 8, "qk_norm": "rms_norm",
}  # fmt: skip


@pytest.fixture(scope="module")
def sd3(seeded: Callable[..., State], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    """The folder of a transformer without weights, and these."""
    folder = tmp_path_factory.mktemp("sd3")
    (folder / "config.json").write_text(json.dumps(TINY_SD3))
    network = diffusers.SD3Transformer2DModel.from_config(TINY_SD3)
    return folder, seeded({n: tuple(p.shape) for n, p in network.state_dict().items()}, "sd3")


def filled(folder: Path, file: Path) -> State:
    network = empty_network(diffusers.SD3Transformer2DModel.from_config, folder)
    fill_network(network, folder, torch.float32, [], file)
    found: State = network.state_dict()
    return found


def assert_same(got: State, wanted: State) -> None:
    assert got.keys() == wanted.keys()
    assert not [name for name, part in wanted.items() if not torch.equal(got[name], part)]


@pytest.mark.parametrize("prefix", ["", NET])
def test_transformers_under_original_names(prefix: str, sd3: tuple[Path, State], tmp_path: Path) -> None:
    folder, state = sd3
    file, original = tmp_path / "sd3.safetensors", names.sd3(state)
    save_file({f"{prefix}{name}": part.contiguous() for name, part in original.items()}, file)
    assert_same(filled(folder, file), state)
    eight = {f"{prefix}{name}": part.to(torch.float8_e4m3fn) for name, part in original.items()}
    save_file(eight, file)
    assert_same(filled(folder, file), {n: p.to(torch.float8_e4m3fn).float() for n, p in state.items()})
    save_file(eight | {"joint_blocks.0.x_block.attn.qkv.scale_weight": torch.ones(1)}, file)
    with pytest.raises(WeightsError, match=r"fp8 with scales .*scale_weight"):
        filled(folder, file)
    save_file({name: part.contiguous() for name, part in original.items()} | {"more": torch.ones(3)}, file)
    with pytest.raises(WeightsError, match="more than a SD3Transformer2DModel has"):
        filled(folder, file)


def test_gguf(sd3: tuple[Path, State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, state = sd3
    file = tmp_path / "sd3.gguf"
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "gguf", None)
        with pytest.raises(MissingDependencyError, match=r"geomatch-dift\[gguf\]"):
            filled(folder, file)
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType.Q8_0
    writer, rounded = gguf.GGUFWriter(file, "sd3"), {}
    for name, part in names.sd3(state).items():
        numbers, raw = part.contiguous().numpy(), None
        if part.ndim == 2 and part.shape[1] % 32 == 0:
            numbers, raw = gguf.quantize(numbers, kind), kind
        writer.add_tensor(name, numbers, raw_dtype=raw)
        rounded[name] = torch.from_numpy(gguf.dequantize(numbers, kind).copy()) if raw else part.contiguous()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    same = tmp_path / "same.safetensors"
    save_file(rounded, same)
    assert_same(filled(folder, file), filled(folder, same))


def test_network_alone(small_sd: Path, tmp_path: Path) -> None:
    """As ComfyUI keeps it, with or without the prefix, or the whole model's file: in place of a folder's."""
    stored = load_file(next((small_sd / "unet").glob("*.safetensors")))
    alone = {name: part.contiguous() for name, part in names.unet(stored).items()}
    prefixed = {f"{NET}{name}": part for name, part in alone.items()}
    file = tmp_path / "unet.safetensors"
    for content in (alone, prefixed, prefixed | zeros(VAE) | {"cond_stage_model.y": torch.ones(2)}):
        save_file(content, file)
        network = empty_network(diffusers.UNet2DConditionModel.from_config, small_sd / "unet")
        fill_network(network, small_sd / "unet", torch.float32, [], file)
        assert_same(network.state_dict(), stored)
