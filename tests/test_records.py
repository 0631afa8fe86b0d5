"""The tables of README.md, SCALING.md and docs are those of the committed records of the studies."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from geomatch.benchmarks.studies import sizing

ROOT = Path(__file__).parents[1]
PAGES = "\n\n".join(
    (ROOT / name).read_text()
    for name in ("README.md", "SCALING.md", "docs/embedded.md", "docs/gate.md", "docs/opencv.md")
)
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
    """The README's figures: more than 50 px off among pairs with truth, answers among unrelated ones."""
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


def test_sizing() -> None:
    export = {row["name"]: row["value"] for row in rows("export")}
    assert export["export, pairs per second"] == sizing.EXPORT
    rates, measured = sizing.rates_of(rows("engines")), {row["name"]: row["value"] for row in rows("engines")}
    per = "memory where the command is given, per {}".format
    assert (rates["image_memory"], rates["pair_memory"]) == (measured[per("image")], measured[per("pair")])
    assert rates["partners"] == measured["pairs per image, 20 nearest on a plane"]
    assert rates["loads"] == measured["features read per pair, 20 nearest on a plane"]
    assert sizing.table(rates) in PAGES
    assert re.search(rf"p =\s{rates['partners']:.0f} for k = 20", PAGES)
    one = sizing.sizing(1000, dict.fromkeys(rates, 1.0))
    assert one["matching, core-hours"] == 1000 / 3600
    assert one["all pairs"] == 499_500
    assert one["stored, GB"] == pytest.approx(3000 / 1e9)
