"""Diffusers folders as one file under the names of the models' authors, as A1111 and ComfyUI keep them."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

_PLAIN = {
    "conv_in.": "input_blocks.0.0.", "conv_norm_out.": "out.0.", "conv_out.": "out.2.",
    "time_embedding.linear_1.": "time_embed.0.", "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.", "add_embedding.linear_2.": "label_emb.0.2.",
}  # fmt: skip
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_OPEN = {
    "text_model.encoder.layers.": "transformer.resblocks.", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn": "attn",
    "text_model.final_layer_norm": "ln_final",
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
}  # fmt: skip
State = dict[str, Tensor]


def _replaced(name: str, table: dict[str, str]) -> str:
    for new, old in table.items():
        name = name.replace(new, old)
    return name


def unet(state: State, layers: int = 2) -> State:
    """Names of CompVis's ``UNetModel``, without a prefix."""
    attended = {match[1] for name in state if (match := re.match(r"up_blocks\.(\d+)\.attentions", name))}
    found = {}
    for name, tensor in state.items():
        place = re.match(
            r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(resnets|attentions|\w+samplers)\.(\d+)\.", name
        )
        if place is None:
            found[_replaced(name, _PLAIN)] = tensor
            continue
        side, block, kind, index = place[1], int(place[2] or 0), place[3], int(place[4])
        rest = name[place.end() :]
        if kind == "resnets":
            rest = _replaced(rest, _RESNET)
        which = int(kind == "attentions")
        if side == "mid":
            start = f"middle_block.{1 if which else 2 * index}"
        elif kind == "downsamplers":
            start, rest = f"input_blocks.{(layers + 1) * (block + 1)}.0", rest.replace("conv", "op")
        elif kind == "upsamplers":
            start = f"output_blocks.{(layers + 1) * block + layers}.{1 + (place[2] in attended)}"
        else:
            first = 1 if side == "down" else 0
            name = {"down": "input_blocks", "up": "output_blocks"}[side]
            start = f"{name}.{(layers + 1) * block + index + first}.{which}"
        found[f"{start}.{rest}"] = tensor
    return found


def autoencoder(state: State) -> State:
    """Names of CompVis's ``AutoencoderKL``, without a prefix; its attention is of convolutions."""
    top = max(int(name.split(".")[2]) for name in state if name.startswith("decoder.up_blocks"))
    found = {}
    for name, tensor in state.items():
        attention = "attentions" in name
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{top - int(m[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{top - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if attention:
            renamed = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
            name = _replaced(name, renamed)
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        found[name] = tensor
    return found


def clip(state: State) -> State:
    """Names of transformers' ``CLIPTextModel`` when these models were published."""
    return {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in state.items()}


def open_clip(state: State) -> State:
    """Names of OpenCLIP, where queries, keys and values are one matrix."""
    found: State = {"logit_scale": torch.tensor(4.6)}
    for name, tensor in clip(state).items():
        name = name.replace("text_model.text_projection", "text_projection")
        if name == "text_projection.weight":
            found["text_projection"] = tensor.T.contiguous()
        elif "q_proj" in name:
            parts = [clip(state)[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            joined = _replaced(name, _OPEN).replace("q_proj.", "in_proj_")
            found[joined] = torch.cat(parts)
        elif "k_proj" not in name and "v_proj" not in name:
            found[_replaced(name, _OPEN)] = tensor
    return found


def sd3(state: State) -> State:
    """Names of Stability's ``MMDiT``."""
    plain = {
        "pos_embed.pos_embed": "pos_embed", "pos_embed.proj": "x_embedder.proj",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "norm_out.linear": "final_layer.adaLN_modulation.1", "proj_out": "final_layer.linear",
    }  # fmt: skip
    block = {
        "attn.to_out.0": "x_block.attn.proj", "attn.to_add_out": "context_block.attn.proj",
        "ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2",
        "ff_context.net.0.proj": "context_block.mlp.fc1", "ff_context.net.2": "context_block.mlp.fc2",
        "norm1.linear": "x_block.adaLN_modulation.1",
        "norm1_context.linear": "context_block.adaLN_modulation.1",
        "attn.norm_q": "x_block.attn.ln_q", "attn.norm_k": "x_block.attn.ln_k",
        "attn.norm_added_q": "context_block.attn.ln_q", "attn.norm_added_k": "context_block.attn.ln_k",
    }  # fmt: skip
    last = max(int(name.split(".")[1]) for name in state if name.startswith("transformer_blocks"))
    found = {}
    for name, tensor in state.items():
        if name.startswith("norm_out") or name.startswith(f"transformer_blocks.{last}.norm1_context"):
            tensor = torch.cat(tensor.chunk(2)[::-1])
        if not name.startswith("transformer_blocks"):
            found[_replaced(name, plain)] = tensor
            continue
        number, rest = name.removeprefix("transformer_blocks.").split(".", 1)
        for query, part in (("to_q", "x_block"), ("add_q_proj", "context_block")):
            if query in rest:
                parts = [state[name.replace(query, query.replace("q", one))] for one in "qkv"]
                rest, tensor = f"{part}.attn.qkv.{rest.rpartition('.')[2]}", torch.cat(parts)
        if not re.search(r"to_[kv]\.|add_[kv]_proj", rest):
            stem, _, end = rest.rpartition(".")
            found[f"joint_blocks.{number}.{block.get(stem, stem)}.{end}"] = tensor
    return found


def whole_file(folder: Path, encoders: dict[str, Any] | None = None) -> State:
    """The tensors of a Stable Diffusion folder as its one file; by the prefixes of ``encoders``' names."""

    def part(name: str) -> State:
        return load_file(next((folder / name).glob("*.safetensors")))

    parts = [("model.diffusion_model.", unet(part("unet"))), ("first_stage_model.", autoencoder(part("vae")))]
    for prefix, name in (encoders or {}).items():
        make = open_clip if prefix.endswith(".model.") else clip
        parts.append((prefix, make(part(name))))
    return {
        f"{prefix}{name}": tensor.contiguous() for prefix, state in parts for name, tensor in state.items()
    }
