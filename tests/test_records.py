"""The figures of README.md and SCALING.md are those of the committed records."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geomatch.benchmarks.studies import sizing
from geomatch.benchmarks.studies.dense_speed import table as dense_table
from geomatch.benchmarks.studies.embedded import (
    ALIGNED,
    BASELINES,
    DEFAULT,
    PLAIN,
    area_under_curve,
    differences_table,
    table,
)
from geomatch.benchmarks.studies.following import table as following_table
from geomatch.benchmarks.studies.learning import table as learning_table
from geomatch.benchmarks.studies.matching_speed import table as matching_table
from geomatch.benchmarks.studies.pca import table as pca_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def read(
    suite: str, machine: str = "linux-x86_64-2cores--cpu"
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows and settings of a record."""
    record = json.loads((ROOT / "benchmarks" / "results" / "0.1.0" / f"{suite}--{machine}.json").read_text())
    return record["results"], record["metadata"].get("settings", {})


def test_embedded_models() -> None:
    rows, settings = read("embedded")
    assert table(rows, settings["costs"]) in README
    for keys in ((PLAIN, PLAIN), (ALIGNED, ALIGNED), (ALIGNED, PLAIN)):
        assert differences_table(rows, DEFAULT, BASELINES, keys) in README
    assert all(row["failed"] for row in settings["unrelated"])


def test_speed() -> None:
    rows, _ = read("speed")
    assert matching_table(rows) in README
    for row in rows:
        if row["name"].startswith("match "):
            assert row["identical_matches"]
        elif row["unit"] == "pairs/s":
            assert f"| {row['value']:.0f} pairs/s |" in README
        elif row["name"].startswith("HPatches"):
            assert f"| {row['value']:.1f} s |" in README
            assert f"({row['alternative_value']:.1f} s)" in README


def test_learning() -> None:
    assert learning_table(read("learning")[0]) in README


def test_pca() -> None:
    rows, settings = read("pca")
    assert pca_table(rows, settings["matcher_seconds"]) in README


def test_dense_tasks() -> None:
    for machine in ("linux-x86_64-2cores--cpu", "linux-x86_64-16cores--cuda"):
        rows, _ = read("dense", machine)
        assert dense_table(rows) in README
        assert all(row["largest_difference"] < 1e-5 for row in rows)
    assert following_table(read("following")[0]) in README


def test_extraction() -> None:
    rows = {row["name"]: row for row in read("extraction-sd")[0]}
    assert rows["largest relative difference of the features"]["value"] < 2e-6
    for what, words, digits in (
        ("seconds", "seconds per image", 1),
        ("loading", "peak memory while loading, MiB", 0),
        ("extracting", "peak memory while extracting, MiB", 0),
    ):
        row = rows[what]
        figures = f"{row['value']:.{digits}f} | {row['reference']:.{digits}f} | {row['ratio']:.1f}"
        assert f"| {words} | {figures} |" in README
    ours, theirs = (rows[f"GFLOP at 768 x 768, {way}"]["value"] for way in ("geomatch", "reference"))
    assert f"| GFLOP at 768x768 | {ours:.0f} | {theirs:.0f} | {theirs / ours:.1f} |" in README
    assert f"needs {rows['GFLOP at 768 x 768, geomatch, ensemble 1']['value']:.0f} GFLOP" in README


def test_reconstructions() -> None:
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in read("reconstruction")[0]:
        if "skipped" not in row:
            rows.setdefault((row["name"], row["method"]), []).append(row)
    for own in rows.values():
        for what, digits in (("registered", 0), ("points", 0), ("mean_track_length", 2)):
            figures = ", ".join(f"{row[what]:.{digits}f}" for row in own)
            assert figures in README, (what, figures)
        assert ", ".join(f"{row['mean_reprojection_error']:.2f}" for row in own) in README
        assert f"| {own[0]['seconds']:.0f} s |" in README
    for row in read("export")[0]:
        assert f"| {row['value']:.0f} | {row['alternative_value']:.0f} |" in README, row


def test_scaling_page() -> None:
    page = (ROOT / "SCALING.md").read_text()
    engines, export = read("engines")[0], read("export")[0]
    rates = sizing.rates_of(engines, export)
    assert sizing.rates_table(engines) in page
    assert sizing.table(rates) in page
    assert f"p =\n{rates['partners']:.0f} for k = 20" in page
    one = sizing.sizing(1000, dict.fromkeys(rates, 1.0))
    assert one["matching, core-hours"] == 1000 / 3600
    assert one["all pairs"] == 499_500
    assert one["stored, GB"] == pytest.approx(3000 / 1e9)


def test_area_under_curve_by_hand() -> None:
    errors = np.array([0.0, 2.5, 5.0, np.inf])
    assert area_under_curve(errors, 5.0) == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert area_under_curve(np.zeros(3), 1.0) == 1
    # the trapezoid of the HPatches protocols differs by less than one pair's share
    many = np.random.default_rng(0).exponential(3, 200)
    recall = np.r_[0, np.arange(1, 201) / 200]
    ordered = np.r_[0, np.sort(many)]
    below = ordered <= 5
    x, y = np.r_[ordered[below], 5], np.r_[recall[below], recall[below][-1]]
    assert abs(np.trapezoid(y, x) / 5 - area_under_curve(many, 5.0)) < 1 / 200
