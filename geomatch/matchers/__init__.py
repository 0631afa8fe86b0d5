"""Matchers of described keypoints, by name: mutual nearest neighbours, and learned ones.

Whatever has a method ``match(features0, features1)`` is a matcher.
"""

from typing import TYPE_CHECKING, Protocol

import numpy as np

from geomatch.lazy import lazy_names
from geomatch.types import Features, Matches, Metric

if TYPE_CHECKING:
    from geomatch.matchers.lightglue import LightGlueMatcher as LightGlueMatcher

__getattr__ = lazy_names(__name__, {"geomatch.matchers.lightglue": ("LightGlueMatcher",)})

MUTUAL = "mnn"
LEARNED = {
    "aliked+lightglue": "aliked",
    "disk+lightglue": "disk",
    "superpoint+lightglue": "superpoint-magicleap",
    "xfeat+lighterglue": "xfeat",
}
"""Names of learned matchers, and of the detectors that they are made for."""


class Matcher(Protocol):
    """Anything that matches described keypoints.

    Three more members are used where an object has them:

    - ``features``: the detector that it is made for, by name or as an object, which then brings keypoints and
      descriptors unless others are given;
    - ``device``: where its network runs, and then that detector's;
    - ``cache_key()``: all that decides the matches, see `geomatch.provenance.cache_key`. A frozen dataclass
      needs none.
    """

    def match(self, features0: Features, features1: Features) -> Matches:
        """Matches, best first."""
        ...


def create_matcher(matcher: str | Matcher | None, device: str = "auto") -> Matcher | None:
    """Return a matcher of a name in `LEARNED`, None for mutual nearest neighbours, an object as it is.

    Raises:
        ValueError: listing the names, when there is none of that name.
    """
    if not isinstance(matcher, str):
        return matcher
    if matcher == MUTUAL:
        return None
    if matcher not in LEARNED:
        known = ", ".join((MUTUAL, *LEARNED))
        raise ValueError(f"unknown matcher {matcher!r}; choose one of: {known}, or give an object")
    from geomatch.matchers.lightglue import cached_lightglue  # loads torch

    return cached_lightglue(LEARNED[matcher], None, device)


def check_rules(matcher: str | Matcher | None, metric: Metric | None, max_ratio: float | None) -> None:
    """Raise ValueError for rules of mutual nearest neighbours beside another matcher."""
    if matcher not in (None, MUTUAL) and not (metric is None and max_ratio is None):
        raise ValueError(
            f"metric and max_ratio are for mutual nearest neighbours ({MUTUAL}): leave them out; "
            "min_similarity is the least confidence of another matcher"
        )


def match_features(
    matcher: Matcher, features0: Features, features1: Features, least: float | None = None
) -> Matches:
    """What the matcher finds, of at least that similarity; nothing without keypoints.

    Raises ValueError for matches of keypoints that are not there.
    """
    if not len(features0) or not len(features1):
        return Matches(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    found = matcher.match(features0, features1)
    sizes = len(features0), len(features1)
    if (found.indices >= np.array(sizes)).any():
        raise ValueError(
            f"{type(matcher).__name__} matched keypoints beyond the {sizes[0]} and {sizes[1]} given"
        )
    return found if least is None else found[found.similarity >= least]
