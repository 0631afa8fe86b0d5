"""What collections of some sizes take, by the rates of the record ``engines``: the formulas of SCALING.md."""

from collections.abc import Mapping, Sequence
from typing import Any

from geomatch.benchmarks.studies.record import markdown

SIZES = (1_000, 100_000, 10_000_000)
PACK = 256
"""Pairs per stored object in large collections (`geomatch.collection.pair_matches.BLOCK_PAIRS`)."""
EXPORT = 4434.92
"""Pairs written to a COLMAP database in a second (record ``export``)."""
PARTNERS, LOADS = 11.03035, 0.54141
"""Pairs per image, and features read per pair: 20 nearest on a plane (record ``engines`` of 0.1.0)."""
IMAGE_MEMORY, PAIR_MEMORY = 439.9104, 311.40495
"""Bytes of an image and of a pair where the command is given (the same record)."""
HOUR = 3600.0


def rates_of(engines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The measured numbers that the formulas need, from rows of the record ``engines``."""
    rows = {row["name"]: row["value"] for row in engines}
    return {
        "features": rows["features, local, 1 worker"],
        "pooled": rows["pooled features of whole images, 1 worker"],
        "comparisons": rows["comparisons of pooled features, 1 worker"] * 1e6,
        "pairs": rows["pairs, local, 1 worker"],
        "feature_bytes": rows["store, bytes per image with 1000 keypoints"],
        "pooled_bytes": 4.0 * rows["pooled features, numbers per image"] * 2,  # again in chunks
        "pair_bytes": rows["store, bytes per pair"],
        "partners": PARTNERS,
        "loads": LOADS,
        "export": EXPORT,
        "image_memory": IMAGE_MEMORY,
        "pair_memory": PAIR_MEMORY,
    }


def sizing(images: int, rates: Mapping[str, float]) -> dict[str, float]:
    """What ``images`` photographs take, with retrieval of 20 partners, by the formulas of SCALING.md."""
    pairs = images * rates["partners"]
    return {
        "pairs": pairs,
        "all pairs": images * (images - 1) / 2,
        "features, core-hours": images / rates["features"] / HOUR,
        "retrieval, core-hours": (images / rates["pooled"] + images**2 / rates["comparisons"]) / HOUR,
        "matching, core-hours": pairs / rates["pairs"] / HOUR,
        "matching all pairs, core-hours": images * (images - 1) / 2 / rates["pairs"] / HOUR,
        "stored, GB": (
            images * (rates["feature_bytes"] + rates["pooled_bytes"]) + pairs * rates["pair_bytes"]
        ) / 1e9,
        "objects, thousands": (2 * images + pairs / PACK) / 1e3,
        "read while matching, GB": pairs * rates["loads"] * rates["feature_bytes"] / 1e9,
        "database, hours": pairs / rates["export"] / HOUR,
        "memory where the command is given, GB": (
            images * rates["image_memory"] + pairs * rates["pair_memory"]
        ) / 1e9,
    }  # fmt: skip


def table(rates: Mapping[str, float]) -> str:
    """In Markdown, one column per size."""
    columns = [sizing(images, rates) for images in SIZES]
    rows = [[what, *(_short(column[what]) for column in columns)] for what in columns[0]]
    return markdown(["photographs", *(f"{images:,}" for images in SIZES)], rows)


def _short(value: float) -> str:
    """Two figures: more is not known.

    >>> _short(0.01234), _short(12.34), _short(123456.0)
    ('0.012', '12', '120,000')
    """
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"
