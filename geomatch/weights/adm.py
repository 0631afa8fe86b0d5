"""OpenAI's ADM (guided-diffusion) checkpoints as stock diffusers models; shapes tell the architecture."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geomatch.errors import WeightsError, reading
from geomatch.files import new_folder, sha256_of
from geomatch.weights.download import check_file
from geomatch.weights.folders import write_sums
from geomatch.weights.tensors import load_pickled

HEAD_CHANNELS = 64  # per attention head of OpenAI's models; shapes do not tell
_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
_OUTER = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip


def convert_adm(checkpoint: Path, out: Path) -> Path:
    """Make the diffusers ``UNet2DModel`` folder ``out`` of an unconditional ADM checkpoint; return it.

    Attention heads are taken to have 64 channels, or the base width if that is less. Runs no code of it.
    """
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    with new_folder(out) as folder:
        unet = _converted(checkpoint)
        unet.save_pretrained(folder)
        # linear betas, 1000 steps: guided-diffusion's script_util defaults for these models
        DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear").save_pretrained(folder)
        heads = unet.config.attention_head_dim
        record = {"source": checkpoint.name, "sha256": sha256_of(checkpoint), "head_channels": heads}
        (folder / "conversion.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        write_sums(folder)
    return out


def _converted(checkpoint: Path) -> Any:
    from diffusers.models.unets.unet_2d import UNet2DModel

    check_file(checkpoint)
    with reading(checkpoint, "torch checkpoint of weights alone", WeightsError):
        state = load_pickled(checkpoint)
    with reading(checkpoint, "unconditional guided-diffusion UNet", WeightsError):
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError("it holds no state dict (names and tensors)")
        config = adm_config(state)
        renamed = _renamed(state, config)
        with torch.device("meta"):
            unet = UNet2DModel.from_config(config)
        try:
            unet.load_state_dict(renamed, assign=True)
        except RuntimeError as error:  # its first line names the class alone
            raise ValueError(str(error).split("\n")[1].strip()[:300]) from error
    return unet


def adm_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The `UNet2DModel` configuration that the shapes of an ADM state dict imply."""
    outputs = [int(name.split(".")[1]) for name in state if name.startswith("output_blocks.")]
    if not outputs:
        raise ValueError("there are no output_blocks")
    if "label_emb.weight" in state:
        raise ValueError("it is class-conditional; DIFT uses the unconditional model")
    # a level ends in one more residual block, which goes up; the last level has none
    ups = [name for name in state if re.fullmatch(r"output_blocks\.\d+\.[12]\.in_layers\.0\.weight", name)]
    blocks, levels = 1 + max(outputs), len(ups) + 1
    if blocks % levels or any(".op." in name or name.endswith(".conv.weight") for name in state):
        raise ValueError("it goes up and down without residual blocks (resblock_updown=False)")
    each = blocks // levels  # residual blocks of a level on the way up; one fewer on the way down
    starts = [1 + level * each for level in range(levels)]
    channels = [state[f"input_blocks.{start}.0.out_layers.3.weight"].shape[0] for start in starts]
    attention = [f"input_blocks.{start}.1.qkv.weight" in state for start in starts]
    base = state["input_blocks.0.0.weight"].shape[0]
    heads = min(HEAD_CHANNELS, base)
    narrow = [c for c, attends in zip(channels, attention, strict=True) if attends and c % heads]
    if narrow:
        raise ValueError(f"{narrow[0]} channels cannot be split into heads of {heads}")
    shifts = state["input_blocks.1.0.emb_layers.1.weight"].shape[0] == 2 * channels[0]
    return {
        "_class_name": "UNet2DModel",
        "in_channels": state["input_blocks.0.0.weight"].shape[1],
        "out_channels": state["out.2.weight"].shape[0],
        "layers_per_block": each - 1,
        "block_out_channels": channels,
        "down_block_types": ["AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attention],
        "up_block_types": ["AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(attention)],
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "attention_head_dim": heads,
        "attn_norm_num_groups": 32,
        "resnet_time_scale_shift": "scale_shift" if shifts else "default",
    }


def _renamed(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict under diffusers' names, with queries, keys and values apart."""
    each = int(config["layers_per_block"]) + 1
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        path, kind = name.rsplit(".", 1)
        if path in _OUTER:
            renamed[f"{_OUTER[path]}.{kind}"] = value
            continue
        home, part = _place(path, each, state)
        if part in _RESNET:
            renamed[f"{home}.{_RESNET[part]}.{kind}"] = value
        elif part == "norm":
            renamed[f"{home}.group_norm.{kind}"] = value
        elif part == "proj_out":
            renamed[f"{home}.to_out.0.{kind}"] = value.squeeze(-1) if kind == "weight" else value
        elif part == "qkv":
            # guided-diffusion's legacy order: heads outside, then q, k, v, then the head's channels
            split = value.reshape(-1, 3, int(config["attention_head_dim"]), *value.shape[1:])
            for index, letter in enumerate("qkv"):
                chosen = split[:, index].flatten(0, 1)
                chosen = chosen.squeeze(-1) if kind == "weight" else chosen
                renamed[f"{home}.to_{letter}.{kind}"] = chosen.contiguous()
        else:
            raise ValueError(f"it has {name}")
    return renamed


def _place(path: str, each: int, state: Mapping[str, Tensor]) -> tuple[str, str]:
    """Split a parameter's path into diffusers' block and guided-diffusion's name inside it."""
    side, first, rest = path.split(".", 2)
    if side == "middle_block":
        places = {"0": "mid_block.resnets.0", "1": "mid_block.attentions.0", "2": "mid_block.resnets.1"}
        return places[first], rest
    index, (slot, part) = int(first), rest.split(".", 1)
    if side == "input_blocks":
        level, position = divmod(index - 1, each)
        if slot == "0" and position == each - 1:
            return f"down_blocks.{level}.downsamplers.0", part
        return f"down_blocks.{level}.{'resnets' if slot == '0' else 'attentions'}.{position}", part
    if side != "output_blocks":
        raise ValueError(f"it has {path}")
    level, position = divmod(index, each)
    if slot == "0" or (slot == "1" and f"{side}.{index}.1.qkv.weight" in state):
        return f"up_blocks.{level}.{'resnets' if slot == '0' else 'attentions'}.{position}", part
    return f"up_blocks.{level}.upsamplers.0", part
