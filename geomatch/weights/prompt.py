"""What networks are conditioned on: prompts, encoded once each and cached beside the weights."""

import hashlib
import inspect
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import WeightsError, reading, require
from geomatch.files import fingerprint_of
from geomatch.weights.download import check_file
from geomatch.weights.families import CLIPS, Encoders, Family
from geomatch.weights.folders import TEXT_STEMS, WHOLE, find_weights, network_folder, read_config
from geomatch.weights.hub import hub_folder

Conditioning = Mapping[str, NDArray[np.float32]]
"""Tensors by name, without a batch: ``prompt_embeds`` (tokens, D); where the family has them, ``pooled`` (P,)
and ``mask`` (tokens,), 1 for tokens that count."""
EXACT_BYTES = 4e9
"""Size of the weights up to which a text encoder runs in float32; T5-XXL, of 9.5 GB, runs in bfloat16."""

_CLIP = "openai/clip-vit-large-patch14"  # OpenCLIP's tokenizer only pads differently
_VOCABULARIES = ("vocab.json", "tokenizer.json", "spiece.model", "tokenizer.model")
_log = logging.getLogger(__name__)
_one = Lock()  # of prompts that are encoded, since settings of libraries are changed meanwhile
_WORDS = ("vocab.json", "merges.txt", "tokenizer_config.json")


def cached_conditioning(family: Family, folder: Path, prompt: str) -> Conditioning | None:
    """From the cache beside the weights; None if it is not there, or of other text encoders."""
    path = _path(folder, prompt)
    if not path.is_file():
        return None
    from geomatch.weights.tensors import load_tensors

    with reading(path, "prompt embedding", WeightsError, "delete it"):
        tensors, metadata = load_tensors(path)
        made_by = metadata["text_encoder"]
    encoder = _fingerprint(family, folder)
    if encoder is not None and encoder != made_by:
        return None
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def pipeline_of(family: Family, folder: Path) -> tuple[str, Encoders]:
    """The pipeline that encodes prompts, and its encoders, without optional ones that the model lacks."""
    listed = read_config(folder, "model_index.json") if (folder / "model_index.json").is_file() else {}
    name = str(listed.get("_class_name"))
    if name not in family.pipelines:
        name = next(iter(family.pipelines))
    return name, {
        end: classes
        for end, classes in family.pipelines[name].items()
        if end not in family.optional
        or (folder / f"text_encoder{end}").is_dir()
        or listed.get(f"text_encoder{end}") not in (None, [None, None])
    }


def encode_prompt(family: Family, folder: Path, prompt: str) -> Conditioning:
    """The prompt as the family's pipeline in diffusers encodes it; cached beside the weights if possible."""
    (name, encoders), fingerprint = pipeline_of(family, folder), _fingerprint(family, folder)
    for part in missing_parts(folder, encoders):
        state = "incomplete" if (folder / part).exists() else "missing"
        raise WeightsError(
            f"{folder / part}: {state}, and the encoding of prompt {prompt!r} is not cached; "
            "add it, give the conditioning, or give a folder with text encoders as the model"
        )
    path = _path(folder, prompt)
    spared = f"unless {path.relative_to(folder)} is copied from a machine that has it"
    require("transformers", "transformers", f"encoding the prompt {prompt!r}, {spared},")
    import diffusers

    from geomatch.weights.tensors import save_tensors

    for end in encoders:
        for file in (*folder.glob(f"text_encoder{end}/*"), *folder.glob(f"tokenizer{end}/*")):
            check_file(file)
    with reading(folder, "set of text encoders", WeightsError), _silent():
        tensors = _encoded(getattr(diffusers, name), encoders, family.encoded, folder, prompt)
    with suppress(OSError):  # a read-only folder: it is computed again next time
        path.parent.mkdir(exist_ok=True)
        save_tensors(path, tensors, {"prompt": prompt, "text_encoder": str(fingerprint)})
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _encoded(
    make: Any, encoders: Encoders, names: Sequence[str | None], folder: Path, prompt: str
) -> dict[str, Any]:
    import torch
    import transformers

    parts: dict[str, Any] = {}
    for end, classes in encoders.items():
        encoder, tokenizer = (getattr(transformers, name) for name in classes)
        parts[f"text_encoder{end}"] = _encoder(encoder, folder / f"text_encoder{end}")
        place = folder / f"tokenizer{end}"
        with reading(place, "tokenizer", WeightsError, "get the folder again"):
            words = tokenizer.from_pretrained(place, local_files_only=True)
        if prompt and len(words) == 3:  # the package's own, which has only the first, last and padding token
            whole = hub_folder(_CLIP, None, [_WORDS], lambda found: sorted({*_WORDS} - {*os.listdir(found)}))
            own = {"pad_token": words.pad_token, "model_max_length": words.model_max_length}
            words = tokenizer.from_pretrained(whole, local_files_only=True, **own)
        parts[f"tokenizer{end}"] = words
        if hasattr(words, "model_max_length") and len(words(prompt).input_ids) > words.model_max_length:
            _log.warning("%s: reads %d tokens, the prompt has more", place, words.model_max_length)
    parts["requires_safety_checker"] = False
    parameters = inspect.signature(make).parameters
    needed = [name for name, kind in parameters.items() if name in parts or kind.default is kind.empty]
    pipeline = make(**{name: parts.get(name) for name in needed})
    # StableDiffusion3Pipeline without T5 asks for the configuration of the network, which is not loaded
    pipeline.transformer = SimpleNamespace(config=SimpleNamespace(**read_config(network_folder(folder))))
    accepted = inspect.signature(pipeline.encode_prompt).parameters
    arguments = {"prompt": prompt, "prompt_2": None, "prompt_3": None, "device": torch.device("cpu"),
                 "num_images_per_prompt": 1, "do_classifier_free_guidance": False}  # fmt: skip
    if "max_sequence_length" in accepted:  # FLUX.1 schnell's tokenizer knows half of its pipeline's default
        others = [parts[f"tokenizer{end}"] for end, kind in encoders.items() if kind not in CLIPS]
        lengths = [accepted["max_sequence_length"].default, *(one.model_max_length for one in others)]
        arguments["max_sequence_length"] = min(lengths)
    taken = {name: value for name, value in arguments.items() if name in accepted}
    with torch.inference_mode():
        given = pipeline.encode_prompt(**taken)
    found = zip(names, given if isinstance(given, tuple) else (given,), strict=False)
    return {name: value[0].float().contiguous() for name, value in found if name and value is not None}


