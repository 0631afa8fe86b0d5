"""The families of latent diffusion models: how their folders are laid out, and what their networks are told.

Inputs, orders of tokens and conventions of time are those of the pipelines of diffusers 0.42, whose code also
encodes the prompts (`geomatch.weights.prompt`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from geomatch.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

Text = Mapping[str, "Tensor"]
"""Conditioning by name, one row per image: ``prompt_embeds`` (B, tokens, D), ``pooled`` (B, P), ``mask``
(B, tokens)."""
Inputs = Callable[[Any, "Tensor", "Tensor", Text, tuple[int, int]], dict[str, Any]]
"""Arguments of a transformer's ``forward``, made of its configuration, latents (B, C, h, w), timesteps (B,),
float from 0 to 1000, conditioning, and the (width, height) of the images in pixels."""
GUIDANCE = 3.5
"""What networks with an embedding of the guidance are told: the default of diffusers' ``FluxPipeline``."""
_CLIP, _PROJECTED = ("CLIPTextModel", "CLIPTokenizer"), ("CLIPTextModelWithProjection", "CLIPTokenizer")
CLIPS = (_CLIP, _PROJECTED)
_T5 = ("T5EncoderModel", "T5Tokenizer")


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one architecture, whatever their weights."""

    network: str
    """Its class in diffusers."""
    pipelines: tuple[str, ...] = ()
    """Pipelines in diffusers whose ``encode_prompt`` encodes prompts: that which ``model_index.json`` names,
    else the first; none for models of no text."""
    encoders: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Endings of the folders ``text_encoder`` and ``tokenizer``, and the classes in transformers."""
    optional: tuple[str, ...] = ()
    """Those endings that a model may do without."""
    encoded: tuple[str | None, ...] = ("prompt_embeds", "mask")
    """Names of what ``encode_prompt`` gives, in its order; None for what is not used."""
    text_width: str = ""
    """The configuration's name for the width of ``prompt_embeds``."""
    blocks: tuple[str, ...] = ()
    """Lists of a transformer's blocks, in the order in which they run; none for UNets."""
    tail: tuple[str, ...] = ("norm_out", "proj_out")
    """A transformer's modules that run only after the blocks, in order."""
    packed: bool = False
    """The network is given tokens of 2x2 cells of latents; else it makes them, of its ``patch_size``."""
    image_first: bool = False
    """The image's tokens come first in sequences joined with text; else last."""
    flow: bool = False
    """Noise is mixed in as in flow matching; else by the scheduler's betas."""
    exact_encoder: bool = False
    """The autoencoder overflows in float16 on some images (``force_upcast``), and stays in float32."""
    inputs: Inputs | None = None
    """Of transformers."""


def _dit(config: Any, latents: "Tensor", time: "Tensor", text: Text, size: tuple[int, int]) -> dict[str, Any]:
    nothing = time.new_full((len(latents),), config.num_embeds_ada_norm)  # the class that stands for none
    return {"hidden_states": latents, "timestep": time, "class_labels": nothing.long()}


def _pixart(
    config: Any, latents: "Tensor", time: "Tensor", text: Text, size: tuple[int, int]
) -> dict[str, Any]:
    width, height = size
    sizes = time.new_tensor([[height, width]]).expand(len(latents), 2)
    return {
        "hidden_states": latents,
        "timestep": time,
        "encoder_hidden_states": text["prompt_embeds"],
        "encoder_attention_mask": text["mask"],
        # networks without `use_additional_conditions` leave them alone
        "added_cond_kwargs": {"resolution": sizes, "aspect_ratio": sizes[:, :1] / sizes[:, 1:]},
    }


def _sd3(config: Any, latents: "Tensor", time: "Tensor", text: Text, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "hidden_states": latents,
        "timestep": time,
        "encoder_hidden_states": text["prompt_embeds"],
        "pooled_projections": text["pooled"],
    }


def _flux(
    config: Any, latents: "Tensor", time: "Tensor", text: Text, size: tuple[int, int]
) -> dict[str, Any]:
    prompt = text["prompt_embeds"]
    return {
        "hidden_states": _packed(latents),
        "timestep": time / 1000,  # multiplied again inside
        "encoder_hidden_states": prompt,
        "pooled_projections": text["pooled"],
        "img_ids": _places(latents, time),
        "txt_ids": time.new_zeros(prompt.shape[1], 3),
        "guidance": time.new_full((len(latents),), GUIDANCE) if config.guidance_embeds else None,
    }


