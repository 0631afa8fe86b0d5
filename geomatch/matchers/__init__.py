"""Matchers of described keypoints, by name: mutual nearest neighbours, ``mnn``, and learned ones."""

from typing import Protocol

import numpy as np

from geomatch.types import Features, Matches

LEARNED = {
    "aliked+lightglue": "aliked",
    "disk+lightglue": "disk",
    "superpoint+lightglue": "superpoint-magicleap",
    "xfeat+lighterglue": "xfeat",
}
"""Names of learned matchers, and of the detectors that they are made for."""


class Matcher(Protocol):
    """Anything that matches described keypoints.

    ``features``, where an object has it, is the detector that it is made for, a name or an object: it brings
    keypoints and descriptors unless others are given, on the matcher's ``device``.
    """

    def match(self, features0: Features, features1: Features) -> Matches:
        """Matches, best first."""


def create_matcher(matcher: str | Matcher | None, device: str = "auto") -> Matcher | None:
    """A matcher of a name in `LEARNED`, None for ``mnn``, an object as it is; ValueError for other names."""
    if not isinstance(matcher, str):
        return matcher
    if matcher == "mnn":
        return None
    if matcher not in LEARNED:
        raise ValueError(f"unknown matcher {matcher!r}; choose one of: mnn, {', '.join(LEARNED)}")
    from geomatch.matchers.lightglue import LightGlueMatcher  # loads torch

    return LightGlueMatcher(LEARNED[matcher], device=device)


def match_features(
    matcher: Matcher, features0: Features, features1: Features, least: float | None = None
) -> Matches:
    """What it finds, of at least that similarity; ValueError for keypoints that are not there."""
    sizes = len(features0), len(features1)
    if not all(sizes):
        return Matches(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    found = matcher.match(features0, features1)
    if (found.indices >= sizes).any():
        raise ValueError(f"{type(matcher).__name__} matched keypoints beyond the {sizes[0]} and {sizes[1]}")
    return found if least is None else found[found.similarity >= least]
