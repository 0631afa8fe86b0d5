"""The protocols of semantic correspondence by name: everything that decides a number, in one place.

PCK (Yang and Ramanan, 2013): a transferred point is right when it lies within alpha times a reference
length of the truth. ``PCK@a`` counts points over all pairs, ``PCK@a per image`` is the mean over pairs.
"""

from dataclasses import dataclass, replace
from typing import Literal

from geomatch.benchmarks.harness.task import by_name
from geomatch.dift.maps.transfer import Rule

Reference = Literal["box", "image"]


@dataclass(frozen=True, slots=True)
class SemanticProtocol:
    """One way to evaluate.

    Each point of the source goes to the most similar place of the target; maps are compared at the
    resolution of the images, between the cells bilinearly. A pair whose images cannot be read has all its
    points wrong.
    """

    name: str
    version: int
    source: str  # the paper or code that defines it
    reference: Reference  # alpha is a share of the longer side of the target's box, or of the target image
    rule: Rule = "argmax"
    alphas: tuple[float, ...] = (0.01, 0.05, 0.1, 0.15)
    prompt: str = "a photo of a {category}"  # for models conditioned on text
    headline: str = "PCK@0.1"  # the measure by which methods are compared


_SOURCES = {
    "spair": "Tang et al., 2023, eval_spair.py",
    "willow": "Tang et al., 2023; list of pairs and box of points by Rocco et al.",
    "cub": "Tang et al., 2023; splits of our own, see geomatch.benchmarks.tasks.semantic.cub",
}


def protocols_of(dataset: str) -> dict[str, SemanticProtocol]:
    """Protocols of ``spair``, ``willow`` or ``cub``: by box, by image, and by box with the soft-argmax."""
    source = _SOURCES[dataset]
    soft = f"{source}; windowed soft-argmax of Zhang et al., CVPR 2024"
    return by_name(
        SemanticProtocol(dataset, 1, source, "box"),
        SemanticProtocol(f"{dataset}-image", 1, source, "image"),
        SemanticProtocol(f"{dataset}-soft", 1, soft, "box", "soft-argmax"),
    )


def with_prompt(protocol: SemanticProtocol, prompt: str) -> SemanticProtocol:
    """The protocol with another text, which its name tells, since numbers differ."""
    if prompt == protocol.prompt:
        return protocol
    return replace(protocol, prompt=prompt, name=f"{protocol.name}:{prompt or 'no prompt'}")
