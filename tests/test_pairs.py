"""Which images are matched with which: rules, lists of other programs, positions."""

from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from geomatch.collection import ImageFolder, PairReport, PairSelection, find_images, select_pairs
from geomatch.collection.folder import position
from geomatch.collection.pairs import best_partners
from geomatch.errors import GeomatchError
from geomatch.files import natural_order


def folder_of(*names: str) -> ImageFolder:
    return ImageFolder(Path("/nowhere"), tuple(sorted(names)), {})


def chosen(folder: ImageFolder, *rules: str, limit: int | None = None, **options: Any) -> PairReport:
    return select_pairs(folder, PairSelection(rules, limit), **options)


def test_pairs_by_every_rule() -> None:
    names = [f"img{k}.png" for k in range(1, 13)]
    folder = folder_of(*names)
    assert natural_order(folder.names) == names
    assert set(chosen(folder, "exhaustive").pairs) == set(combinations(sorted(names), 2))
    assert chosen(folder).given == {"exhaustive": 66}
    chain = {frozenset(pair) for pair in chosen(folder, "sequential:1").pairs}
    assert chain == {frozenset(pair) for pair in pairwise(names)}
    angles = np.arange(12) / 12  # on an arc, products fall with the distance in the list
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def nearest(count: int) -> Any:
        def score(part: slice, others: slice) -> Any:
            return rows[part] @ rows[others].T

        return best_partners(score, 12, count, 12, 5)

    near = chosen(folder, "retrieval:2", nearest=nearest)
    assert all(abs(folder.names.index(a) - folder.names.index(b)) <= 2 for a, b in near.pairs)
    bounded = chosen(folder, "exhaustive", limit=3)
    load = np.bincount([folder.names.index(name) for pair in bounded.pairs for name in pair])
    assert load.max() == 3
    assert "no image may be in more than 3" in bounded.text()
    large = folder_of(*(f"{k}.png" for k in range(61)))
    some = np.zeros((61, 20), np.int64)
    assert list(chosen(large, nearest=lambda count: some).given) == ["retrieval"]
    for rule in ("all", "sequential:x", "sequential:0", "exhaustive:3", "file:", "gps:-1"):
        with pytest.raises(ValueError, match="is no rule for pairs"):
            PairSelection([rule])


def test_pairs_are_counted_once() -> None:
    folder = folder_of(*(f"{k}.png" for k in range(4)))
    twice = chosen(folder, "sequential:1", "exhaustive", "sequential:1", limit=2)
    assert twice.given == {"sequential:1": 3, "exhaustive": 1}
    assert twice.remarks == ("2 pairs left out: no image may be in more than 2",)


def test_best_partners_are_the_same_in_any_portions() -> None:
    scores = np.random.default_rng(0).normal(size=(30, 30))
    whole = best_partners(lambda a, b: scores[a, b], 30, 4, 30, 30)
    others = scores - np.diag(np.full(30, np.inf))
    np.testing.assert_array_equal(whole, np.argsort(-others, axis=1)[:, :4])
    np.testing.assert_array_equal(best_partners(lambda a, b: scores[a, b], 30, 4, 8, 7), whole)
    assert (best_partners(lambda a, b: np.full((1, 2), -np.inf), 2, 3, 1, 2) == -1).all()


def test_lists_of_pairs(tmp_path: Path) -> None:
    folder = folder_of("a.png", "b.png", "c.png", "#d.png", "e.png")
    path = tmp_path / "pairs.txt"
    text = "\ufeffa.png b.png 0.93\r\n# a.png c.png\n#d.png a.png\nb.png\t c.png\nb.png\ta.png\n"
    path.write_bytes(f"{text}a.png gone.png\n\n".encode())
    listed = chosen(folder, f"file:{path}")
    assert listed.pairs == (("a.png", "b.png"), ("#d.png", "a.png"), ("b.png", "c.png"))
    assert "1 pairs of" in listed.text()
    assert "1 images are in no pair: e.png" in listed.text()
    path.write_text("a.png b.png\na.png\n")
    with pytest.raises(GeomatchError, match=r"pairs.txt:2: expected two different image names"):
        chosen(folder, f"file:{path}")
    with pytest.raises(GeomatchError, match="not a readable list of pairs"):
        chosen(folder, "file:/no/such/list")


def photograph(path: Path, latitude: Any = None, longitude: Any = None, marks: str = "NE") -> None:
    """A file with a position in degrees, minutes and seconds."""
    picture = PILImage.new("RGB", (8, 8))
    tags = picture.getexif()
    if latitude:
        tags[0x8825] = {1: marks[0], 2: latitude, 3: marks[1], 4: longitude}
    picture.save(path, exif=tags)


def test_pairs_by_position(tmp_path: Path) -> None:
    photograph(tmp_path / "a.jpg", (55.7, 0.0, 0.0), (13.19, 0.0, 0.0))
    photograph(tmp_path / "b.jpg", (55.701, 0.0, 0.0), (13.19, 0.0, 0.0))
    photograph(tmp_path / "c.jpg", (33.9, 0.0, 0.0), (70.6, 0.0, 0.0), "SW")
    photograph(tmp_path / "d.jpg")
    assert position(tmp_path / "c.jpg") == pytest.approx((-33.9, -70.6), abs=1e-4)
    assert position(tmp_path / "d.jpg") is None
    report = chosen(find_images(tmp_path), "gps:1")
    assert report.pairs[0] == ("a.jpg", "b.jpg")
    assert "1 of 4 images have no EXIF position" in report.text()


def test_near_positions_are_told_apart(tmp_path: Path) -> None:
    """A metre is 1.6e-7 radians: products of unit vectors differ in their last bits only."""
    for number in range(6):  # 0.9 m apart, and growing
        photograph(tmp_path / f"{number}.jpg", (0.0, 0.0, 3600 * 48.0 + number**2 * 0.03), (2.0, 0.0, 0.0))
    assert set(chosen(find_images(tmp_path), "gps:1").pairs) == {
        (f"{k}.jpg", f"{k + 1}.jpg") for k in range(5)
    }
