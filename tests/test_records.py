"""The tables of README.md and docs are those of the committed records of the studies."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = "\n\n".join(path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))))
RECORDS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((ROOT / "benchmarks" / "results").rglob("*.json"))
}
TABLES = [table for record in RECORDS.values() for table in record["metadata"]["tables"]]


def rows(study: str, machine: str = "linux-x86_64-2cores--cpu") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = RECORDS[f"{study}--{machine}"]["results"]
    return found


@pytest.mark.parametrize("name", RECORDS)
def test_pages_quote_every_record(name: str) -> None:
    metadata, results = RECORDS[name]["metadata"], RECORDS[name]["results"]
    always = {"versions", "system", "processor", "cores", "threads", "settings", "tables"}
    assert set(metadata) - always <= {"accelerator"}
    assert always <= set(metadata)
    assert results
    assert all(isinstance(row, dict) for row in results)
    for table in metadata["tables"]:
        assert table in PAGES


def test_records_have_every_table_that_has_their_header() -> None:
    headers = {table.split("\n")[0] for table in TABLES if "\n" in table} - {"| | |"}
    tables = [table.rstrip("\n") for table in re.findall(r"(?:^\|.*\n)+", PAGES, re.MULTILINE)]
    quoted = [table for table in tables if table.split("\n")[0] in headers]
    assert len(quoted) >= len(headers)
    assert not [table for table in quoted if table not in TABLES]


def test_figures_that_must_hold() -> None:
    unrelated = RECORDS["embedded--linux-x86_64-2cores--cpu"]["metadata"]["settings"]["unrelated"]
    assert unrelated
    assert all(row["failed"] for row in unrelated)
    assert all(row["identical_matches"] for row in rows("speed") if row["name"].startswith("match "))
    for row in rows("dense") + rows("dense", "linux-x86_64-16cores--cuda"):
        assert row["largest_difference"] < 1e-5
    extraction = {row["name"]: row["value"] for row in rows("extraction-sd")}
    assert extraction["largest relative difference of the features"] < 2e-6
    assert f"needs {extraction['GFLOP at 768 x 768, geomatch, ensemble 1']:.0f} GFLOP" in PAGES
    script = next(row["alternative_value"] for row in rows("speed") if row["name"].startswith("HPatches"))
    assert f"({script:.1f} s)" in PAGES


def test_scripts_get_nothing_wrong() -> None:
    """The figures in words: more than 50 px off among pairs with truth, answers among unrelated ones."""
    pairs = rows("opencv-scripts")
    related = [row for row in pairs if row["related"]]
    opencv, ours, _ = (name for name in pairs[0] if "`" in name)
    wrong, right, answered = (
        {name: sum(row[name] is not None and test(row[name]) for row in some) for name in (opencv, ours)}
        for some, test in (
            (related, lambda error: error > 50),
            (related, lambda error: error <= 10),
            ([row for row in pairs if not row["related"]], lambda _: True),
        )
    )
    assert wrong[ours] == answered[ours] == 0
    assert right[ours] >= right[opencv]
    text = " ".join(PAGES.split())
    assert f"On {len(related)} real pairs with known truth" in text
    assert f"give {wrong[opencv]} matrices that are more than 50 px wrong" in text
    assert f"of {len(pairs) - len(related)} pairs of unrelated photographs" in text
    assert f"OpenCV answers {answered[opencv]}, and geomatch none" in text


def test_what_collections_take_follows_from_the_rates() -> None:
    """The page about clusters has its formulas with the record's rates, to the two figures that it shows."""
    rate = {row["name"]: row["value"] for row in rows("engines") + rows("export")}
    features, pairs = rate["features, local, 1 worker"], rate["pairs, local, 1 worker"]
    k, size = (
        rate["pairs per image, 20 nearest on a plane"],
        rate["store, bytes per image with 1000 keypoints"],
    )
    pooled, compared = (
        rate[f"{what}, 1 worker"]
        for what in ("pooled features of whole images", "comparisons of pooled features")
    )
    numbers, pair_size = rate["pooled features, numbers per image"], rate["store, bytes per pair"]
    memory = [rate[f"memory where the command is given, per {what}"] for what in ("image", "pair")]
    taken: dict[str, Callable[[float], float]] = {
        "pairs": lambda n: k * n,
        "all pairs": lambda n: n * (n - 1) / 2,
        "features, core-hours": lambda n: n / features / 3600,
        "retrieval, core-hours": lambda n: (n / pooled + n**2 / (1e6 * compared)) / 3600,
        "matching, core-hours": lambda n: k * n / pairs / 3600,
        "matching all pairs, core-hours": lambda n: n * (n - 1) / 2 / pairs / 3600,
        "stored, GB": lambda n: n * (size + 4 * numbers + k * pair_size) / 1e9,
        "objects, thousands": lambda n: (2 * n + k * n / 256) / 1e3,
        "read while matching, GB": lambda n: (
            k * n * rate["features read per pair, 20 nearest on a plane"] * size / 1e9
        ),
        "database, hours": lambda n: k * n / rate["export, pairs per second"] / 3600,
        "memory where the command is given, GB": lambda n: n * (memory[0] + k * memory[1]) / 1e9,
    }
    listed = re.search(r"^\| photographs \|.*\n(?:\|.*\n)+", PAGES, re.MULTILINE)
    assert listed
    (_, *counts), _, *lines = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in listed[0].splitlines()
    )
    assert [name for name, *_ in lines] == list(taken)
    for name, *cells in lines:
        for count, cell in zip(counts, cells, strict=True):
            value = taken[name](float(count.replace(",", "")))
            assert float(cell.replace(",", "")) == float(f"{value:.2g}"), name
    assert re.search(rf"p =\s{k:.0f} for k = 20", PAGES)


def test_hours_beside_colmap_follow_from_the_rates() -> None:
    rate = {row["name"].removesuffix(", processor"): row["value"] for row in rows("matching")}
    ours, colmap = rate["ours, matched, written and verified"], rate["match_exhaustive"]
    every = 1000 * 999 // 2
    for name, parts in (
        ("features", ((1000, rate["ours, features"]),) * 2 + ((1000, rate["COLMAP's SIFT, features"]),)),
        ("matching and verification", ((20_000, ours), (every, ours), (every, colmap))),
    ):
        cells = " | ".join(f"{count / per_second / 3600:.2g}" for count, per_second in parts)
        assert f"| {name} | {cells} |" in PAGES
