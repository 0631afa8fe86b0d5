"""Everything that decides a DIFT descriptor."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Sampling = Literal["dense", "patch"]
DType = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class DIFTConfig:
    """Settings of `DIFTExtractor`; equal settings on equal images give equal descriptors."""

    model: str = "dift-tiny"
    """Name of an embedded model, or path of a diffusers folder."""
    timestep: int = 50
    """Noise level t of the forward pass, 0 to 999."""
    layers: tuple[str, ...] = ("up_blocks.1",)
    """Modules of the UNet whose outputs are taken, by diffusers' names, such as ``up_blocks.1`` or
    ``down_blocks.0.resnets.0``. Several are normalised one by one and concatenated."""
    noise: bool = True
    """Add noise of level t, as the paper does; without it the clean image is scaled by sqrt(alpha_bar_t)."""
    ensemble_size: int = 1
    """Number of noises over which the activations are averaged."""
    seed: int = 0
    """Of the noise; member k of the ensemble uses seed + k."""
    sampling: Sampling = "dense"
    """``dense``: one pass over the image, sampled at the keypoints (the paper's way).
    ``patch``: one small pass per keypoint, in its own scale and orientation."""
    image_size: int | tuple[int, int] | None = 768
    """Size at which the image is used: an int bounds the long side and keeps the aspect,
    a pair (width, height) is taken as it is (the paper squashes to 768x768), None keeps the size.
    Dense sides are rounded to what the model can divide."""
    patch_size: int = 32
    """Side of a patch in its own pixels."""
    patch_scale: float = 8.0
    """Side of a patch in units of the keypoint's scale."""
    readout: bool = False
    """End with the read-out stored beside the model."""
    prompt: str = ""
    """For models conditioned on text."""
    dtype: DType = "float32"
    """Of the network; descriptors are float32 always."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not isinstance(self.timestep, int) or not 0 <= self.timestep <= 999:
            raise ValueError(f"timestep must be a whole number in 0..999, got {self.timestep}")
        if not self.layers or isinstance(self.layers, str) or not all(self.layers):
            raise ValueError(f"layers must be a tuple of at least one name, got {self.layers!r}")
        object.__setattr__(self, "layers", tuple(self.layers))
        if self.ensemble_size < 1:
            raise ValueError(f"ensemble_size must be at least 1, got {self.ensemble_size}")
        if not self.noise and self.ensemble_size > 1:
            raise ValueError("without noise all members of an ensemble are equal: use ensemble_size=1")
        if self.sampling not in ("dense", "patch"):
            raise ValueError(f"sampling must be 'dense' or 'patch', got {self.sampling!r}")
        sides = self.image_size if isinstance(self.image_size, tuple) else (self.image_size or 1,) * 2
        whole = all(isinstance(side, int) and side >= 1 for side in sides)
        if self.image_size == 0 or not whole or len(sides) != 2:
            raise ValueError(
                f"image_size must be None, a positive int or a pair of these, got {self.image_size}"
            )
        if self.patch_size < 1 or not self.patch_scale > 0:
            raise ValueError("patch_size and patch_scale must be positive")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype must be float32, bfloat16 or float16, got {self.dtype!r}")

    def feature_settings(self) -> dict[str, Any]:
        """The settings that a read-out depends on, as JSON can hold them."""
        names = ["timestep", "layers", "noise", "sampling"]
        if self.sampling == "patch":
            names += ["patch_size", "patch_scale"]
        values = asdict(self)
        return {name: list(v) if isinstance(v := values[name], tuple) else v for name in names}
