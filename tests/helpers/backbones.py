"""Small models of every family, with seeded weights, as folders of their pipelines."""

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).parents[1] / "golden"
_LEVELS = 4
_KL: dict[str, Any] = {
    "block_out_channels": (8,) * _LEVELS, "down_block_types": ("DownEncoderBlock2D",) * _LEVELS,
    "up_block_types": ("UpDecoderBlock2D",) * _LEVELS, "norm_num_groups": 4, "layers_per_block": 1,
}  # fmt: skip
_RES = ("ResBlock",) * 3
_SIX: dict[str, Any] = {"num_attention_heads": 2, "joint_attention_dim": 16}
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "FLUX.2": (
        {"_class_name": "Flux2Transformer2DModel", "patch_size": 1, "in_channels": 32, "num_layers": 1,
         "num_single_layers": 2, "attention_head_dim": 16, "axes_dims_rope": (4, 4, 4, 4),
         "timestep_guidance_channels": 16, **_SIX},
        {"_class_name": "AutoencoderKLFlux2", "latent_channels": 8, **_KL},
    ),
    "Qwen-Image": (
        {"_class_name": "QwenImageTransformer2DModel", "patch_size": 2, "in_channels": 64, "out_channels": 16,
         "num_layers": 2, "attention_head_dim": 16, "axes_dims_rope": (4, 6, 6), **_SIX},
        {"_class_name": "AutoencoderKLQwenImage", "base_dim": 8, "z_dim": 16, "dim_mult": [1, 1, 1, 1],
         "num_res_blocks": 1, "temperal_downsample": [False, True, True]},
    ),
    "SANA": (
        {"_class_name": "SanaTransformer2DModel", "patch_size": 1, "in_channels": 8, "out_channels": 8,
         "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "num_cross_attention_heads": 2,
         "cross_attention_head_dim": 8, "cross_attention_dim": 16, "caption_channels": 16, "sample_size": 8},
        {"_class_name": "AutoencoderDC", "latent_channels": 8, "encoder_block_out_channels": (8, 8, 8),
         "decoder_block_out_channels": (8, 8, 8), "encoder_layers_per_block": (1, 1, 1),
         "decoder_layers_per_block": (1, 1, 1), "encoder_block_types": _RES, "decoder_block_types": _RES,
         "encoder_qkv_multiscales": ((), (), ()), "decoder_qkv_multiscales": ((), (), ()),
         "scaling_factor": 0.4},
    ),
    "Lumina 2": (
        {"_class_name": "Lumina2Transformer2DModel", "sample_size": 16, "in_channels": 16, "hidden_size": 16,
         "num_layers": 2, "num_refiner_layers": 1, "num_attention_heads": 1, "num_kv_heads": 1,
         "multiple_of": 4, "axes_dim_rope": (4, 6, 6), "axes_lens": (16, 16, 16), "cap_feat_dim": 16},
        {"_class_name": "AutoencoderKL", "latent_channels": 16, **_KL},
    ),
    "Z-Image": (
        {"_class_name": "ZImageTransformer2DModel", "in_channels": 16, "dim": 16, "n_layers": 2,
         "n_refiner_layers": 1, "n_heads": 1, "n_kv_heads": 1, "cap_feat_dim": 16, "axes_dims": [4, 6, 6],
         "axes_lens": [64, 32, 32]},
        {"_class_name": "AutoencoderKL", "latent_channels": 16, **_KL},
    ),
    "AuraFlow": (
        {"_class_name": "AuraFlowTransformer2DModel", "sample_size": 16, "in_channels": 4, "out_channels": 4,
         "num_mmdit_layers": 1, "num_single_dit_layers": 2, "attention_head_dim": 8,
         "caption_projection_dim": 16, "pos_embed_max_size": 256, **_SIX},
        {"_class_name": "AutoencoderKL", "latent_channels": 4, **_KL},
    ),
}  # fmt: skip
"""Configurations of networks and autoencoders of the families that have no golden file."""


def seeded(network: nn.Module, salt: str) -> nn.Module:
    """The network with weights by the golden files' rule; two names of one tensor count once, tables stay."""
    known: dict[int, str] = {}
    state: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        first = known.setdefault(value.data_ptr(), name) if value.numel() else name
        if first != name:
            state[name] = state[first]
        elif not value.is_floating_point() or name == "pos_embed.pos_embed":
            state[name] = value
        else:
            generator = torch.Generator().manual_seed(zlib.crc32((salt + name).encode()))
            r = torch.randn(tuple(value.shape), generator=generator)
            if name.endswith("running_var"):
                state[name] = 1 + 0.1 * r.abs()
            elif r.ndim == 1:
                state[name] = 1 + 0.1 * r if name.endswith("weight") else 0.1 * r
            else:
                state[name] = r / math.sqrt(max(1, r[0].numel()))
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def make_network(config: dict[str, Any], salt: str) -> Any:
    """A network of diffusers with seeded weights."""
    import diffusers

    with torch.random.fork_rng(devices=[]):
        return seeded(getattr(diffusers, config["_class_name"]).from_config(config), salt)