def _encoder(kind: Any, home: Path) -> Any:
    """The text encoder of class ``kind`` in the folder ``home``; an error if tensors of it are not there."""
    import torch

    weights = find_weights(home, TEXT_STEMS)
    settings: dict[str, Any] = {
        "local_files_only": True, "output_loading_info": True, "ignore_mismatched_sizes": True,
    }  # fmt: skip
    with reading(home, "text encoder", WeightsError, "get the folder again"):
        read_config(home)
        if weights[0].stem == WHOLE:
            from geomatch.weights.originals import clip_tensors

            config = kind.config_class.from_pretrained(home, local_files_only=True)
            settings |= {"config": config, "state_dict": clip_tensors(weights[0], config, home.name)}
            loaded, report = kind.from_pretrained(None, dtype=torch.float32, **settings)
        else:
            exact = sum(path.stat().st_size for path in weights) <= EXACT_BYTES
            dtype = torch.float32 if exact else torch.bfloat16
            variant = "fp16" if all(".fp16" in path.name for path in weights) else None
            loaded, report = kind.from_pretrained(home, dtype=dtype, variant=variant, **settings)
    for name in sorted(map(str, {*report["missing_keys"], *report["mismatched_keys"]})):
        raise WeightsError(
            f"{weights[0]}: weights of another text encoder: lacks {name}, judged by {home / 'config.json'}"
        )
    for parameter in loaded.parameters():  # sums depend on where in a mapped file the numbers begin
        parameter.data = parameter.data.clone()
    return loaded.eval()


@contextmanager
def _silent() -> Iterator[None]:
    """The bars of transformers, one for every encoder that is loaded, and its advice are not shown."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as theirs

    with _one:
        shown, hub_hidden = theirs.is_progress_bar_enabled(), are_progress_bars_disabled()
        level = theirs.get_verbosity()
        theirs.disable_progress_bar()
        theirs.set_verbosity_error()
        try:
            yield
        finally:
            theirs.set_verbosity(level)
            if shown:
                theirs.enable_progress_bar()
            if hub_hidden:
                disable_progress_bars()


def _path(folder: Path, prompt: str) -> Path:
    return folder / "prompt_embeddings" / f"{hashlib.sha256(prompt.encode()).hexdigest()[:16]}.safetensors"


def missing_parts(folder: Path, ends: Iterable[str]) -> list[str]:
    """The folders of text encoders and tokenizers that are not there, or lack weights or a vocabulary."""
    missing = []
    for end in ends:
        encoder, tokenizer = folder / f"text_encoder{end}", folder / f"tokenizer{end}"
        weights = find_weights(encoder, TEXT_STEMS)
        if not weights or not all(path.is_file() for path in weights):
            missing.append(encoder.name)
        if not any((tokenizer / name).is_file() for name in _VOCABULARIES):
            missing.append(tokenizer.name)
    return missing


def _fingerprint(family: Family, folder: Path) -> str | None:
    """The pipeline, and SHA-256 over the text encoders and tokenizers; None if weights are missing."""
    name, encoders = pipeline_of(family, folder)
    if any(part.startswith("text") for part in missing_parts(folder, encoders)):
        return None
    files: list[Path] = []
    for end in encoders:
        home = folder / f"text_encoder{end}"
        words = sorted(path for path in (folder / f"tokenizer{end}").glob("*") if path.is_file())
        files += [*find_weights(home, TEXT_STEMS), *home.glob("config.json"), *words]
    return f"{name} {fingerprint_of(files)}"
