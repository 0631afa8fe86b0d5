"""Methods by their strings: parts joined by ``+``, weights after a colon, settings of DIFT in brackets."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from functools import lru_cache
from itertools import product
from typing import Any, cast

from geomatch.benchmarks.methods.backbones import MODELS, TransformersFeatures
from geomatch.benchmarks.methods.features import FeatureFiles, OpenCVFeatures
from geomatch.benchmarks.methods.functions import MatchFiles, PipelineMatcher
from geomatch.benchmarks.methods.method import Method
from geomatch.describers import default_config, dift_config
from geomatch.dift import DIFTConfig, DIFTExtractor
from geomatch.estimators import estimators
from geomatch.keypoints import ORIENTED, Detector, create_detector
from geomatch.keypoints.learned import WEIGHTS
from geomatch.matchers.lightglue import TRAINED_FOR, LightGlueMatcher
from geomatch.pipeline import Pipeline
from geomatch.types import Metric

_L2 = ("sift", "orb", "akaze")
_FEATURES = (*_L2, "rootsift", "superpoint", "superpoint-magicleap", *WEIGHTS)
_WHOLE = ("detector", "descriptor", "matcher", "effort", "model", "aligned")
_SHORT = {"t": "timestep", "layer": "layers", "ensemble": "ensemble_size"}
_DEFAULTS = {field.name: field.default for field in fields(DIFTConfig) if field.name != "device"}


def split_methods(text: str) -> dict[str, str]:
    """The strings by name, of a list separated by commas, ``NAME=STRING`` or a string, named by itself.

    Values in braces make as many methods. Names have no folders, unless they need them to differ. Raises
    ValueError for a name with two strings.

    >>> list(split_methods("sift,sift+dift-sd[t=0,layer=2],mine=aliked:models/a.pth,aliked:models/b.pth"))
    ['sift', 'sift+dift-sd[t=0,layer=2]', 'mine', 'aliked:b.pth']
    >>> list(split_methods("dift-sd[t={0,51},layer=2]"))
    ['dift-sd[t=0,layer=2]', 'dift-sd[t=51,layer=2]']
    """
    return named(re.split(r",(?![^\[\]]*\])", text))


def named(strings: Iterable[str]) -> dict[str, str]:
    """As `split_methods`, of ``NAME=STRING`` or strings that are split already."""
    found: dict[str, str] = {}
    for item in dict.fromkeys(one for text in strings for one in _each(text)):
        name, string = re.fullmatch(r"(?:([^=\[\]+:]+)=)?(.*)", item).groups()  # type: ignore[union-attr]
        if name is None:
            short = "+".join(re.sub(r"(^(?=/)|:).*/", r"\1", part) for part in _parts(string))
            name = string if short in found else short
        if found.setdefault(name, string) != string:
            raise ValueError(f"two methods are called {name!r}: {found[name]} and {string}")
    return found


def _each(text: str) -> Iterator[str]:
    """The string with every choice of the values in its braces."""
    parts = re.split(r"\{([^{}]*)\}", text)
    choices = (part.split(",") if place % 2 else [part] for place, part in enumerate(parts))
    yield from map("".join, product(*choices))


@lru_cache(maxsize=64)
def create_method(text: str, max_keypoints: int = 2000, device: str = "cpu") -> Method:
    """A method of sparse features by its string.

    - features: a name with its own descriptors (``sift``, ``aliked:aliked-n16.pth``), or
      ``DETECTOR+DESCRIPTOR`` with a detector of geomatch or a learned one's keypoints and a DIFT
      descriptor, ``dino``, ``dinov2`` or ``clip`` (``superpoint+dift-sd``, ``sift+dinov2:FOLDER``,
      ``aliked:aliked-n16.pth+dift-tiny``), or files, see `FeatureFiles`
      (``npz:ROOT:SUFFIX``, ``h5:FILE``), or matches in files, see `MatchFiles` (``matches:FOLDER``), or
      ``geomatch``, the whole of `geomatch.match`, perhaps with settings of `geomatch.Pipeline`:
      ``geomatch[effort=high,aligned=yes]``;
    - a DIFT descriptor may have settings, ``dift-sd[t=0,layer=2,ensemble=4,image_size=768]``: ``t``,
      ``layer`` (several as ``1|2``; so ``discard``), ``ensemble``, or another field of `DIFTConfig` by name;
    - then ``mnn`` (the default; ``mnn[ratio=0.8]`` with Lowe's ratio test) or ``lightglue``;
    - then an estimator, which takes the place of the protocol's, at the protocol's threshold.

    There are at most ``max_keypoints`` per image. Raises ValueError, saying how a method is written.
    """
    parts = _parts(text)
    chosen = parts.pop() if len(parts) > 1 and parts[-1] in estimators() else None
    name, _, weights = parts[0].partition(":")
    matcher, ratio = None, None
    if parts[-1].startswith("mnn"):
        found = re.fullmatch(r"mnn(?:\[ratio=(0?\.\d+)\])?", parts.pop())
        if found is None:
            raise ValueError(f"{text}: write mnn, or mnn[ratio=0.8] with a ratio below 1")
        ratio = float(found[1]) if found[1] else None
    elif parts[-1].partition(":")[0] == "lightglue":
        if name not in TRAINED_FOR or len(parts) != 2:
            raise ValueError(f"{text}: LightGlue has weights for {', '.join(TRAINED_FOR)} only")
        matcher = LightGlueMatcher(name, parts.pop().partition(":")[2] or None, device)
    if len(parts) == 1 and name == "matches" and weights and not ratio:
        return Method(text, pair_matcher=MatchFiles(weights), estimator=chosen)
    if len(parts) == 1 and _bracketed(parts[0])[0] == "geomatch":
        return Method(text, pair_matcher=_pipeline(parts[0], max_keypoints, device), estimator=chosen)
    if len(parts) == 1 and name in ("npz", "h5") and weights:
        root, _, suffix = weights.rpartition(":") if name == "npz" else (weights, "", "")
        files = FeatureFiles("npz" if name == "npz" else "h5", root, suffix, max_keypoints)
        return Method(text, files, None, max_ratio=ratio, estimator=chosen)
    if len(parts) == 1 and name in _FEATURES:
        opencv = OpenCVFeatures(cast(Any, name), max_keypoints) if name in (*_L2, "rootsift") else None
        source = opencv or _detector(name, max_keypoints, weights, device)
        metric: Metric = "l2" if name in _L2 else "cosine"
        return Method(text, source, None, metric, ratio, matcher, estimator=chosen)
    if len(parts) != 2 or matcher:
        raise ValueError(
            f"no method {text!r}: give one of {', '.join(_FEATURES)}, geomatch, npz:ROOT:SUFFIX, "
            "h5:FILE, matches:FOLDER, or DETECTOR+DESCRIPTOR (sift+dift-tiny); then perhaps +lightglue, and "
            "an estimator (+usac_magsac)"
        )
    described = _described(text, parts[1], device)
    source = _detector(name, max_keypoints, weights, device)
    return replace(described, source=source, max_ratio=ratio, estimator=chosen)


@lru_cache(maxsize=64)
def create_dense_method(text: str, device: str = "cpu") -> Method:
    """A dense method: ``dino``, ``dinov2``, ``clip`` (``:MODEL``), dense DIFT; ValueError for others."""
    method = _described(text, text, device)
    if method.dift is not None and method.dift.sampling != "dense":
        raise ValueError(f"{text}: works in patches; choose a dense descriptor, such as dift-tiny-dense")
    return method


def _described(name: str, text: str, device: str) -> Method:
    """A method of a descriptor alone."""
    kind, _, model = text.partition(":")
    if kind in MODELS:
        backbone = TransformersFeatures(cast(Any, kind), model or MODELS[kind], device=device)
        return Method(name, None, backbone)
    base, settings = _bracketed(text)
    config = replace(_changed(dift_config(base), settings, text), device=device)
    return Method(name, None, DIFTExtractor(config), config.metric, dift=config)


def _changed(config: DIFTConfig, settings: str, text: str) -> DIFTConfig:
    changes = {}
    for item in settings.split(",") if settings else ():
        given, equals, value = item.partition("=")
        name = _SHORT.get(given, given)
        if not equals or name not in _DEFAULTS:
            known = ", ".join([*_SHORT, *(key for key in _DEFAULTS if key not in _SHORT.values())])
            raise ValueError(f"{text}: unknown setting {item!r}; give NAME=VALUE with one of: {known}")
        try:
            changes[name] = _value(name, value)
        except ValueError as error:
            raise ValueError(f"{text}: {given} cannot be {value!r}") from error
    try:
        return replace(config, **changes)
    except ValueError as error:
        raise ValueError(f"{text}: {error}") from error


def _value(name: str, text: str) -> Any:
    default = _DEFAULTS[name]
    if name == "layers":
        return tuple(int(part) if part.isdecimal() else part for part in text.split("|"))
    if name == "discard":
        return tuple(map(int, filter(None, text.split("|"))))
    if name == "image_size":
        sides = tuple(map(int, text.split("x"))) if text != "native" else None
        return sides[0] if sides and len(sides) == 1 else sides
    if isinstance(default, bool) and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if isinstance(default, bool) and name != "head":
        raise ValueError(text)
    if name == "batch_size" or (isinstance(default, int) and not isinstance(default, bool)):
        return int(text)
    return float(text) if isinstance(default, float) else text


def _pipeline(text: str, max_keypoints: int, device: str) -> PipelineMatcher:
    items = [item.partition("=") for item in filter(None, _bracketed(text)[1].split(","))]
    settings: dict[str, Any] = {name: value for name, _, value in items}
    if not settings.keys() <= set(_WHOLE):
        raise ValueError(f"{text}: settings of geomatch are {', '.join(_WHOLE)}")
    aligned = settings.pop("aligned", "no") == "yes"
    if settings.get("matcher") in (None, "mnn"):  # by name, so that its weights are in the key
        settings.setdefault("descriptor", default_config(settings.get("detector") in (None, *ORIENTED)))
    settings |= {"refine_homography": aligned, "max_keypoints": max_keypoints, "device": device}
    return PipelineMatcher(Pipeline(**settings), aligned)


def _parts(text: str) -> list[str]:
    return re.split(r"\+(?![^\[\]]*\])", text)


def _bracketed(part: str) -> tuple[str, str]:
    """``dift-sd[t=0]`` as name and settings."""
    found = re.fullmatch(r"(.*?)\[([^\[\]]*)\]", part)
    return (found[1], found[2]) if found else (part, "")


def _detector(name: str, count: int, weights: str, device: str) -> Detector:
    made: Any = create_detector(name, count, device)
    whole = {"max_image_side": None} if name in WEIGHTS else {}
    return cast(Detector, replace(made, **whole, **({"weights": weights} if weights else {})))