def _packed(latents: "Tensor") -> "Tensor":
    """(B, C, h, w) to tokens (B, h/2 w/2, 4 C), in the order channel, row, column."""
    count, channels, height, width = latents.shape
    split = latents.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return split.reshape(count, -1, 4 * channels)


def _places(latents: "Tensor", time: "Tensor") -> "Tensor":
    """(h/2 w/2, 3): 0, row and column of each token."""
    ones = time.new_ones(latents.shape[2] // 2, latents.shape[3] // 2)
    rows, columns = (ones.cumsum(axis).reshape(-1, 1) - 1 for axis in (0, 1))
    return time.new_tensor([0, 1, 0]) * rows + time.new_tensor([0, 0, 1]) * columns


FAMILIES: dict[str, Family] = {
    "Stable Diffusion 1 or 2": Family(
        "UNet2DConditionModel", ("StableDiffusionPipeline",), {"": _CLIP},
        encoded=("prompt_embeds",), text_width="cross_attention_dim",
    ),
    "Stable Diffusion XL": Family(
        "UNet2DConditionModel", ("StableDiffusionXLPipeline",), {"": _CLIP, "_2": _PROJECTED},
        optional=("",), encoded=("prompt_embeds", None, "pooled"), text_width="cross_attention_dim",
        exact_encoder=True,
    ),
    "Stable Diffusion 3": Family(
        "SD3Transformer2DModel", ("StableDiffusion3Pipeline",),
        {"": _PROJECTED, "_2": _PROJECTED, "_3": _T5}, optional=("_3",),
        encoded=("prompt_embeds", None, "pooled"), text_width="joint_attention_dim",
        blocks=("transformer_blocks",), flow=True, inputs=_sd3,
    ),
    "FLUX.1": Family(
        "FluxTransformer2DModel", ("FluxPipeline",), {"": _CLIP, "_2": _T5},
        encoded=("prompt_embeds", "pooled"), text_width="joint_attention_dim",
        blocks=("transformer_blocks", "single_transformer_blocks"), packed=True, flow=True, inputs=_flux,
    ),
    "PixArt": Family(
        "PixArtTransformer2DModel", ("PixArtAlphaPipeline", "PixArtSigmaPipeline"), {"": _T5},
        text_width="caption_channels",
        blocks=("transformer_blocks",), inputs=_pixart,
    ),
    "DiT": Family(
        "DiTTransformer2DModel", encoded=(), blocks=("transformer_blocks",),
        tail=("proj_out_1", "norm_out", "proj_out_2"), inputs=_dit,
    ),
}  # fmt: skip
"""By what people call them."""

_OLD_NAMES = {"ada_norm_single": "PixArtTransformer2DModel", "ada_norm_zero": "DiTTransformer2DModel"}
"""What ``Transformer2DModel`` of repositories from before diffusers 0.29 means, by its ``norm_type``."""


def find_family(config: Mapping[str, Any], place: object) -> Family | None:
    """The family of a network, whose configuration lies at ``place``; None for UNets in pixel space.

    Raises:
        WeightsError: for networks of other families, and UNets conditioned on more than text.
    """
    kind = config.get("_class_name")
    if kind == "Transformer2DModel":
        kind = _OLD_NAMES.get(str(config.get("norm_type")), kind)
    if kind == "UNet2DModel":
        return None
    if kind == "UNet2DConditionModel":
        added = config.get("addition_embed_type")
        for name in ("class_embed_type", "encoder_hid_dim_type"):
            if config.get(name) or added not in (None, "text_time"):
                raise WeightsError(
                    f"{place}: a UNet that wants more than text (unCLIP, Kandinsky, Kolors?); "
                    "supported are those of Stable Diffusion 1, 2 and XL"
                )
        return FAMILIES["Stable Diffusion XL" if added else "Stable Diffusion 1 or 2"]
    for family in FAMILIES.values():
        if family.network == kind:
            return family
    raise WeightsError(
        f"{place}: is a {kind}; supported are UNet2DModel (pixel space, unconditional) and pipelines of "
        f"{', '.join(FAMILIES)}"
    )
