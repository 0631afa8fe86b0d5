"""Models in one file, as A1111 and ComfyUI keep them: made diffusers folders, whose weights are links."""

import importlib.resources
from collections.abc import Mapping
from pathlib import Path

from geomatch.errors import WeightsError, reading
from geomatch.files import digest_of, new_folder
from geomatch.places import cached_path
from geomatch.weights.folders import STEM

DENOISER, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
"""How names of tensors begin that belong to the network, and to the autoencoder."""
ENCODERS = {
    "": ("cond_stage_model.transformer.", "cond_stage_model.model.", "conditioner.embedders.0.transformer."),
    "_2": ("conditioner.embedders.1.model.", "conditioner.embedders.0.model."),
}
"""The same for text encoders, by the ending of their folder; ``model`` means OpenCLIP's names."""
WHOLE = "single-file"
"""Stem of the link that stands in the folder of a text encoder."""
_KINDS = {(768, False): "sd1", (1024, False): "sd2", (2048, True): "sdxl", (1280, True): "sdxl-refiner"}
"""By the width of cross-attention, and by whether more than time and text is embedded."""
_CONFIGS = ("model_index.json", "unet/config.json", "vae/config.json", "scheduler/*.json",
            "text_encoder*/config.json", "tokenizer*/*")  # fmt: skip


def single_file_folder(path: Path) -> Path:
    """The folder in the cache that stands for a file with Stable Diffusion 1, 2, XL or its refiner.

    Configurations are those beside the file if there is a ``unet/config.json``, else the package's.

    Raises:
        WeightsError: for files of anything else.
    """
    with reading(
        path, "file of weights", WeightsError, "a .ckpt that holds more can be saved as safetensors"
    ):
        shapes = _shapes(path)
    own = (path.parent / "unet" / "config.json").is_file()
    base = path.parent
    kind = _kind(path, shapes, own)
    if not own:
        base = Path(str(importlib.resources.files("geomatch.weights"))) / "single-files" / kind
    links = {found.relative_to(base): found.absolute() for name in _CONFIGS for found in base.glob(name)}
    suffix = ".safetensors" if path.suffix == ".safetensors" else ".bin"
    stems: dict[str, str | tuple[str, ...]] = {f"unet/{STEM}": DENOISER, f"vae/{STEM}": AUTOENCODER}
    stems |= {f"text_encoder{end}/{WHOLE}": starts for end, starts in ENCODERS.items()}
    for stem, starts in stems.items():
        if any(name.startswith(starts) for name in shapes):
            links[Path(stem + suffix)] = path.resolve()
    state = path.stat()
    key = digest_of([state.st_size, state.st_mtime_ns, sorted((str(a), str(b)) for a, b in links.items())])
    folder = cached_path(f"single-files/{path.stem[:99]}-{key[:16]}")
    if folder.is_dir():
        return folder
    try:
        with new_folder(folder) as new:
            for name, target in links.items():
                (new / name).parent.mkdir(exist_ok=True)
                (new / name).symlink_to(target)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    return folder


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="np") as content:
            return {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
    if path.suffix not in (".ckpt", ".pt", ".pth", ".bin"):
        return {}
    from geomatch.weights.originals import stored_tensors

    return {name: tuple(tensor.shape) for name, tensor in stored_tensors(path).items()}


def _kind(path: Path, shapes: Mapping[str, tuple[int, ...]], own: bool) -> str:
    """The folder of configurations; errors for what none fits."""
    rest = "give it as unet_file (--unet-file), and the folder of its pipeline as the model (--model)"
    for mark, name in (("double_blocks.", "FLUX.1"), ("joint_blocks.", "Stable Diffusion 3")):
        if any(mark in stored for stored in shapes):
            raise WeightsError(f"{path}: {name} in one file is taken for the network alone; {rest}")
    first = shapes.get(f"{DENOISER}input_blocks.0.0.weight", ())
    if len(first) != 4:
        raise WeightsError(
            f"{path}: expected a .safetensors or .ckpt file with the whole of Stable Diffusion 1, 2 or XL "
            f"(tensors {DENOISER}*, {AUTOENCODER}*); if it is a network alone, {rest}"
        )
    if first[1] != 4:
        raise WeightsError(
            f"{path}: its network takes {first[1]} channels, more than the 4 of latents: models for "
            "inpainting (9), depth (5) and editing (8) are not supported"
        )
    if not any(name.startswith(AUTOENCODER) for name in shapes):
        raise WeightsError(f"{path}: holds no autoencoder ({AUTOENCODER}*); {rest}")
    widths = [shape[-1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")]
    kind = _KINDS.get((min(widths, default=0), any("label_emb" in name for name in shapes)), "")
    if not kind and not own:
        raise WeightsError(
            f"{path}: its shapes (cross-attention of width {min(widths, default=0)}) are of none of Stable "
            "Diffusion 1, 2, XL and its refiner; put a folder unet with its config.json beside it, and so on"
        )
    return kind
