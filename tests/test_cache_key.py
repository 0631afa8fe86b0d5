"""Cache keys: changing any part of anything that decides a result changes its key."""

from dataclasses import dataclass, fields, is_dataclass, make_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import geomatch
from geomatch.collection import Matching
from geomatch.dift import PRESETS, DIFTConfig, DIFTExtractor
from geomatch.estimators import create_estimator, estimators
from geomatch.files import digest_of
from geomatch.keypoints import OpenCVDetector, create_detector, detectors
from geomatch.provenance import cache_key, versions

Pair = make_dataclass("Pair", ["first", "second"], frozen=True)
Twin = make_dataclass("Twin", ["first", "second"], frozen=True)


def key(part: object) -> str:
    """What results are stored under."""
    return digest_of(cache_key(part))


class Colour(Enum):
    RED, BLUE = 1, 2


DTYPES = st.sampled_from(["float32", "float64", "int32", "uint8", "bool"])
ARRAYS = DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(max_dims=2, max_side=2)))
SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=3)
VALUES = st.recursive(
    SCALARS | st.binary(max_size=3) | st.sampled_from(Colour) | ARRAYS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2) | st.integers(0, 3), inner, max_size=3)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=6,
)


def exact(part: Any) -> Any:
    """The same for parts that are equal in type and content, bit by bit."""
    if isinstance(part, np.ndarray):
        return ("array", part.dtype.str, part.shape, part.tobytes())
    if isinstance(part, dict):
        return ("dict", frozenset((exact(k), exact(v)) for k, v in part.items()))
    if isinstance(part, (list, tuple)):
        return (type(part), tuple(map(exact, part)))
    if is_dataclass(part):
        return (type(part), tuple(exact(getattr(part, f.name)) for f in fields(part)))
    return (type(part), repr(part))


@settings(deadline=None, max_examples=60, database=None)
@given(VALUES, VALUES)
def test_keys_are_equal_for_equal_parts_only(a: Any, b: Any) -> None:
    assert key(a) == key(a)
    assert (key(Pair(a, 0)) == key(Pair(b, 0))) == (exact(a) == exact(b))
    assert key(Pair(a, b)) != key(Twin(a, b))


@pytest.mark.parametrize(
    "values",
    [
        [np.zeros(4, np.float32), np.zeros(4), np.zeros((2, 2), np.float32), -np.zeros(4), [0.0] * 4],
        [torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.int16)],
        [{"a": 1}, {"a": "1"}, {"b": 1}, {"a": {"a": 1}}, [["a", 1]], ("a", 1), {1: "a"}, {"1": "a"}],
        [None, "None", 0, 0.0, False, "", b"", (), [], {}, set(), Colour.RED, Colour.BLUE, np.int64(0)],
    ],
)  # fmt: skip
def test_near_misses_have_keys_of_their_own(values: list[Any]) -> None:
    assert len({key(value) for value in values}) == len(values)


def test_order_and_layout_of_memory_do_not_count(tmp_path: Path) -> None:
    table = np.arange(6.0).reshape(2, 3)
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})
    assert key(table) == key(np.asfortranarray(table)) == key(torch.from_numpy(table))
    for name in ("1a", "1b", "2a"):
        (tmp_path / name).write_text(name[0])
    a, b, c = (key(path) for path in sorted(tmp_path.iterdir()))
    assert a == b != c  # files count by content


OTHERS: dict[str, Any] = {
    "detector": None, "feature": "orb", "rank_by": "size", "method": "ransac", "gate": None, "device": None,
    "metric": "l2", "layers": ("up_blocks.0",), "latent": "sample", "prompt": "a cat", "dtype": "bfloat16",
    "compile": "off", "matcher": "disk+lightglue",
    "sampling": "patch", "image_side": "short", "image_size": 512, "noise": False, "guided": False,
    "discard": (1,), "max_ratio": 0.5, "min_similarity": 0.5, "max_iterations": 77, "min_iterations": 7,
}  # fmt: skip
PLACES = ("weights", "model", "revision", "unet_file", "head", "device", "effort")
"""Fields whose content counts, which other tests change, or that do not decide results."""


def changes(part: Any) -> dict[str, Any]:
    """The part with each of its fields changed, by field."""
    found = {}
    for field in fields(part):
        name, value = field.name, getattr(part, field.name)
        if name in PLACES or not field.init:
            continue
        if is_dataclass(value):
            found |= {f"{name}.{n}": replace(part, **{name: v}) for n, v in changes(value).items()}
            continue
        other = value / 2 + 0.001 if isinstance(value, float) else None
        if OTHERS.get(name) is not None:
            other = OTHERS[name]
        found[name] = replace(part, **{name: (value or 0) + 1 if other is None else other})
    return found


@pytest.mark.parametrize(
    "part",
    [*(create_detector(name) for name in ("grid", "superpoint-tiny", "mixed", "sift")),
     *(create_estimator(name, 3.0) for name in ("usac_magsac", "kornia", "poselib")),
     DIFTConfig(), Matching()],
    ids=lambda part: type(part).__name__,
)  # fmt: skip
def test_every_field_of_the_real_parts_counts(part: Any) -> None:
    keys = [key(part), *(key(other) for other in changes(part).values())]
    assert len(set(keys)) == len(keys) > 2


def test_every_named_part_has_a_key_of_its_own() -> None:
    for names, create in ((detectors(), create_detector), (estimators(), create_estimator)):
        keys = []
        for name in names:
            try:
                keys.append(key(create(name)))  # type: ignore[operator]
            except (geomatch.WeightsError, geomatch.MissingDependencyError):
                continue  # weights to be downloaded
        assert len(set(keys)) == len(keys) > 5


def test_prompt_embeddings_and_settings_of_extractors_count(small_sd: Path) -> None:
    config = DIFTConfig(model=str(small_sd))
    rows = np.random.default_rng(0).normal(size=(1, 2, 32)).astype(np.float32)
    found = [
        DIFTExtractor(config, {"prompt_embeds": embedding}) for embedding in (rows, rows + 1, rows[:, :1])
    ]
    found += [
        DIFTExtractor(replace(config, timestep=51), {"prompt_embeds": rows}),
        DIFTExtractor(PRESETS["dift-tiny"]),
    ]
    assert len({key(one) for one in found}) == len(found)


@dataclass(frozen=True)
class Named:
    """Says itself what counts."""

    weight: float
    remark: str

    def cache_key(self) -> Any:
        return [np.float64(self.weight)]


def test_objects_may_say_what_counts() -> None:
    assert key(Named(1.0, "a")) == key(Named(1.0, "b")) != key(Named(2.0, "a"))
    for part in (object(), [lambda: 1], np.array([object()]), OpenCVDetector(cv2.ORB_create())):  # type: ignore[attr-defined]
        refused = r"frozen dataclass of its settings, or give it a method cache_key\(\)"
        with pytest.raises(ValueError, match=refused):
            cache_key(part)


def test_versions_belong_to_the_caller() -> None:
    """Every key counts them: what a caller writes must not reach the next one."""
    versions()["torch"] = "changed"
    assert versions()["torch"] != "changed"
