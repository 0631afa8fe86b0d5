"""Records against their schema, comparisons against theory, and the report's files."""

import csv
import json
import math
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from made_sequences import make_sequences, run

import geomatch
from geomatch.benchmarks.harness.leaderboard import compare, compare_all, leaderboard, published_rows, rank
from geomatch.benchmarks.harness.record import find_runs, merge, read_run, summarise_record
from geomatch.benchmarks.harness.report import COLOURS, draw_curves, write_report
from geomatch.benchmarks.harness.run import RunResult
from geomatch.benchmarks.harness.task import unreadable
from geomatch.benchmarks.tasks.homography.protocols import PROTOCOLS
from geomatch.benchmarks.tasks.homography.task import HPATCHES, curve
from geomatch.cli import main

SCHEMA = json.loads(files("geomatch.benchmarks.harness").joinpath("record.schema.json").read_text())


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = make_sequences(tmp_path_factory.mktemp("report"), "p", (240, 180), seed=2)
    (data / "v_p" / "6.png").write_bytes(b"no image")
    return data.parent


@pytest.fixture(scope="module")
def both(work: Path) -> RunResult:
    return run(work / "data", work / "out", "all", ["orb", "sift"], keypoints=150)


def test_records_are_as_the_schema_says(both: RunResult) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    record = json.loads(both.path.read_text())
    jsonschema.validate(record, SCHEMA)
    assert read_run(both.path)["rows"] == record["rows"]
    for spoil in (
        lambda r: r["rows"][0].pop("pair"),
        lambda r: r["rows"][0].update(accuracy=1.0),  # summaries are computed, not stored
        lambda r: r.update(schema=1),
        lambda r: r["rows"][0].update(split="all"),
    ):
        other = json.loads(both.path.read_text())
        spoil(other)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(other, SCHEMA)


