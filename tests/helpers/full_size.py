"""What full-size models cost: weights and operations, counted on the meta device."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from geomatch.dift import PRESETS
from geomatch.dift.backends.autoencoder import _Encoder
from geomatch.dift.backends.latent import named_layers
from geomatch.dift.backends.layers import layer_names
from geomatch.dift.backends.pixel_unet import output_blocks
from geomatch.dift.backends.transformer import TransformerPart, unneeded_blocks
from geomatch.dift.backends.wanted import WantedPart, known_layers, unneeded_parts
from geomatch.dift.inputs import dense_size
from geomatch.weights.families import FAMILIES
from geomatch.weights.models import ADM, DIT, FLUX, PIXART, SD, SD3, SDXL

_LEVELS = 4
_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * _LEVELS,
    "up_block_types": ("UpDecoderBlock2D",) * _LEVELS, "layers_per_block": 2, "latent_channels": 4,
}  # fmt: skip
_VAE16 = _VAE | {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
_CROSS, _CROSS_UP = ("CrossAttnDownBlock2D",), ("CrossAttnUpBlock2D",)
_XL: dict[str, Any] = {
    "num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4,
    "out_channels": 8, "patch_size": 2, "sample_size": 64,
}  # fmt: skip
NETWORKS: dict[str, tuple[str | None, str, dict[str, Any], dict[str, Any], dict[str, tuple[int, ...]]]] = {
    SD: (
        "Stable Diffusion 1 or 2", "UNet2DConditionModel",
        {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 1024, "sample_size": 96,
         "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True, "in_channels": 4,
         "down_block_types": _CROSS * 3 + ("DownBlock2D",), "up_block_types": ("UpBlock2D",) + _CROSS_UP * 3},
        _VAE, {"prompt_embeds": (77, 1024)},
    ),
    SDXL: (
        "Stable Diffusion XL", "UNet2DConditionModel",
        {"block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048, "sample_size": 128,
         "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10), "in_channels": 4,
         "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
         "projection_class_embeddings_input_dim": 2816, "down_block_types": ("DownBlock2D", *_CROSS * 2),
         "up_block_types": (*_CROSS_UP * 2, "UpBlock2D")},
        _VAE, {"prompt_embeds": (77, 2048), "pooled": (1280,)},
    ),
    SD3: (
        "Stable Diffusion 3", "SD3Transformer2DModel",
        {"sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
         "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096,
         "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "pos_embed_max_size": 384,
         "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"},
        _VAE16, {"prompt_embeds": (333, 4096), "pooled": (2048,)},
    ),
    FLUX: (
        "FLUX.1", "FluxTransformer2DModel",
        {"patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38,
         "guidance_embeds": True, "attention_head_dim": 128, "num_attention_heads": 24,
         "joint_attention_dim": 4096, "pooled_projection_dim": 768},
        _VAE16, {"prompt_embeds": (512, 4096), "pooled": (768,)},
    ),
    PIXART: (
        "PixArt", "PixArtTransformer2DModel",
        {"caption_channels": 4096, "cross_attention_dim": 1152, "norm_type": "ada_norm_single", **_XL},
        _VAE, {"prompt_embeds": (120, 4096), "mask": (120,)},
    ),
    DIT: ("DiT", "DiTTransformer2DModel", {"num_embeds_ada_norm": 1000, **_XL}, _VAE, {}),
    ADM: (
        None, "UNet2DModel",
        {"sample_size": 256, "in_channels": 3, "out_channels": 6, "layers_per_block": 2,
         "block_out_channels": (256, 256, 512, 512, 1024, 1024), "attention_head_dim": 64,
         "down_block_types": ("ResnetDownsampleBlock2D",) * 3 + ("AttnDownBlock2D",) * 3,
         "up_block_types": ("AttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",) * 3,
         "downsample_type": "resnet", "upsample_type": "resnet", "attn_norm_num_groups": 32,
         "resnet_time_scale_shift": "scale_shift"},
        {}, {},
    ),
}  # fmt: skip
"""By model: family, network, configurations of network and autoencoder, shapes of what a prompt gives."""


@dataclass(frozen=True)
class Cost:
    """Of one image of 1024x768 pixels."""

    parameters: float  # of the whole network, 1e9
    gigabytes: float  # of what is read, at two bytes a weight
    operations: float  # 1e12 multiplications and additions, the ensemble and the autoencoder included
    size: tuple[int, int]  # at which the image enters

    def row(self, preset: str) -> str:
        """Of the table in docs/models.md."""
        numbers = f"{self.parameters:.2f} | {self.gigabytes:.1f} | {self.operations:.1f}"
        return f"| `{preset}` | {self.size[0]}x{self.size[1]} | {numbers} |"


def cost_of(preset: str) -> Cost:
    """Counted."""
    import diffusers

    config = PRESETS[preset]
    family_name, kind, settings, vae_settings, text_shapes = NETWORKS[config.model]
    with torch.device("meta"):
        network = getattr(diffusers, kind)(**settings)
        encoder = _Encoder(diffusers.AutoencoderKL(**vae_settings), "AutoencoderKL") if vae_settings else None
    parameters = sum(weights.numel() for weights in network.parameters())
    stride = 8 if encoder else 1
    family = FAMILIES[family_name] if family_name else None
    named = named_layers(network, family) if family else (output_blocks(network), known_layers(network))
    layers = layer_names(config.layers, *named)
    blocks = family is not None and bool(family.blocks)
    for name in unneeded_blocks(network, family, layers) if blocks else unneeded_parts(network, layers):
        network.set_submodule(name, nn.Identity())
    part: Any = WantedPart(network, layers, stride) if not blocks else None
    if family and blocks:
        part = TransformerPart(network, family, layers, stride)
    size = dense_size(
        (1024, 768), config.image_size, 32 if family is None else stride * part.patch, config.image_side
    )
    maps = torch.empty(1, 3, size[1], size[0], device="meta")
    text = {name: torch.empty(1, *shape, device="meta") for name, shape in text_shapes.items()}
    with FlopCounterMode(display=False) as encoding, torch.inference_mode():
        maps = encoder(maps)[0] if encoder else maps
    with FlopCounterMode(display=False) as passing, torch.inference_mode():
        part(maps, torch.zeros(1, dtype=torch.int64, device="meta"), text)
    operations = encoding.get_total_flops() + config.ensemble_size * passing.get_total_flops()
    modules = [network, encoder] if encoder else [network]
    kept = sum(weights.numel() for module in modules for weights in module.parameters())
    return Cost(parameters / 1e9, 2 * kept / 1e9, operations / 1e12, size)
