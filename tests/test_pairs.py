"""Which images are matched with which: rules, lists of other programs, positions."""

from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from geomatch.collection import ImageFolder, PairSelection, find_images, select_pairs
from geomatch.collection.pairs import LOOP_GAP, best_partners
from geomatch.collection.photographs import position
from geomatch.errors import GeomatchError
from geomatch.files import natural_order


def folder_of(*names: str) -> ImageFolder:
    return ImageFolder(Path("/nowhere"), tuple(sorted(names)), {})


def test_pairs_by_every_rule(tmp_path: Path) -> None:
    names = [f"img{k}.png" for k in range(1, 13)]
    folder = folder_of(*names)
    assert natural_order(folder.names) == names
    assert set(select_pairs(folder, PairSelection(["exhaustive"])).pairs) == set(
        combinations(sorted(names), 2)
    )
    assert select_pairs(folder).given == {"exhaustive": 66}
    chain = select_pairs(folder, PairSelection(["sequential:1"]))
    assert {frozenset(pair) for pair in chain.pairs} == {frozenset(p) for p in pairwise(names)}
    angles = np.arange(12) / 12  # on an arc, products fall with the distance in the list
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def nearest(count: int, order: Any) -> Any:
        def score(part: slice, others: slice) -> Any:
            scores = rows[part] @ rows[others].T
            if order is not None:
                scores[np.abs(order[part, None] - order[None, others]) <= LOOP_GAP] = -np.inf
            return scores

        return best_partners(score, slice(0, 12), 12, count, 5)

    near = select_pairs(folder, PairSelection(["retrieval:2"]), nearest=nearest)
    assert all(abs(folder.names.index(a) - folder.names.index(b)) <= 2 for a, b in near.pairs)
    loop = select_pairs(folder, PairSelection(["sequential:1", "loop:1"]), nearest=nearest)
    assert loop.given == {"sequential:1": 11, "loop:1": 1}  # only the first and the last are 11 apart
    assert loop.pairs[-1] == ("img1.png", "img12.png")
    (tmp_path / "p.txt").write_text("# a list\nimg1.png img2.png\nimg2.png\timg1.png\nimg1.png gone.png\n\n")
    listed = select_pairs(folder, PairSelection([f"file:{tmp_path / 'p.txt'}"]))
    assert listed.pairs == (("img1.png", "img2.png"),)
    assert "1 pairs of" in listed.text()
    assert "10 images are in no pair" in listed.text()
    bounded = select_pairs(folder, PairSelection(["exhaustive"], max_pairs=3))
    load = np.bincount([folder.names.index(name) for pair in bounded.pairs for name in pair])
    assert load.max() == 3
    assert "no image may be in more than 3" in bounded.text()
    large = folder_of(*(f"{k}.png" for k in range(61)))
    some = np.zeros((61, 20), np.int64)
    assert list(select_pairs(large, nearest=lambda count, order: some).given) == ["retrieval"]


def test_best_partners_are_the_same_in_any_portions() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(30, 30))
    whole = best_partners(lambda a, b: scores[a, b], slice(0, 30), 30, 4, 30)
    others = scores - np.diag(np.full(30, np.inf))
    np.testing.assert_array_equal(whole, np.argsort(-others, axis=1)[:, :4])
    parts = [best_partners(lambda a, b: scores[a, b], slice(k, k + 10), 30, 4, 7) for k in (0, 10, 20)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (best_partners(lambda a, b: np.full((1, 2), -np.inf), slice(0, 1), 2, 3, 2) == -1).all()


def test_rules_that_do_not_exist() -> None:
    for rule in ("all", "sequential:x", "sequential:0", "exhaustive:3", "file:", "gps:-1"):
        with pytest.raises(ValueError, match="is no rule for pairs"):
            PairSelection([rule])


def test_lists_of_pairs(tmp_path: Path) -> None:
    folder = folder_of("a.png", "b.png", "c.png", "#d.png")
    path = tmp_path / "pairs.txt"
    path.write_bytes("\ufeffa.png b.png 0.93\r\n# a.png c.png\n#d.png a.png\nb.png\t c.png\n".encode())
    listed = select_pairs(folder, PairSelection([f"file:{path}"]))
    assert listed.pairs == (("a.png", "b.png"), ("#d.png", "a.png"), ("b.png", "c.png"))
    path.write_text("a.png b.png\na.png\n")
    with pytest.raises(GeomatchError, match=r"pairs.txt:2: expected two different image names"):
        select_pairs(folder, PairSelection([f"file:{path}"]))
    with pytest.raises(GeomatchError, match="cannot be read"):
        select_pairs(folder, PairSelection(["file:/no/such/list"]))


def test_pairs_by_position(tmp_path: Path) -> None:
    places = {"a.jpg": (55.7, 13.19), "b.jpg": (55.701, 13.19), "c.jpg": (-33.9, -70.6), "d.jpg": None}
    for name, place in places.items():
        picture = PILImage.new("RGB", (8, 8))
        tags = picture.getexif()
        if place:
            degrees = [(abs(x), 0.0, 0.0) for x in place]
            tags[0x8825] = {
                1: "N" if place[0] > 0 else "S", 2: degrees[0], 3: "E" if place[1] > 0 else "W", 4: degrees[1]
            }  # fmt: skip
        picture.save(tmp_path / name, exif=tags)
    latitude, longitude = position(tmp_path / "c.jpg") or (0, 0)
    assert (latitude, longitude) == pytest.approx((-33.9, -70.6), abs=1e-4)
    assert position(tmp_path / "d.jpg") is None
    report = select_pairs(find_images(tmp_path), PairSelection(["gps:1"]))
    assert report.pairs[0] == ("a.jpg", "b.jpg")
    assert "1 of 4 images have no EXIF position" in report.text()


def test_pairs_are_counted_once() -> None:
    folder = folder_of(*(f"{k}.png" for k in range(4)))
    twice = select_pairs(folder, PairSelection(["sequential:1", "exhaustive", "sequential:1"], max_pairs=2))
    assert twice.given == {"sequential:1": 3, "exhaustive": 1}
    assert twice.remarks == ("2 pairs left out: no image may be in more than 2",)


def test_near_positions_are_told_apart(tmp_path: Path) -> None:
    """A metre is 1.6e-7 radians: products of unit vectors differ in their last bits only."""
    for number in range(6):
        picture = PILImage.new("RGB", (8, 8))
        tags = picture.getexif()
        seconds = 3600 * 48.0 + (number**2) * 0.03  # of latitude: 0.9 m, and growing
        tags[0x8825] = {1: "N", 2: (0.0, 0.0, seconds), 3: "E", 4: (2.0, 0.0, 0.0)}
        picture.save(tmp_path / f"{number}.jpg", exif=tags)
    found = select_pairs(find_images(tmp_path), PairSelection(["gps:1"])).pairs
    assert set(found) == {(f"{k}.jpg", f"{k + 1}.jpg") for k in range(5)}
