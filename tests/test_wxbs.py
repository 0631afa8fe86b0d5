"""WxBS on made-up data with known answers: fundamental matrices, partners of points, distances."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from correspondence_data import save
from pair_data import TRUTH, exact, images, run

from geomatch.benchmarks.methods import Method, create_method
from geomatch.benchmarks.tasks.pairs.evaluation import line_distances
from geomatch.geometry import warp_points
from geomatch.images import Image
from geomatch.types import Features


@pytest.fixture
def wxbs(tmp_path: Path, photo0: Image) -> Path:
    """Two views of a plane, whose points lie on the epipolar lines of infinitely many matrices."""
    root = tmp_path / "wxbs" / "v1.1"
    points = np.array([[20.0, 30], [90, 40], [60, 100], [150, 90]])
    for name in ("WGBS/kyiv", "WLABS/kyiv", "WGABS/petrzin"):
        images(root / name, photo0.pixels, ("01.png", "02.png"))
        np.savetxt(root / name / "corrs.txt", np.hstack([points, warp_points(TRUTH, points)]))
    save(root / "WGBS" / "kyiv" / "03.png", photo0.pixels)
    (root / ".DS_Store").write_bytes(b"x")
    (root / "WGBS" / ".DS_Store").write_bytes(b"x")
    return root.parent


@dataclass(frozen=True)
class Partners:
    """Exact for two images of a motion, whichever comes first, and for a point that is given."""

    shift: float = 0.0

    def match_images(self, image0: Image, image1: Image) -> tuple[Features, Features]:
        x, y = np.meshgrid(np.arange(5, 190, 9.0), np.arange(5, 140, 9.0))
        points = np.column_stack([x.ravel(), y.ravel()])
        # a second plane makes the matrix unique
        other = TRUTH @ np.diag([1, 1, 1.0]) + np.outer([25.0, 3.0, 0.02], [0.002, 0.001, 0.3])
        side = (np.arange(len(points)) % 2).astype(bool)[:, None]
        moved = np.where(side, warp_points(other, points), warp_points(TRUTH, points)) + self.shift
        scores = np.ones(len(points), np.float32)
        return Features(points, scores, image0.size), Features(moved, scores, image1.size)

    def match_points(self, image0: Image, image1: Image, points: np.ndarray) -> np.ndarray:
        matrix = TRUTH if image0.name.endswith("01.png") else np.linalg.inv(TRUTH)
        return warp_points(matrix, points) + self.shift


def test_wxbs_by_its_protocols(wxbs: Path) -> None:
    methods = {
        "exact": Method("x", pair_matcher=Partners()),
        "none": exact(TRUTH, empty=True),
        "orb": create_method("orb", 200),
    }
    result = run("wxbs", wxbs, "all", methods)
    assert list(result.record["data"]["units"]) == ["WGBS/kyiv", "WLABS/kyiv"]
    assert "(2 of 32 pairs)" in str(result.warning)
    found = {(row["protocol"], row["method"]): row for row in result.summaries() if row["split"] == "all"}
    # at 0 px nothing that is computed is right
    for name in ("wxbs-f", "wxbs-f-loma"):
        assert found[name, "exact"]["mAA@10"] == pytest.approx(100 * 10 / 11, abs=10)
        assert found[name, "exact"]["failures"] == 0
        assert found[name, "none"]["failures"] == 2
    assert found["wxbs-pck", "exact"]["mAA@10"] == pytest.approx(100, abs=100 / 11)
    assert found["wxbs-f", "none"]["mAA@10"] == found["wxbs-f", "none"]["mAA@19"] == 0
    # the stand-in's lines are level: points as far from them as they moved vertically, by the root of two
    (row,) = [r for r in result.record["rows"] if r["protocol"] == "wxbs-f-loma" and r["method"] == "none"][
        :1
    ]
    corrs = np.loadtxt(wxbs / "v1.1" / "WGBS" / "kyiv" / "corrs.txt")
    assert row["errors"] == pytest.approx(np.abs(corrs[:, 1] - corrs[:, 3]) * 2**0.5)
    assert "finds no partners" in result.record["skipped"]["orb under wxbs-pck"]
    shifted = run(
        "wxbs", wxbs, "wxbs-pck", {"off": Method("off", pair_matcher=Partners(3.0))}, split="validation"
    )
    assert list(shifted.record["data"]["units"]) == ["WGABS/petrzin"]
    assert "(1 of 2 pairs)" in str(shifted.warning)
    (row,) = shifted.record["rows"]
    assert row["errors"] == pytest.approx([18**0.5] * 8)
    assert shifted.summaries()[-1]["mAA@10"] == pytest.approx(100 * 6 / 11)  # 5 to 10 px of 0 to 10
    wrong = Method("wrong", pair_matcher=Partners(np.zeros((2, 1, 2))))
    (row,) = run("wxbs", wxbs, "wxbs-pck", {"wrong": wrong}, split="validation").record["rows"]
    assert "match_points returned shape" in row["reason"]


def test_dense_descriptors_find_partners_of_points(wxbs: Path) -> None:
    method = create_method("sift+dift-tiny-dense[image_size=64]", 50)
    (row, _) = run("wxbs", wxbs, "wxbs-pck", {"dense": method}).record["rows"]
    assert len(row["errors"]) == 8
    assert row["reason"] is None


def test_line_distances_by_hand() -> None:
    """Level lines, y0 and y1 apart by 3; a matrix whose lines are x = 2 in one image, y = 1 in the other."""
    level = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert line_distances(level, np.array([[5.0, 4, 70, 7]])) == pytest.approx([3 * 2**0.5])
    some = np.array([[1e-6, 3e-5, -0.02], [-2e-5, 4e-6, 0.01], [0.03, -0.02, 1.0]])
    places = np.random.default_rng(0).uniform(0, 300, (20, 4))
    swapped = line_distances(some.T, np.roll(places, 2, axis=1))
    assert line_distances(some, places) == pytest.approx(swapped)
    product = np.outer([0.0, 1, -1], [1.0, 0, -2])  # (y1 - 1) (x0 - 2)
    assert line_distances(product, np.array([[6.0, 9, 0, 4]])) == pytest.approx([(4**2 + 3**2) ** 0.5])
