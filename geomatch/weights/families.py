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

Encoders = Mapping[str, tuple[str, str]]
"""Endings of the folders ``text_encoder`` and ``tokenizer``, and the classes in transformers."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the arguments of a transformer are made of."""

    config: Any
    """The network's configuration."""
    latents: "Tensor"
    """(B, C, h, w)"""
    time: "Tensor"
    """(B,) timesteps, float from 0 to 1000."""
    text: Mapping[str, "Tensor"]
    """Conditioning by name: ``prompt_embeds`` (B, tokens, D), ``pooled`` (B, P), ``mask`` (B, tokens)."""
    size: tuple[int, int]
    """Width and height of the images in pixels."""

    def arguments(self, time: "Tensor") -> dict[str, Any]:
        """What almost all take, the time in a network's own terms."""
        prompt = self.text["prompt_embeds"]
        return {"hidden_states": self.latents, "timestep": time, "encoder_hidden_states": prompt}


GUIDANCE = 3.5
GUIDANCE_2 = 4.0
"""Guidance for networks that embed it: the defaults of ``FluxPipeline`` and ``Flux2Pipeline``."""
_CLIP, _PROJECTED = ("CLIPTextModel", "CLIPTokenizer"), ("CLIPTextModelWithProjection", "CLIPTokenizer")
CLIPS = (_CLIP, _PROJECTED)
_T5, _GEMMA = ("T5EncoderModel", "T5Tokenizer"), ("Gemma2Model", "AutoTokenizer")


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one architecture, whatever their weights."""

    network: str
    """Its class in diffusers."""
    pipelines: Mapping[str, Encoders] = field(default_factory=dict)
    """Pipelines in diffusers whose ``encode_prompt`` encodes prompts, and with what: that which
    ``model_index.json`` names, else the first; none for models of no text."""
    encoded: tuple[str | None, ...] = ("prompt_embeds", "mask")
    """Names of what ``encode_prompt`` gives, in its order; None for what is not used."""
    spare: tuple[str, ...] = ()
    """Those of them that a prompt may come without."""
    text_width: str = ""
    """The configuration's name for the width of ``prompt_embeds``."""
    optional: tuple[str, ...] = ()
    """Endings of text encoders that a model may do without."""
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
    inputs: Callable[[Told], dict[str, Any]] | None = None
    """The arguments of a transformer's ``forward``."""


def _dit(told: Told) -> dict[str, Any]:
    nothing = told.time.new_full((len(told.latents),), told.config.num_embeds_ada_norm)  # the class of none
    return {"hidden_states": told.latents, "timestep": told.time, "class_labels": nothing.long()}


def _pixart(told: Told) -> dict[str, Any]:
    width, height = told.size
    sizes = told.time.new_tensor([[height, width]]).expand(len(told.latents), 2)
    # networks without `use_additional_conditions` leave them alone
    added = {"resolution": sizes, "aspect_ratio": sizes[:, :1] / sizes[:, 1:]}
    mask = {"encoder_attention_mask": told.text["mask"]}
    return told.arguments(told.time) | mask | {"added_cond_kwargs": added}


def _sd3(told: Told) -> dict[str, Any]:
    return told.arguments(told.time) | {"pooled_projections": told.text["pooled"]}


def _flux(told: Told) -> dict[str, Any]:
    guidance = told.time.new_full((len(told.latents),), GUIDANCE) if told.config.guidance_embeds else None
    return told.arguments(told.time / 1000) | {  # multiplied again inside
        "hidden_states": _packed(told.latents),
        "pooled_projections": told.text["pooled"],
        "img_ids": _places(told, cells=2, numbers=3),
        "txt_ids": told.time.new_zeros(told.text["prompt_embeds"].shape[1], 3),
        "guidance": guidance,
    }


