"""Methods that differ in layers and ensemble size alone get their features from the same passes.

One run over the largest ensemble gives all layers, and its first members the smaller ensembles.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from geomatch.benchmarks.methods.method import Method
from geomatch.dift import DIFTConfig, DIFTExtractor, FeatureMap
from geomatch.dift.ensemble import member_activations
from geomatch.dift.inputs import image_input
from geomatch.images import Image
from geomatch.types import Features


def shared_pass(method: Method) -> DIFTConfig | None:
    """What methods that share their passes have in common; None for a method that shares none."""
    config = method.dift
    if config is None or config.sampling != "dense" or config.head:
        return None
    return replace(config, layers=(0,), ensemble_size=1, metric="cosine")


def groups(methods: Sequence[Method]) -> list[list[Method]]:
    """The methods, those together that share passes and keypoints."""
    found: list[list[Method]] = []
    for method in methods:
        own = shared_pass(method)
        for group in found:
            if own is not None and shared_pass(group[0]) == own and group[0].source == method.source:
                group.append(method)
                break
        else:
            found.append([method])
    return found


def dense_maps(
    methods: Sequence[Method], images: Sequence[Image], prompt: str | None = None
) -> list[list[FeatureMap]]:
    """Each method's maps of the images; images of one size go through the network together."""
    if shared_pass(methods[0]) is None:
        return [method.maps(images, prompt) for method in methods]
    configs = [method.dift for method in methods if method.dift is not None]
    layers = tuple(dict.fromkeys(layer for config in configs for layer in config.layers))
    largest = max(config.ensemble_size for config in configs)
    whole = replace(configs[0], layers=layers, ensemble_size=largest, metric="cosine")
    extractor = _extractor(whole, prompt if prompt is not None and methods[0].takes_text else whole.prompt)
    model, config = extractor.model, extractor.config
    inputs = [image_input(image, config, model.stride, model.device) for image in images]
    found: list[dict[int, FeatureMap]] = [{} for _ in methods]
    for shape in dict.fromkeys(tensor.shape for tensor in inputs):
        places = [place for place, tensor in enumerate(inputs) if tensor.shape == shape]
        sums: list[torch.Tensor] = []
        with torch.inference_mode():
            together = torch.cat([inputs[place] for place in places])
            for count, maps in enumerate(member_activations(model, config, together), 1):
                # not in place: a block and its last part may be one tensor
                sums = [summed + new for summed, new in zip(sums, maps, strict=True)] if sums else maps
                for wanted, own in zip(configs, found, strict=True):
                    if wanted.ensemble_size == count:
                        means = [sums[layers.index(layer)] / count for layer in wanted.layers]
                        for row, place in enumerate(places):
                            own[place] = FeatureMap(tuple(mean[row] for mean in means), images[place].size)
    return [[own[place] for place in range(len(images))] for own in found]


def describe_together(
    methods: Sequence[Method],
    images: Sequence[Image],
    found: Sequence[Features],
    paper_sampling: bool = False,
) -> list[list[Features]]:
    """What `Method.describe` gives for each method, with the passes shared."""
    if shared_pass(methods[0]) is None:
        return [method.describe(images, found, paper_sampling) for method in methods]
    filled = [place for place, features in enumerate(found) if len(features)]
    every = dense_maps(methods, [images[place] for place in filled]) if filled else [[]] * len(methods)
    described = []
    for method, maps in zip(methods, every, strict=True):
        rows = [np.zeros((0, 1), np.float32)] * len(found)
        for place, feature_map in zip(filled, maps, strict=True):
            rows[place] = feature_map.sample(found[place].keypoints, method.metric, paper_sampling)
        described.append([replace(f, descriptors=own) for f, own in zip(found, rows, strict=True)])
    return described


@lru_cache(maxsize=4)
def _extractor(config: DIFTConfig, prompt: str) -> DIFTExtractor:
    return _loaded(replace(config, timestep=0)).at_timestep(config.timestep).at_prompt(prompt)


@lru_cache(maxsize=1)
def _loaded(config: DIFTConfig) -> DIFTExtractor:
    """With its networks in memory, which serve every timestep."""
    return DIFTExtractor(config)
