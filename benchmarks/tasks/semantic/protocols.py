"""The protocols of semantic correspondence by name: everything that decides a number, in one place.

PCK (Yang and Ramanan, 2013): a transferred point is right when it lies within alpha times a reference
length of the truth. ``PCK@a`` counts points over all pairs, ``PCK@a per image`` is the mean over pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from geomatch.benchmarks.harness.suite import Row, chosen
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
    source: str
    """Whose rules."""
    reference: Reference
    """Alpha is a share of the longer side of the target's box, or of the target image."""
    rule: Rule = "argmax"
    alphas: tuple[float, ...] = (0.01, 0.05, 0.1, 0.15)
    prompt: str = "a photo of a {category}"
    """For models conditioned on text."""
    headline: str = "PCK@0.1"
    """The measure by which methods are compared."""


_SOURCES = {
    "spair": "Tang et al., 2023, eval_spair.py",
    "willow": "Tang et al., 2023; list of pairs and box of points by Rocco et al.",
    "cub": "Tang et al., 2023; splits of our own, see geomatch.benchmarks.tasks.semantic.cub",
}


def protocols_for(dataset: str) -> dict[str, SemanticProtocol]:
    """Those of ``spair``, ``willow`` or ``cub``: by box, by image, and by box with the soft-argmax."""
    source = _SOURCES[dataset]
    soft = f"{source}; windowed soft-argmax of Zhang et al., CVPR 2024"
    own = (
        SemanticProtocol(dataset, 1, source, "box"),
        SemanticProtocol(f"{dataset}-image", 1, source, "image"),
        SemanticProtocol(f"{dataset}-soft", 1, soft, "box", "soft-argmax"),
    )
    return {protocol.name: protocol for protocol in own}


def find_protocols(dataset: str, names: str) -> list[SemanticProtocol]:
    """Those of a list separated by commas; ``all`` is every one of the data set.

    Raises:
        ValueError: listing the names, when there is none of that name.
    """
    return chosen(protocols_for(dataset), names)


def with_prompt(protocol: SemanticProtocol, prompt: str) -> SemanticProtocol:
    """The protocol with another text, which its name tells, since numbers differ."""
    if prompt == protocol.prompt:
        return protocol
    return replace(protocol, prompt=prompt, name=f"{protocol.name}:{prompt or 'no prompt'}")


def summarise(protocol: SemanticProtocol, rows: Sequence[Row]) -> list[Row]:
    """One row per category and one for all: pairs, failures, and PCK in percent, per point and per image."""
    found = []
    for split in [*sorted({row["split"] for row in rows}), "all"]:
        own = [row for row in rows if split in ("all", row["split"])]
        failures = sum(row["reason"] is not None for row in own)
        measures: dict[str, Any] = {}
        for suffix in ("", " per image"):
            for alpha in protocol.alphas:
                measures[f"PCK@{alpha:g}{suffix}"] = pck(own, alpha, per_image=bool(suffix))
        found.append({"split": split, "pairs": len(own), "failures": failures, **measures})
    return found


def pck(rows: Sequence[Row], alpha: float, per_image: bool = False) -> float:
    """Percentage of points within alpha, over all points or as the mean over pairs."""
    shares = [np.array([error is not None and error <= alpha for error in row["errors"]]) for row in rows]
    if per_image:
        return 100 * float(np.mean([share.mean() for share in shares]))
    return 100 * float(np.concatenate(shares).mean())
