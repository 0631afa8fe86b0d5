"""Text embeddings, computed once per prompt and cached beside the weights."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import MissingDependencyError, WeightsError, reading, require
from geomatch.files import fingerprint_of
from geomatch.types import checked
from geomatch.weights.download import check_file
from geomatch.weights.folders import read_config

TEXT_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Where transformers looks for the weights of a text encoder, in this order."""
_KEY = "prompt_embedding"


def cached_embedding(folder: Path, prompt: str) -> NDArray[np.float32] | None:
    """(tokens, D) from the cache beside the weights; None if it is not there or of another text encoder."""
    path = _path(folder, prompt)
    if not path.is_file():
        return None
    from geomatch.weights.tensors import load_tensors

    with reading(path, "prompt embedding", WeightsError, "delete it"):
        tensors, metadata = load_tensors(path)
        embedding, made_by = tensors[_KEY].numpy(), metadata["text_encoder"]
    encoder = _fingerprint(folder)
    if encoder is not None and encoder != made_by:
        return None
    return checked(f"{path}", embedding, ("tokens", "D"), np.float32)


def encode_prompt(folder: Path, prompt: str) -> NDArray[np.float32]:
    """(tokens, D), the last hidden state of the pipeline's text encoder, as Stable Diffusion uses it.

    Cached beside the weights if that folder can be written to.
    """
    fingerprint = _fingerprint(folder)
    for part in ("text_encoder", "tokenizer"):
        if not (folder / part).is_dir() or (part == "text_encoder" and fingerprint is None):
            raise WeightsError(
                f"{folder / part}: missing, and the embedding of prompt {prompt!r} is not cached; "
                f"add the {part.replace('_', ' ')} or give the embedding"
            )
    try:
        transformers: Any = require("transformers", "transformers", f"encoding the prompt {prompt!r}")
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"{error}; or copy {_path(folder, prompt).relative_to(folder)} from a machine that has it"
        ) from error
    import torch

    from geomatch.weights.tensors import save_tensors

    for path in (*folder.glob("text_encoder/*"), *folder.glob("tokenizer/*")):
        check_file(path)
    if read_config(folder / "text_encoder").get("model_type") not in ("clip_text_model", "clip"):
        raise WeightsError(f"{folder / 'text_encoder'}: no CLIP text encoder; Stable Diffusion 1 and 2 only")
    with reading(folder, "text encoder", WeightsError):
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        encoder = transformers.CLIPTextModel.from_pretrained(
            folder / "text_encoder", local_files_only=True, dtype=torch.float32
        ).eval()
    length = encoder.config.max_position_embeddings
    tokens = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        embedding = encoder(tokens.input_ids)[0][0].float().clone()
    path = _path(folder, prompt)
    try:
        path.parent.mkdir(exist_ok=True)
        save_tensors(path, {_KEY: embedding}, {"prompt": prompt, "text_encoder": str(fingerprint)})
    except OSError:
        pass  # a read-only folder: it is computed again next time
    return np.asarray(embedding.numpy(), np.float32)


def _path(folder: Path, prompt: str) -> Path:
    return folder / "prompt_embeddings" / f"{hashlib.sha256(prompt.encode()).hexdigest()[:16]}.safetensors"


def _fingerprint(folder: Path) -> str | None:
    """SHA-256 over the text encoder's weights and configuration and the tokenizer; None without weights."""
    weights = [path for name in TEXT_WEIGHTS if (path := folder / "text_encoder" / name).is_file()][:1]
    others = [folder / "text_encoder" / "config.json", *sorted((folder / "tokenizer").glob("*"))]
    return fingerprint_of(weights + [path for path in others if path.is_file()]) if weights else None
