"""What `match_collection` and `geomatch.reconstruction.reconstruct` can be told, as values."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from geomatch.describers import Describer, choose_parts, create_describer, default_config
from geomatch.dift import DIFTConfig
from geomatch.images import NO_MASKS, Masks
from geomatch.keypoints import Detector, GridDetector
from geomatch.matchers import Matcher, create_matcher
from geomatch.matching import check_options
from geomatch.types import Metric, Traits


@dataclass(frozen=True, slots=True)
class Extraction:
    """Which keypoints are detected, and how they are described."""

    detector: str | Detector | None = None
    """A name (`geomatch.keypoints.detectors`) or an object. None takes what the matcher is made for, or else
    ``sift-large``: on photographs of one place large keypoints of SIFT gave larger models."""
    descriptor: str | DIFTConfig | Describer | None = None
    """A preset, the folder or hub id of a diffusers model, a configuration, an object, or ``own``, what the
    detector brings. None takes that for such a matcher, or else the embedded model, densely for a grid, in
    patches for all other keypoints: of those without scale and orientation fewer dense matches are right."""
    max_keypoints: int = 3000
    """Per image, for a detector given by name."""
    masks: Masks = NO_MASKS
    """Where no keypoints are wanted."""

    def parts(self, device: str = "auto", matcher: str | Matcher | None = None) -> tuple[Detector, Describer]:
        """Create detector and describer; networks whose device is ``auto`` run on ``device``."""
        given = matcher, self.detector, self.descriptor, self.max_keypoints
        _, detector, describer = choose_parts(*given, device, "sift-large")
        if describer is None:
            config = default_config(patches=not isinstance(detector, GridDetector))
            describer = create_describer(config, device)
        return detector, describer


_RULE = re.compile(r"exhaustive:?|file:.+|(sequential|retrieval|gps)(:(0*[1-9][0-9]*)?)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PairSelection:
    """Which images are matched with which; ValueError for a rule that does not exist."""

    rules: Sequence[str] = ()
    """Applied one after the other; none means ``exhaustive`` up to 60 images and ``retrieval`` above:

    - ``exhaustive``: every pair;
    - ``sequential:N``: the next N images in natural order (``img9`` before ``img10``); 10 if not said;
    - ``retrieval:N``: the N images that look most alike; 20 if not said;
    - ``gps:N``: the N nearest by EXIF position; 20 if not said;
    - ``file:PATH``: two names per line, separated by a space, or by a tab when names have spaces; a number
      after them is ignored, and so are lines that begin with ``#``, unless they name two images.
    """
    max_pairs: int | None = None
    """No image is in more pairs; those of earlier rules and ranks come first."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        for rule in self.rules:
            if not _RULE.fullmatch(rule):
                known = "exhaustive, sequential:N, retrieval:N, gps:N or file:PATH"
                raise ValueError(f"{rule!r} is no rule for pairs: give {known}")

    def uses(self, *kinds: str) -> bool:
        """True if a rule of these kinds is given."""
        return any(rule.partition(":")[0] in kinds for rule in self.rules)


@dataclass(frozen=True, slots=True)
class Matching:
    """How the features of two images are matched; ValueError for values that make no sense."""

    matcher: str | Matcher | None = None
    """As in `geomatch.match`: by default mutual nearest neighbours, ``mnn``, that pass the tests."""
    metric: Metric | None = None
    """For ``mnn``; None takes the describer's own."""
    min_similarity: float | None = None
    """Least similarity of a match, see `geomatch.match_mutual`, or confidence of another matcher."""
    max_ratio: float | None = None
    """For ``mnn``, Lowe's ratio test. None takes the describer's own when ``guided``, no test otherwise."""
    guided: bool = True
    """Keep the matches, ratio test or not, that agree with the pair's two-view geometry."""

    def __post_init__(self) -> None:
        mutual = self.matcher in (None, "mnn")
        check_options(self.metric, self.min_similarity, self.max_ratio, mutual)

    def settled(self, traits: Traits, device: str = "auto") -> "Matching":
        """The same with the matcher as an object; of ``mnn`` with the describer's metric and ratio."""
        if (learned := create_matcher(self.matcher, device)) is not None:
            return replace(self, matcher=learned)
        ratio = traits.max_ratio if self.max_ratio is None and self.guided else self.max_ratio
        return replace(self, matcher=None, metric=self.metric or traits.metric, max_ratio=ratio)


EXTRACTION, PAIRS, MATCHING = Extraction(), PairSelection(), Matching()


@dataclass(frozen=True, slots=True)
class CollectionOptions:
    """How the images of a folder are described, paired and matched."""

    extraction: Extraction = EXTRACTION
    pairs: PairSelection = PAIRS
    matching: Matching = MATCHING
