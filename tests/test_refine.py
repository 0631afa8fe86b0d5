"""The local search in feature maps, and grids whose matches are refined by it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import geomatch
from geomatch import DIFTExtractor, Image
from geomatch.cli import main
from geomatch.dift import PRESETS, FeatureMap
from geomatch.dift.maps.refine import REACH, refine_points, search_radius
from geomatch.errors import ShapeError

SIZE = (160, 120)
CELL = 2
DENSE = replace(PRESETS["dift-tiny-dense"], device="cpu")


def waves(shift: tuple[float, float] = (0.0, 0.0)) -> FeatureMap:
    """Features of the place less the shift, as smooth as a diffusion model's: waves in all directions."""
    xs, ys = ((np.arange(SIZE[k] // CELL) + 0.5) * CELL - 0.5 - shift[k] for k in (0, 1))
    rng = np.random.default_rng(3)
    layers = []
    for _ in range(16):
        angle, phase, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi), rng.uniform(12, 40)
        along = np.cos(angle) * xs[None] + np.sin(angle) * ys[:, None]
        layers.append(np.cos(2 * np.pi * along / length + phase))
    return FeatureMap((torch.tensor(np.stack(layers), dtype=torch.float32),), SIZE)


@pytest.fixture
def points(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    return rng.uniform(20, np.array(SIZE) - 20, (60, 2))


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.7, -0.3), (-1.9, 3.2), (6.6, -7.3)], ids=str)
def test_displaced_points_come_back(shift: tuple[float, float], points: np.ndarray[Any, Any]) -> None:
    """From anywhere within the radius, to a quarter of a cell, most to a twentieth; exact ones stay."""
    first, second = waves(), waves(shift)
    found = refine_points(second, points, first.sample(points), search_radius(second))
    assert found.dtype == np.float32
    errors = np.linalg.norm(found - points - shift, axis=1)
    assert errors.max() < CELL / 4
    assert np.median(errors) < CELL / 20


def test_points_do_not_depend_on_one_another(
    points: np.ndarray[Any, Any], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, targets = waves((2.3, 1.1)), waves().sample(points)
    found = refine_points(second, points, targets, 8.0)
    order = rng.permutation(len(points))
    other = refine_points(second, points[order], targets[order], 8.0)
    np.testing.assert_allclose(other, found[order], atol=1e-4)
    monkeypatch.setattr("geomatch.dift.maps.refine.ROWS", 300)
    np.testing.assert_allclose(refine_points(second, points, targets, 8.0), found, atol=1e-4)
    assert refine_points(second, points[:0], targets[:0], 8.0).shape == (0, 2)


def test_points_stay_in_the_image_and_where_nothing_tells_places_apart() -> None:
    corners = np.array([[-0.5, -0.5], [159.4, 119.4], [0.0, 119.0]])
    first, second = waves(), waves((-5.0, -5.0))
    found = refine_points(second, corners, first.sample(corners), 8.0)
    assert ((found >= -0.5) & (found <= np.array(SIZE) - 0.5)).all()
    flat = FeatureMap((torch.ones(3, 60, 80),), SIZE)
    inside = np.array([[40.25, 50.5], [100.0, 60.0]])
    np.testing.assert_allclose(refine_points(flat, inside, flat.sample(inside), 8.0), inside, atol=0.01)


def test_radius_covers_half_a_grid_cell() -> None:
    dense = waves()
    assert search_radius(dense) == REACH * CELL
    assert search_radius(dense, 40.0) == 20.0
    tall = FeatureMap((torch.ones(1, 8, 8), torch.ones(1, 16, 16)), (32, 64))  # squashed
    assert search_radius(tall) == REACH * 4
    far = waves((15.0, 0.0))
    points = np.array([[60.0, 60.0], [90.0, 50.0]])
    found = refine_points(far, points, dense.sample(points), search_radius(far, 40.0))
    np.testing.assert_allclose(found, points + np.array([15, 0]), atol=CELL / 4)


def test_wrong_arguments_are_refused() -> None:
    dense = waves()
    points, targets = np.zeros((4, 2)), np.zeros((4, 16), np.float32)
    with pytest.raises(ShapeError, match=r"points must have shape \(N, 2\)"):
        refine_points(dense, np.zeros((4, 3)), targets, 8.0)
    for wrong in (targets[:3], targets[:, :15]):
        with pytest.raises(ShapeError, match=r"targets must have shape \(4, 16\)"):
            refine_points(dense, points, wrong, 8.0)
    for radius in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="radius must be positive and finite"):
            refine_points(dense, points, targets, radius)