def test_record_of_another_layout_is_refused(both: RunResult, tmp_path: Path) -> None:
    for name, content, words in (
        ("a.json", "{", "not a readable record"),
        ("b.json", "[]", "not a readable record"),
        ("d.json", "[" * 100_000, "not a readable record"),
        ("c.json", json.dumps({**both.record, "schema": 2}), "layout 2, this version reads 5"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(geomatch.GeomatchError, match=words):
            read_run(tmp_path / name)


def test_an_edited_record_is_one_line(
    both: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**both.record["rows"][0], "errors_px": "text"}, *both.record["rows"][1:]]
    for change in ({"protocols": None}, {"methods": {"a": 1}}, {"rows": rows}, {"data": "text"}):
        (tmp_path / "a.json").write_text(json.dumps({**both.record, **change}))
        assert main(["benchmark", "report", str(tmp_path / "a.json"), "--out", str(tmp_path / "report")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{tmp_path / 'a.json'}: not a readable set of records" in line
    assert not (tmp_path / "report").exists()


def test_summaries_follow_the_record_not_this_version(both: RunResult) -> None:
    record = json.loads(both.path.read_text())
    record["protocols"]["auc480"]["areas"] = [7]
    columns = {key for row in summarise_record(record) if row["protocol"] == "auc480" for key in row}
    assert "AUC@7" in columns
    assert "AUC@5" not in columns


def rows_of(errors: dict[str, list[float | None]], method: str) -> list[dict[str, Any]]:
    common = {"method": method, "split": "viewpoint", "reason": None}
    return [
        {**common, "pair": f"{name} 1-{k + 2}", "errors_px": [error]}
        for name, own in errors.items()
        for k, error in enumerate(own)
    ]


def test_comparison_of_a_method_with_itself_is_nothing(rng: np.random.Generator) -> None:
    errors: dict[str, list[float | None]] = {f"v_{k}": list(rng.uniform(0, 6, 5)) for k in range(20)}
    for name in ("dift-adm", "auc480", "roma"):
        found = compare(HPATCHES, PROTOCOLS[name], rows_of(errors, "a"), rows_of(errors, "b"))
        assert (found.difference, found.low, found.high) == (0, 0, 0)
        assert found.verdict == "not told apart"


def test_interval_has_the_width_of_theory_and_covers(rng: np.random.Generator) -> None:
    """Independent sequences that succeed or fail whole: the variance of a difference of means is known."""
    sequences = 100
    right = [rng.random(sequences) < share for share in (0.7, 0.5)]
    rows = []
    for method, own in zip("ab", right, strict=True):
        errors = {f"v_{i}": [0.5 if good else None] * 5 for i, good in enumerate(own)}
        rows.append(rows_of(errors, method))
    found = compare(HPATCHES, PROTOCOLS["dift-adm"], *rows)
    difference = right[0].astype(float) - right[1].astype(float)
    assert found.difference == pytest.approx(100 * difference.mean())
    expected = 2 * 1.96 * 100 * difference.std() / math.sqrt(sequences)
    assert found.high - found.low == pytest.approx(expected, rel=0.1)
    assert (found.items, found.units) == (500, 100)
    assert compare(HPATCHES, PROTOCOLS["dift-adm"], *rows) == found  # seeded
    other = compare(HPATCHES, PROTOCOLS["dift-adm"], rows[1], rows[0])
    assert other.difference == -found.difference
    # whole sequences are drawn: five equal pairs tell no more than one
    single = [[row for row in own if row["pair"].endswith("1-2")] for own in rows]
    assert compare(HPATCHES, PROTOCOLS["dift-adm"], *single).low == pytest.approx(found.low)


def test_comparison_takes_common_pairs_only() -> None:
    first = rows_of({"v_a": [1.0, 1.0], "v_b": [9.0]}, "a")
    second = rows_of({"v_a": [1.0], "v_c": [1.0]}, "b")
    found = compare(HPATCHES, PROTOCOLS["dift-adm"], first, second)
    assert (found.items, found.difference) == (1, 0)
    assert found.verdict == "too few to tell"
    with pytest.raises(ValueError, match="no pair in common"):
        compare(HPATCHES, PROTOCOLS["dift-adm"], first[2:], second)


def test_who_wins_is_the_best_on_most_pairs(rng: np.random.Generator) -> None:
    """Below it stand the others; the comparisons have the winner first."""
    truth = {"good": 90, "even": 90, "poor": 40, "easy pairs only": 100}
    by_method = {
        name: [
            {"method": name, "pair": f"s{unit} 1-{pair}", "error": float(rng.uniform(0, 100) > right) * 100}
            for unit in range(20)
            for pair in range(2 if "only" in name else 5)
        ]
        for name, right in truth.items()
    }
    task = replace(HPATCHES, values=lambda _, rows: np.array([r["error"] == 0 for r in rows], float) * 100,
                   statistic=lambda _, values: float(values.mean()))  # fmt: skip
    ranked = rank(task, None, by_method)
    leader, second, *others = ranked
    assert {leader, second} == {"good", "even"}
    assert others == ["poor", "easy pairs only"]
    found = compare_all(task, None, {name: by_method[name] for name in ranked}, dict.fromkeys(truth))
    behind = {one.second: one for one in found if one.first == leader}
    assert list(behind) == [second, *others]
    for name, one in behind.items():
        assert one.low <= one.difference <= one.high
        if len(by_method[name]) == 100:
            assert one.difference == pytest.approx(ranked[leader] - ranked[name])
    assert behind["poor"].verdict == "beyond chance"
    assert behind[second].verdict == "not told apart"


def test_curves_pass_through_the_tables(both: RunResult) -> None:
    rows = [r for r in both.record["rows"] if r["method"] == "sift" and not unreadable(r)]
    own = [r for r in rows if r["protocol"] == "dift-adm"]
    x, y = curve(PROTOCOLS["dift-adm"], own)
    assert (np.diff(x) >= 0).all()
    summary = HPATCHES.summarise(PROTOCOLS["dift-adm"], own)[-1]
    for t in (1, 3, 5):
        assert y[np.searchsorted(x, t, side="right") - 1] == pytest.approx(summary[f"accuracy@{t}"])
    own = [r for r in rows if r["protocol"] == "mma"]
    x, y = curve(PROTOCOLS["mma"], own)
    assert y[2] == pytest.approx(HPATCHES.summarise(PROTOCOLS["mma"], own)[-1]["MMA@3"])
    svg = draw_curves(HPATCHES, PROTOCOLS["mma"], {"sift": own}, "all <b>")
    assert COLOURS[0] in svg
    assert "<b>" not in svg
    svg = draw_curves(HPATCHES, PROTOCOLS["mma"], {"absent": [], "sift": own}, "all")
    assert [colour for colour in COLOURS if colour in svg] == [
        COLOURS[1]
    ]  # as the legend of all methods says


class Page(HTMLParser):
    """Counts tags and notes what the page would load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.loads: list[str] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.loads += [value for key, value in attrs if key in ("src", "href") and value and tag != "use"]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def short(both: RunResult, work: Path) -> Path:
    """The record with one protocol: a chart costs more than all that it shows."""
    record = {**both.record, "protocols": {"auc480": both.record["protocols"]["auc480"]}}
    record["rows"] = [row for row in both.record["rows"] if row["protocol"] == "auc480"]
    path = work / "out" / "short.json"
    path.write_text(json.dumps(record))
    return path


def test_report_has_everything_in_one_page(short: Path, work: Path, tmp_path: Path) -> None:
    written = write_report([short], tmp_path / "report")
    assert [path.name for path in written] == ["report.html", "leaderboard.csv"]
    page = Page(written[0])
    assert all(link.startswith("#") for link in page.loads)
    assert page.tags["svg"] == 3
    assert len(re.findall(r"[iv]_p 1-\d", page.text)) == 2 * 5 + 2  # worst pairs of two methods, skipped
    assert "auc480, version 1" in page.text
    assert "these numbers compare with no published ones" in page.text
    assert "LoFTR" in page.text
    text = written[0].read_text()
    row = re.search(r'<tr><td><a href="#(m1-\d)">sift</a></td><td data-name="keypoints">150</td>', text)
    assert row is not None
    assert f'id="{row[1]}"' in text  # a name leads to the settings
    assert set(page.loads) <= {f"#{name}" for name in re.findall(r'id="([^"]*)"', text)}
    assert "Methods compared, AUC@5" in page.text
    assert "sift − orb" in page.text  # noqa: RUF001
    assert "too few to tell" in page.text
    # the command writes the same, byte for byte
    assert main(["benchmark", "report", str(short), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "report.html").read_bytes() == written[0].read_bytes()


def test_runs_on_the_same_data_are_one_table(both: RunResult, work: Path, tmp_path: Path) -> None:
    other = run(work / "data", work / "out", "mma", ["orb"], keypoints=100)
    third = run(work / "data", work / "out", "mma", ["rootsift"], keypoints=150)
    (merged,) = merge([both.path, other.path, third.path])
    assert list(merged.methods) == ["orb (150 keypoints)", "sift", "orb (100 keypoints)", "rootsift"]
    assert len(merged.rows_of("mma")) == 4 * 9  # one image cannot be read
    assert len(merged.rows_of("roma")) == 2 * 9
    found = {row["method"]: row["keypoints"] for row in merged.summaries(PROTOCOLS["mma"])}
    assert found == {"orb (150 keypoints)": 150, "sift": 150, "orb (100 keypoints)": 100, "rootsift": 150}
    written = write_report([other.path, third.path], tmp_path / "two", keypoints=150)
    assert "too few to tell, at 100 and 150 keypoints" in written[0].read_text()
    # one budget in the leaderboard, and its numbers are those of the tables
    (entry,) = csv.DictReader(written[1].read_text().splitlines())
    (summary,) = [row for row in third.summaries() if row["split"] == "all"]
    assert entry["method"] == "rootsift"
    assert float(entry["value"]) == pytest.approx(summary["MMA@3"])
    assert (entry["low"], entry["high"]) == ("", "")  # two sequences say nothing about others
    (mma,) = merge([other.path, third.path])
    small = leaderboard([mma], keypoints=100)
    assert (list(small.rows), small.left_out) == (["orb"], ["rootsift (150 keypoints)"])
    assert merge([both.path, both.path])[0].rows == merge([both.path])[0].rows
    assert set(find_runs([work / "out"])) == {both.path, other.path, third.path}
    path, changed = tmp_path / "hpatches-x.json", json.loads(third.path.read_text())
    changed["protocols"]["mma"]["max_keypoints"] = 1
    path.write_text(json.dumps(changed))
    with pytest.raises(geomatch.GeomatchError, match="another version"):
        merge([both.path, path])
    changed["data"]["units"].pop("v_p")
    path.write_text(json.dumps(changed))
    assert len(merge([both.path, path])) == 2


def test_leaderboard_over_sets(both: RunResult, tmp_path: Path) -> None:
    """What differs has a row of its own on other data, too; most sets first; published rows."""
    record = json.loads(both.path.read_text())
    rows = [row for row in record["rows"] if row["protocol"] == "mma"]
    first = {**record, "rows": rows, "protocols": {"mma": record["protocols"]["mma"]}}
    units = {f"{name}2": digest for name, digest in record["data"]["units"].items()}
    data = {**record["data"], "units": units, "complete": True}
    methods = {**record["methods"], "orb": {**record["methods"]["orb"], "metric": "cosine"}}
    none = {"matches": 0, "within": [0] * 15, "reason": "none"}
    kept = [row | none if row["method"] == "sift" else row for row in rows]
    second = {**first, "data": data, "methods": methods, "rows": kept}
    for name, content in (("a", first), ("b", second)):
        (tmp_path / f"hpatches-{name}.json").write_text(json.dumps(content))
    board = leaderboard(merge(find_runs([tmp_path])))
    assert len(set(board.columns)) == 2
    ours = list(board.rows)
    assert ours[0] == "sift"  # the worst on average, and the only one on both sets
    assert [re.sub(r"\w{8}", "", label) for label in ours[1:]] == ["orb ()"] * 2
    assert [one is not None and one.value > 0 for one in board.rows["sift"]] == [True, False]
    assert [row["method"] for row in csv.DictReader(board.csv().splitlines())] == [ours[0], *ours]
    page = write_report([tmp_path], tmp_path / "report")[0].read_text()
    assert page.count("<td>DISK, 2k</td>") == 2 * 3  # published splits, under the protocol of either


def test_what_was_skipped_and_then_done_is_not_told(both: RunResult, tmp_path: Path) -> None:
    record = json.loads(both.path.read_text())
    broken = {row["pair"] for row in record["rows"] if str(row["reason"]).startswith("unreadable")}
    assert broken
    assert record["skipped"]
    mended = [{**row, "reason": None} for row in record["rows"]]
    (tmp_path / "a.json").write_text(json.dumps({**record, "skipped": {**record["skipped"], "sift": "away"}}))
    (tmp_path / "b.json").write_text(json.dumps({**record, "rows": mended, "skipped": {}}))
    for names in ("ab", "ba"):
        (merged,) = merge([tmp_path / f"{name}.json" for name in names])
        assert merged.skipped == {}
        assert len(merged.rows_of("mma")) == 2 * 10


def test_names_cannot_break_the_page(short: Path, tmp_path: Path) -> None:
    record = json.loads(short.read_text().replace('"orb"', '"<script>alert(1)</script>|"'))
    record["rows"] = [row for row in record["rows"] if row["split"] == "viewpoint"]
    (tmp_path / "hpatches-x.json").write_text(json.dumps(record))
    written = write_report([tmp_path], tmp_path / "out")
    page = Page(written[0])
    assert "script" not in page.tags
    assert str(tmp_path) not in written[0].read_text()
    assert page.tags["svg"] == 1  # a split that has all of the rows is not drawn again


def test_a_folder_without_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "report", str(tmp_path)]) == 2
    assert "no record of a run there" in capsys.readouterr().err


def test_headlines_and_published_rows_name_measures_of_their_protocol(both: RunResult) -> None:
    summaries = both.summaries()
    for name, protocol in PROTOCOLS.items():
        columns = {key for row in summaries if row["protocol"] == name for key in row}
        assert protocol.headline in columns
        for row in published_rows(HPATCHES.name, name):
            assert row["measures"].keys() <= columns
            assert row["split"] in ("all", "illumination", "viewpoint")
            assert row["source"]
            for measure, value in row["measures"].items():
                assert 0 < value <= (1 if measure == "repeatability" else 100)
    assert {name for name in PROTOCOLS if published_rows(HPATCHES.name, name)} == {
        "mma", "auc480", "auc480-poselib", "superpoint",
    }  # fmt: skip
    auc = published_rows(HPATCHES.name, "auc480")
    loftr = [row for row in auc if row["method"] == "LoFTR" and "CVPR 2021" in row["source"]]
    assert loftr[0]["measures"] == {"AUC@3": 65.9, "AUC@5": 75.6, "AUC@10": 84.6}
