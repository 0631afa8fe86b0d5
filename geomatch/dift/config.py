"""Everything that decides a DIFT descriptor."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from geomatch.types import Metric

Sampling = Literal["dense", "patch"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
Compile = Literal["auto", "on", "off"]
Latent = Literal["mode", "sample"]
Side = Literal["long", "short"]


@dataclass(frozen=True, slots=True)
class DIFTConfig:
    """Settings of `DIFTExtractor`; equal settings on equal images give equal descriptors."""

    model: str = "dift-tiny"
    """Name of a known model (`geomatch.dift.MODELS`), path of a diffusers folder or of a single file with a
    Stable Diffusion 1, 2 or XL, or id on the hub."""
    timestep: int = 50
    """Timestep t of the forward pass, 0 to 999."""
    layers: tuple[str | int, ...] = ("default",)
    """Where the network is read, as `geomatch models layers MODEL` lists: by the paper's up_ft_index (UNets),
    the number of a block (transformers), or by name. NAME.modulated is the input of a block's attention,
    NAME.query its queries to the text. Several are concatenated, each normalised for the cosine. ``default``
    is up_blocks.1 or, in transformers, the input of the middle block's attention."""
    discard: tuple[int, ...] = ()
    """Channels of the layers that are set to 0: the few that are huge in some transformers."""
    noise: bool = True
    """Add noise of timestep t, as the paper does; without it the clean image is used."""
    ensemble_size: int = 1
    """Number of noises over which the activations are averaged."""
    seed: int = 0
    """Random seed of the noise; member k of the ensemble uses seed + k."""
    latent: Latent = "mode"
    """What is taken from the autoencoder's distribution: its mode, or as in the paper a sample per member."""
    prompt: str = ""
    """Text, for models conditioned on it."""
    revision: str | None = None
    """Branch, tag or commit of a model on the hub; a commit pins it."""
    unet_file: str | None = None
    """A file that replaces the network's weights: a path, or ORG/REPO/FILE[@REVISION] on the hub."""
    metric: Metric = "cosine"
    """How rows are compared: with unit length (``cosine``) or as they are (``l2``, the paper's with ADM)."""
    sampling: Sampling = "dense"
    """``dense``: one pass over the image, sampled at the keypoints (the paper's way). ``patch``: one small
    pass per keypoint, in its own scale and orientation; without these, upright and of one size."""
    image_size: int | tuple[int, int] | None = 768
    """Size at which the image is used: an int bounds one side and keeps the aspect (smaller images are left),
    a pair (width, height) is taken as it is (the paper squashes to 768x768), None keeps the size. Dense sides
    are rounded to what the model can divide."""
    image_side: Side = "long"
    """What an int ``image_size`` means: ``long`` bounds the long side; ``short`` makes the short side that
    long, enlarging too, and cuts the other to a multiple of 32, as the paper does with video."""
    patch_size: int = 32
    """Side of a patch in its own pixels."""
    patch_scale: float = 8.0
    """Side of a patch in units of the keypoint's scale."""
    head: bool | str = False
    """End with a projection head (`geomatch head fit`): True for the one beside the model, or its path."""
    dtype: DType = "auto"
    """Number format of the network: ``auto`` is float32, on CUDA float16, or bfloat16 where a trial while
    loading overflows and for models of flow matching. An autoencoder that overflows in float16 runs in
    bfloat16. Descriptors are float32."""
    compile: Compile = "auto"
    """``torch.compile`` the networks: ``auto`` on CUDA from
    `geomatch.dift.backends.compiled.COMPILE_FROM` images on. Descriptors differ by rounding alone. The
    networks of transformers, nearly all large products of matrices, run as they are."""
    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``: CUDA, else MPS, else the CPU."""
    batch_size: int | None = None
    """Noisy images per forward pass; None takes what `geomatch.dift.ensemble.BATCH_PIXELS` allows.
    Halved when the device's memory runs out."""

    @property
    def embedded(self) -> bool:
        """True if the network is the small one that comes with the package."""
        return self.model == "dift-tiny"

    def __post_init__(self) -> None:
        if not isinstance(self.timestep, int) or not 0 <= self.timestep <= 999:
            raise ValueError(f"timestep must be a whole number in 0..999, got {self.timestep}")
        named = [x if isinstance(x, str) else type(x) is int and x >= 0 for x in self.layers or ()]
        if isinstance(self.layers, str) or not named or not all(named):
            raise ValueError(f"layers must be a tuple of names or up_ft indices, got {self.layers!r}")
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "discard", tuple(self.discard))
        if not all(isinstance(channel, int) and channel >= 0 for channel in self.discard):
            raise ValueError(f"discard must be numbers of channels, got {self.discard}")
        for name in ("ensemble_size", "patch_size", "batch_size"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if not self.patch_scale > 0:
            raise ValueError(f"patch_scale must be positive, got {self.patch_scale}")
        if not 0 <= self.seed < 2**62:
            raise ValueError(f"seed must be a whole number of at most 62 bits, got {self.seed}")
        if not self.noise and self.ensemble_size > 1:
            raise ValueError("without noise all members of an ensemble are equal: use ensemble_size=1")
        if not self.noise and self.latent == "sample":
            raise ValueError("latent='sample' is noise too: with noise=False use latent='mode'")
        sides = self.image_size if isinstance(self.image_size, tuple) else (self.image_size,) * 2
        whole = all(isinstance(side, int) and side >= 1 for side in sides)
        if self.image_size is not None and (not whole or len(sides) != 2):
            raise ValueError(f"image_size must be None, a positive int or a pair, got {self.image_size}")
        for name, choices in get_type_hints(DIFTConfig).items():
            if get_origin(choices) is Literal and getattr(self, name) not in get_args(choices):
                allowed = " or ".join(get_args(choices))
                raise ValueError(f"{name} must be {allowed}, got {getattr(self, name)!r}")

    def feature_settings(self) -> dict[str, Any]:
        """The settings that a projection head depends on, as JSON can hold them."""
        names = ["timestep", "layers", "noise", "sampling"] + ["discard"] * bool(self.discard)
        if self.sampling == "patch":
            names += ["patch_size", "patch_scale"]
        values = asdict(self)
        return {name: list(v) if isinstance(v := values[name], tuple) else v for name in names}