@pytest.fixture(scope="module")
def view(photo0: Image) -> tuple[Image, np.ndarray[Any, Any]]:
    """The photograph through a small homography, and the homography."""
    width, height = photo0.size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moves = np.array([[11, 6], [-7, 13], [5, -9], [14, -4]], np.float32)
    matrix = cv2.getPerspectiveTransform(corners, corners + moves).astype(np.float64)
    pixels = cv2.warpPerspective(photo0.pixels, matrix, photo0.size, flags=cv2.INTER_CUBIC)
    return Image(np.asarray(pixels, np.uint8), "view"), matrix


def test_grid_is_subpixel_with_refinement_only(
    photo0: Image, view: tuple[Image, np.ndarray[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no image goes through the network twice, but where the pixels do not confirm the answer."""
    passes: list[Any] = []
    whole = DIFTExtractor.activations

    def counted(self: DIFTExtractor, images: Any) -> Any:
        passes.extend(images)
        return whole(self, images)

    monkeypatch.setattr(DIFTExtractor, "activations", counted)
    image, matrix = view
    refined = geomatch.match(photo0, image, detector="grid", refine_homography=False)
    assert len(passes) == 2
    plain = geomatch.match(photo0, image, detector="grid", refine_keypoints=False, refine_homography=False)
    assert len(passes) in (4, 5)
    assert refined.homography
    assert geomatch.corner_error(refined.homography.matrix, matrix, photo0.size) < 1
    assert not plain.homography or geomatch.corner_error(plain.homography.matrix, matrix, photo0.size) > 1
    assert refined.settings["refine_keypoints"] is True
    assert plain.settings["refine_keypoints"] is False
    assert list(refined.seconds)[-3:] == ["refine_keypoints", "estimate", "check_content"]
    assert "refine_keypoints" not in plain.seconds
    # nothing else differs: maps are sampled as the extractor itself does
    assert (refined.matches, refined.features0) == (plain.matches, plain.features0)
    assert replace(refined.features1, keypoints=plain.features1.keypoints) == plain.features1
    same = (refined.features1.keypoints == plain.features1.keypoints).all(1)
    assert set(np.flatnonzero(~same)) <= set(plain.matches.indices[:, 1])
    assert not same.all()


def test_refinement_without_matches(photo0: Image) -> None:
    black = np.zeros((8, 8, 3), np.uint8)  # no grid cell fits
    for image in (photo0, black):
        found = geomatch.match(image, black, detector="grid", refine_keypoints=True)
        assert not found.homography
        assert len(found.matches) == 0


def test_refine_is_refused_where_it_cannot_work(photo0: Image) -> None:
    small = photo0.pixels[:128, :128]
    for options, words in (
        ({"detector": "sift"}, "the descriptor samples no map"),
        ({"detector": "sift", "descriptor": DENSE}, "the detector is no grid"),
        ({"detector": "grid", "descriptor": "dift-tiny"}, "the descriptor samples no map"),
    ):
        with pytest.raises(ValueError, match=words):
            geomatch.match(small, small, refine_keypoints=True, **options)  # type: ignore[arg-type]
    plain = geomatch.match(small, small, detector="sift", descriptor=DENSE)
    assert plain.settings["refine_keypoints"] is False


def test_command_line_says_what_was_refined(
    view: tuple[Image, np.ndarray[Any, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "view.png")
    cv2.imwrite(path, view[0].pixels[:200, :240, ::-1])
    for options, refined in (([], "true"), (["--no-refine-keypoints"], "false")):
        main(["match", path, path, "--detector", "grid", "--json", *options])
        assert f'"refine_keypoints": {refined}' in capsys.readouterr().out
    assert main(["match", path, path, "--refine-keypoints", "--json"]) == 2
    assert "grid described densely" in capsys.readouterr().err