def golden_folder(golden: Any, folder: Path) -> Path:
    """The model of a golden file as a folder, with made-up tokenizers of the golden's numbers."""
    import diffusers

    salt = str(golden["salt"])
    configs = {
        name.removesuffix("_config"): json.loads(str(golden[name]))
        for name in golden.files
        if "_config" in name
    }
    for part in ("unet", "transformer", "vae"):
        if part in configs:
            make_network(configs[part], f"{salt}{part}:").save_pretrained(folder / part)
    if configs.get("transformer", {}).get("norm_type") == "ada_norm_zero":  # as its hub repositories say
        config = configs["transformer"] | {"_class_name": "Transformer2DModel"}
        (folder / "transformer" / "config.json").write_text(json.dumps(config))
    scheduler = configs["scheduler"]
    getattr(diffusers, scheduler["_class_name"]).from_config(scheduler).save_pretrained(folder / "scheduler")
    index: dict[str, Any] = {"_class_name": "DiffusionPipeline"}
    for part, config in configs.items():
        if part.startswith("text_encoder"):
            name = config["architectures"][0]
            _text_encoder(folder, part, config, name, salt)
            index[part] = ["transformers", name]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _text_encoder(folder: Path, part: str, config: dict[str, Any], name: str, salt: str) -> None:
    import transformers

    kind = transformers.T5Config if name.startswith("T5") else transformers.CLIPTextConfig
    with torch.random.fork_rng(devices=[]):
        encoder = seeded(getattr(transformers, name)(kind(**config)), f"{salt}{part}:")
    encoder.save_pretrained(folder / part)
    home = folder / part.replace("text_encoder", "tokenizer")
    if name.startswith("T5"):
        words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
        letters = [(chr(97 + place), -3.0) for place in range(26)]
        transformers.T5Tokenizer(vocab=words + letters, extra_ids=0, model_max_length=24).save_pretrained(
            home
        )
    else:
        clip_tokenizer(home, padding=2 if part == "text_encoder_2" else 1)


def clip_tokenizer(folder: Path, padding: int) -> None:
    """The files that Stable Diffusion's repositories have, for single letters."""
    letters = [chr(97 + place) for place in range(26)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    special = {
        "bos_token": words[0],
        "eos_token": words[1],
        "unk_token": words[1],
        "pad_token": words[padding],
    }
    settings = special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    folder.mkdir()
    for name, content in (
        ("vocab.json", json.dumps({word: place for place, word in enumerate(words)})),
        ("merges.txt", "#version: 0.2\n"),
        ("special_tokens_map.json", json.dumps(special)),
        ("tokenizer_config.json", json.dumps(settings)),
    ):
        (folder / name).write_text(content)


def make_mistral(folder: Path) -> None:
    """The text encoder of FLUX.2 dev as small as its 31 layers allow, and what its repository has beside."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    common: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
    text = transformers.MistralConfig(
        vocab_size=258, num_hidden_layers=31, num_key_value_heads=1, head_dim=8, bos_token_id=0,
        eos_token_id=1, **common,
    )  # fmt: skip
    vision = transformers.PixtralVisionConfig(num_hidden_layers=1, image_size=28, patch_size=14, **common)
    config = transformers.Mistral3Config(text_config=text.to_dict(), vision_config=vision.to_dict())
    with torch.random.fork_rng(devices=[]):
        transformers.Mistral3ForConditionalGeneration(config).save_pretrained(folder / "text_encoder")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: place for place, word in enumerate(["<s>", "</s>", *letters])}
    bytewise = Tokenizer(models.BPE(vocab=words, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bytewise, pad_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'][0]['text'] }}</s>{% endfor %}"
    tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "tokenizer" / "processor_config.json").write_text('{"processor_class": "PixtralProcessor"}')
    (folder / "transformer").mkdir()
    (folder / "transformer" / "config.json").write_text(json.dumps(FAMILIES["FLUX.2"][0]))


def family_folder(name: str, folder: Path) -> Path:
    """A model of a family without golden file; text encoders it has none, but the empty prompt is cached."""
    for part, config in zip(("transformer", "vae"), FAMILIES[name], strict=True):
        make_network(config, f"geomatch-{name}:{part}:").save_pretrained(folder / part)
    (folder / "model_index.json").write_text("{}")
    from geomatch.weights.prompt import _path
    from geomatch.weights.tensors import save_tensors

    tensors = {name: tensor[0].contiguous() for name, tensor in text_of(name).items()}
    path = _path(folder, "")
    path.parent.mkdir()
    save_tensors(path, tensors, {"prompt": "", "text_encoder": "None"})
    return folder


def text_of(name: str) -> dict[str, Tensor]:
    """Conditioning of a family in `FAMILIES`, a row of each."""
    text = {"prompt_embeds": torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(1))}
    if name in ("SANA", "Lumina 2"):
        text["mask"] = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    return text


def golden_text(golden: Any) -> dict[str, Any]:
    """The conditioning in a golden file."""
    names = {"prompt_embeds": "prompt_embeds", "pooled": "pooled_prompt_embeds", "mask": "attention_mask"}
    return {
        ours: np.asarray(golden[theirs][0], np.float32)
        for ours, theirs in names.items()
        if theirs in golden.files
    }