def _flux2(told: Told) -> dict[str, Any]:
    order = told.time.new_ones(told.text["prompt_embeds"].shape[1], 1).cumsum(0) - 1
    return told.arguments(told.time / 1000) | {
        "hidden_states": told.latents.flatten(2).transpose(1, 2),
        "img_ids": _places(told, cells=1, numbers=4),
        "txt_ids": order * told.time.new_tensor([0, 0, 0, 1]),
        "guidance": told.time.new_full((len(told.latents),), GUIDANCE_2),  # left alone without an embedding
    }


def _qwen(told: Told) -> dict[str, Any]:
    rows, columns = (side // 2 for side in told.latents.shape[2:])
    return told.arguments(told.time / 1000) | {
        "hidden_states": _packed(told.latents),
        "encoder_hidden_states_mask": told.text.get("mask"),
        "img_shapes": [[(1, rows, columns)]] * len(told.latents),
    }


def _sana(told: Told) -> dict[str, Any]:
    mask = {"encoder_attention_mask": told.text["mask"]}
    return told.arguments(told.time * told.config.timestep_scale) | mask


def _lumina(told: Told) -> dict[str, Any]:
    mask = {"encoder_attention_mask": told.text["mask"].bool()}
    return told.arguments(1 - told.time / 1000) | mask  # 1 is the image


def _z_image(told: Told) -> dict[str, Any]:
    text = list(told.text["prompt_embeds"])
    return {"x": list(told.latents[:, :, None]), "t": 1 - told.time / 1000, "cap_feats": text}


def _packed(latents: "Tensor") -> "Tensor":
    """(B, C, h, w) to tokens (B, h/2 w/2, 4 C), in the order channel, row, column."""
    count, channels, height, width = latents.shape
    split = latents.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return split.reshape(count, -1, 4 * channels)


def _places(told: Told, cells: int, numbers: int) -> "Tensor":
    """(tokens, numbers): 0, row, column and zeros, of each token of so many cells along its side."""
    ones = told.time.new_ones(told.latents.shape[2] // cells, told.latents.shape[3] // cells)
    places = told.time.new_zeros(ones.numel(), numbers)
    for axis in (0, 1):
        places[:, 1 + axis] = ones.cumsum(axis).flatten() - 1
    return places


_ONE, _REFINED = ("transformer_blocks",), ("noise_refiner", "layers")
_DOUBLE = (*_ONE, "single_transformer_blocks")
_JOINED = ("prompt_embeds", None, "pooled")
FAMILIES: dict[str, Family] = {
    "Stable Diffusion 1 or 2": Family(
        "UNet2DConditionModel", {"StableDiffusionPipeline": {"": _CLIP}}, ("prompt_embeds",),
        text_width="cross_attention_dim",
    ),
    "Stable Diffusion XL": Family(
        "UNet2DConditionModel", {"StableDiffusionXLPipeline": {"": _CLIP, "_2": _PROJECTED}}, _JOINED,
        text_width="cross_attention_dim", optional=("",), exact_encoder=True,
    ),
    "Stable Diffusion 3": Family(
        "SD3Transformer2DModel",
        {"StableDiffusion3Pipeline": {"": _PROJECTED, "_2": _PROJECTED, "_3": _T5}}, _JOINED,
        text_width="joint_attention_dim", optional=("_3",), blocks=_ONE, flow=True, inputs=_sd3,
    ),
    "FLUX.1": Family(
        "FluxTransformer2DModel", {"FluxPipeline": {"": _CLIP, "_2": _T5}}, ("prompt_embeds", "pooled"),
        text_width="joint_attention_dim", blocks=_DOUBLE, packed=True, flow=True, inputs=_flux,
    ),
    "PixArt": Family(
        "PixArtTransformer2DModel", {"PixArtSigmaPipeline": {"": _T5}, "PixArtAlphaPipeline": {"": _T5}},
        text_width="caption_channels", blocks=_ONE, inputs=_pixart,
    ),
    "DiT": Family(
        "DiTTransformer2DModel", encoded=(), blocks=_ONE, tail=("proj_out_1", "norm_out", "proj_out_2"),
        inputs=_dit,
    ),
    "FLUX.2": Family(
        "Flux2Transformer2DModel",
        {
            "Flux2Pipeline": {"": ("Mistral3ForConditionalGeneration", "AutoTokenizer")},
            "Flux2KleinPipeline": {"": ("Qwen3ForCausalLM", "AutoTokenizer")},
        },
        ("prompt_embeds",), text_width="joint_attention_dim", blocks=_DOUBLE, flow=True, inputs=_flux2,
    ),
    "Qwen-Image": Family(
        "QwenImageTransformer2DModel",
        {"QwenImagePipeline": {"": ("Qwen2_5_VLForConditionalGeneration", "AutoTokenizer")}},
        spare=("mask",), text_width="joint_attention_dim", blocks=_ONE, packed=True, flow=True, inputs=_qwen,
    ),
    "SANA": Family(
        "SanaTransformer2DModel", {"SanaPipeline": {"": _GEMMA}}, text_width="caption_channels", blocks=_ONE,
        flow=True, inputs=_sana,
    ),
    "Lumina 2": Family(
        "Lumina2Transformer2DModel", {"Lumina2Pipeline": {"": _GEMMA}}, text_width="cap_feat_dim",
        blocks=_REFINED, tail=("norm_out",), flow=True, inputs=_lumina,
    ),
    "Z-Image": Family(
        "ZImageTransformer2DModel", {"ZImagePipeline": {"": ("Qwen3Model", "AutoTokenizer")}},
        ("prompt_embeds",), text_width="cap_feat_dim", blocks=_REFINED, tail=("all_final_layer.2-1",),
        image_first=True, flow=True, inputs=_z_image,
    ),
    "AuraFlow": Family(
        "AuraFlowTransformer2DModel", {"AuraFlowPipeline": {"": ("UMT5EncoderModel", "AutoTokenizer")}},
        ("prompt_embeds",), text_width="joint_attention_dim",
        blocks=("joint_transformer_blocks", "single_transformer_blocks"), flow=True,
        inputs=lambda told: told.arguments(told.time / 1000),
    ),
}  # fmt: skip
"""By what people call them."""

_OLD_NAMES = {"ada_norm_single": "PixArtTransformer2DModel", "ada_norm_zero": "DiTTransformer2DModel"}
"""What ``Transformer2DModel`` of repositories from before diffusers 0.29 means, by its ``norm_type``."""


def find_family(config: Mapping[str, Any], place: object) -> Family | None:
    """The family of a network, whose configuration lies at ``place``; None for UNets in pixel space.

    Raises WeightsError for networks of other families, and UNets conditioned on more than text.
    """
    kind = config.get("_class_name")
    if kind == "Transformer2DModel":
        kind = _OLD_NAMES.get(str(config.get("norm_type")), kind)
    if kind == "UNet2DModel":
        return None
    added, others = config.get("addition_embed_type"), ("class_embed_type", "encoder_hid_dim_type")
    if added not in (None, "text_time") or any(config.get(name) for name in others):
        raise WeightsError(
            f"{place}: a UNet that wants more than text (unCLIP, Kandinsky, Kolors?); supported are those of "
            "Stable Diffusion 1, 2 and XL"
        )
    if kind == "SanaTransformer2DModel" and config.get("guidance_embeds"):
        raise WeightsError(f"{place}: SANA Sprint mixes noise in by a law of its own; take another SANA")
    if kind == "QwenImageTransformer2DModel" and config.get("use_additional_t_cond"):
        raise WeightsError(f"{place}: Qwen-Image-Layered works on several images; take another Qwen-Image")
    for name, family in FAMILIES.items():
        if family.network == kind and (added is not None) == (name == "Stable Diffusion XL"):
            return family
    raise WeightsError(
        f"{place}: describes {kind or 'no network of diffusers'}, of which is not known what it is told; "
        f"supported are UNet2DModel (pixel space, unconditional) and pipelines of {', '.join(FAMILIES)}"
    )
