"""Named settings; the paper's are those of the code and README of Tang et al. (NeurIPS 2023)."""

from geomatch.dift.config import DIFTConfig
from geomatch.weights.models import ADM, CLEANDIFT, DIT, FLUX, PIXART, SD, SD3, SDXL

_SQUARE = (768, 768)

PRESETS: dict[str, DIFTConfig] = {
    # embedded: in patches for keypoints with scale and orientation, densely for others
    "dift-tiny": DIFTConfig(
        "dift-tiny", timestep=20, layers=("down_blocks.0.resnets.0", "down_blocks.1.resnets.0"),
        noise=False, sampling="patch", image_size=2048, patch_scale=11.0, head=True,
    ),
    "dift-tiny-dense": DIFTConfig(
        "dift-tiny", timestep=20, noise=False, image_size=1024, head=True,
        layers=("down_blocks.0.resnets.0", "down_blocks.1.resnets.0", "down_blocks.2.resnets.0"),
    ),
    # paper: geometric (HPatches), semantic (SPair-71k; prompt "a photo of a CATEGORY"), temporal (DAVIS)
    "dift-sd": DIFTConfig(SD, timestep=0, layers=(2,), ensemble_size=8, latent="sample", image_size=_SQUARE),
    "dift-sd-semantic": DIFTConfig(
        SD, timestep=261, layers=(1,), ensemble_size=8, latent="sample", image_size=_SQUARE
    ),
    "dift-sd-temporal": DIFTConfig(
        SD, timestep=51, layers=(2,), ensemble_size=8, latent="sample", image_size=480, image_side="short"
    ),
    "dift-adm": DIFTConfig(ADM, timestep=41, layers=(11,), ensemble_size=4, metric="l2", image_size=_SQUARE),
    "dift-adm-semantic": DIFTConfig(ADM, timestep=101, layers=(4,), ensemble_size=8, image_size=(512, 512)),
    "dift-adm-temporal": DIFTConfig(
        ADM, timestep=51, layers=(7,), ensemble_size=4, image_size=480, image_side="short"
    ),
    # ours: one pass at the image's own aspect
    "dift-sd-fast": DIFTConfig(SD, timestep=0, layers=(2,), noise=False, image_size=768),
    "dift-adm-fast": DIFTConfig(ADM, timestep=41, layers=(11,), metric="l2", image_size=768),
    # CleanDIFT (Stracke et al., CVPR 2025): made for clean latents; 261 is where its learned t started
    "cleandift": DIFTConfig(SD, unet_file=CLEANDIFT, timestep=261, layers=(2,), noise=False, image_size=768),
    "cleandift-semantic": DIFTConfig(
        SD, unet_file=CLEANDIFT, timestep=261, layers=(1,), noise=False, image_size=_SQUARE
    ),
    # config_xl_practical.json of github.com/Darkbblue/generic-diffusion-feature (SPair-71k 75.2, trained)
    "dift-sdxl": DIFTConfig(
        SDXL, timestep=50, image_size=(1024, 1024),
        layers=(
            "up_blocks.0.attentions.0.transformer_blocks.5", "up_blocks.0.attentions.0.transformer_blocks.7",
            "up_blocks.1.attentions.0.transformer_blocks.0",
            "up_blocks.1.attentions.0.transformer_blocks.0.query",
        ),
    ),
    # DiTF (arXiv 2505.18584): the state before single block 9 under that block's modulation, two channels out
    "dift-flux": DIFTConfig(
        FLUX, timestep=260, layers=("single_transformer_blocks.9.modulated",), discard=(154, 1446),
        ensemble_size=8, image_size=640,
    ),
    # no source: the like of it, in the middle of these networks
    "dift-sd3": DIFTConfig(SD3, timestep=260, layers=("11.modulated",), ensemble_size=8, image_size=768),
    "dift-pixart": DIFTConfig(
        PIXART, timestep=261, layers=("12.modulated",), ensemble_size=8, image_size=512
    ),
    "dift-dit": DIFTConfig(DIT, timestep=261, layers=("12.modulated",), ensemble_size=8, image_size=512),
}  # fmt: skip
