"""Models in one file, as A1111 and ComfyUI keep them: made diffusers folders, whose weights are links."""

import importlib.resources
from functools import lru_cache
from pathlib import Path

from geomatch.errors import WeightsError, reading
from geomatch.files import digest_of, new_folder
from geomatch.places import cached_path
from geomatch.weights.folders import AUTOENCODER, DENOISER, ENCODERS, STEM, WHOLE

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
"""Endings of files of weights, never of ids on the hub; the last is of networks alone."""
_KINDS = {(768, False): "sd1", (1024, False): "sd2", (2048, True): "sdxl", (1280, True): "sdxl-refiner"}
"""By the width of cross-attention, and by whether more than time and text is embedded."""
_CONFIGS = ("model_index.json", "unet/config.json", "vae/config.json", "scheduler/*.json",
            "text_encoder*/config.json", "tokenizer*/*")  # fmt: skip
_REST = "give it as unet_file (--unet-file), and the folder of its pipeline as the model (--model)"


def single_file_folder(path: Path) -> Path:
    """The folder in the cache that stands for a file with Stable Diffusion 1, 2, XL or its refiner.

    Configurations are the package's, or those beside a ``unet/config.json``. WeightsError for other files.
    """
    state = path.stat()
    shapes = _shapes(path, state.st_size, state.st_mtime_ns) if path.suffix in SUFFIXES[:-1] else {}
    own, base, kind = (path.parent / "unet" / "config.json").is_file(), path.parent, _kind(path, shapes)
    if not own and not kind:
        raise WeightsError(
            f"{path}: the shapes of none of Stable Diffusion 1, 2, XL and its refiner; put its "
            "pipeline's configurations beside it (unet/config.json, vae/config.json and so on)"
        )
    if not own:
        base = Path(str(importlib.resources.files("geomatch.weights"))) / "single-files" / kind
    links = {found.relative_to(base): found.absolute() for name in _CONFIGS for found in base.glob(name)}
    parts = {f"text_encoder{end}/{WHOLE}": starts for end, starts in ENCODERS.items()}
    parts |= {f"unet/{STEM}": (DENOISER,), f"vae/{STEM}": (AUTOENCODER,)}
    suffix = ".safetensors" if path.suffix == ".safetensors" else ".bin"
    for stem, starts in parts.items():
        if any(name.startswith(starts) for name in shapes):
            links[Path(stem + suffix)] = path.resolve()
    key = digest_of([state.st_size, state.st_mtime_ns, *sorted(map(str, links.items()))])
    folder = cached_path(f"single-files/{path.stem[:99]}-{key[:16]}")
    try:
        if not folder.is_dir():
            with new_folder(folder) as new:
                for name, target in links.items():
                    (new / name).parent.mkdir(exist_ok=True)
                    (new / name).symlink_to(target)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    return folder


@lru_cache(maxsize=4)
def _shapes(path: Path, _size: int, _changed: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a file's tensors, which is asked for them whenever its model's files are looked up."""
    from geomatch.weights.originals import stored_tensors  # loads torch

    with reading(path, "file of weights", WeightsError, "get it again, as .safetensors"):
        return {name: tuple(tensor.shape) for name, tensor in stored_tensors(path).items()}


def _kind(path: Path, shapes: dict[str, tuple[int, ...]]) -> str:
    """The folder of configurations, empty if none fits; errors for what is no whole model of latents."""
    for mark, name in (("double_blocks.", "FLUX.1"), ("joint_blocks.", "Stable Diffusion 3")):
        if any(mark in stored for stored in shapes):
            raise WeightsError(f"{path}: a file of {name} is taken for its network alone; {_REST}")
    first = shapes.get(f"{DENOISER}input_blocks.0.0.weight", ())
    if len(first) != 4 or not any(name.startswith(AUTOENCODER) for name in shapes):
        raise WeightsError(
            f"{path}: expected a .safetensors or .ckpt file of Stable Diffusion 1, 2 or XL, with a network "
            f"({DENOISER}*) and an autoencoder ({AUTOENCODER}*); if it is a network alone, {_REST}"
        )
    if first[1] != 4:
        raise WeightsError(
            f"{path}: takes {first[1]} channels, not the 4 of latents; models for inpainting (9), depth (5) "
            "and editing (8) are not supported"
        )
    widths = {shape[-1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")}
    return _KINDS.get((min(widths, default=0), any("label_emb." in name for name in shapes)), "")
