"""Sequences adjusted at once: exact, noisy, with closures, without a link, and against a wrong one."""

import numpy as np
import pytest
from numpy.typing import NDArray

from geomatch.geometry import image_corners, warp_points
from geomatch.registration.sequence import Link, adjust, closures, pairs_of
from geomatch.transforms import PLANES

SIZE = (640, 480)


def truth(model: str, count: int, rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """From each image to the first one; each is near the one before."""
    made = [np.eye(3)]
    for _ in range(count - 1):
        angle = 0.0 if model == "translation" else rng.normal(0, 0.05)
        size = 1.0 if model in ("translation", "euclidean") else np.exp(rng.normal(0, 0.03))
        step = np.eye(3)
        step[:2, :2] = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        step[:2, 2] = rng.uniform(-20, 20, 2)
        if model in ("affine", "homography"):
            step[:2, :2] += rng.normal(0, 0.01, (2, 2))
        if model == "homography":
            step[2, :2] = rng.normal(0, 1e-5, 2)
        made.append(made[-1] @ step)
    return made


def linked(
    places: list[NDArray[np.float64]], i: int, j: int, rng: np.random.Generator, noise: float = 0.0
) -> Link:
    """Matches off by ``noise`` pixels in both images, and a matrix a little off."""
    between = np.linalg.inv(places[j]) @ places[i]
    points = rng.uniform((0, 0), SIZE, (150, 2))
    points_i, points_j = (p + rng.normal(0, noise, p.shape) for p in (points, warp_points(between, points)))
    rough = between.copy()
    rough[:2, 2] += 2.0
    return Link(i, j, rough, points_i, points_j)


def errors(found: list[NDArray[np.float64] | None], places: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean distance of each image's corners from where they are, in its own pixels; NaN without a place."""
    corners = image_corners(SIZE)
    pairs = zip(found, places, strict=True)
    back = [
        np.full((4, 2), np.nan) if m is None else warp_points(np.linalg.inv(t) @ m, corners) for m, t in pairs
    ]
    return np.array([np.linalg.norm(one - corners, axis=1).mean() for one in back])


@pytest.mark.parametrize("model", PLANES)
def test_every_model_is_found(model: str, rng: np.random.Generator) -> None:
    """Exactly from exact matches; also with another image as the reference."""
    places = truth(model, 6, rng)
    links = [linked(places, i, j, rng) for i, j in pairs_of(6, 2)]
    found = adjust(6, links, model)
    assert errors(found, places).max() < 1e-4
    moved = adjust(6, links, model, reference=3)
    assert errors(moved, [np.linalg.inv(places[3]) @ place for place in places]).max() < 1e-4


def test_links_that_jump_pull_the_drift_out(rng: np.random.Generator) -> None:
    """Twenty images, matches off by 0.3 px: below 0.2 px everywhere, where the chain alone drifts more."""
    places = truth("euclidean", 20, rng)
    links = [linked(places, i, j, rng, 0.3) for i, j in pairs_of(20)]
    chain = adjust(20, [link for link in links if link.j == link.i + 1], "euclidean")
    whole = adjust(20, links, "euclidean")
    assert errors(whole, places).max() < 0.2
    assert errors(whole, places).max() < errors(chain, places).max() / 1.5


def test_image_without_a_link_is_left_out(rng: np.random.Generator) -> None:
    places = truth("similarity", 6, rng)
    pairs = [(0, 1), (1, 2), (4, 5)]  # 3 has none, and those of 4 and 5 lead nowhere
    found = adjust(6, [linked(places, i, j, rng) for i, j in pairs], "similarity")
    assert [m is None for m in found] == [False, False, False, True, True, True]
    assert errors(found, places)[:3].max() < 1e-4
    alone = adjust(2, [], "homography")
    assert alone[1] is None
    np.testing.assert_array_equal(alone[0], np.eye(3))


@pytest.mark.parametrize("pair", [(2, 3), (0, 7)])
def test_wrong_link_does_not_pull(pair: tuple[int, int], rng: np.random.Generator) -> None:
    """Neither between neighbours nor as a closure, though its matrix and all of its matches agree."""
    places = truth("homography", 8, rng)
    links = [linked(places, i, j, rng, 0.3) for i, j in pairs_of(8)]
    plain = errors(adjust(8, links), places).max()
    (number,) = (n for n, link in enumerate(links) if (link.i, link.j) == pair)
    right = links[number]
    shifted = np.array([[1, 0, 25.0], [0, 1, 10], [0, 0, 1]]) @ right.matrix
    links[number] = Link(*pair, shifted, right.points_i, right.points_j + np.array([25, 10]))
    found = adjust(8, links)
    assert errors(found, places).max() < 1.5 * plain + 0.05


def test_pairs_and_closures() -> None:
    assert pairs_of(3) == [(0, 1), (0, 2), (1, 2)]
    assert {j - i for i, j in pairs_of(200, 60) if i} == {1, 2, 5, 10, 20, 50}
    assert pairs_of(1) == []
    shifts = [(0, 0), (300, 0), (600, 0), (300, 50), None]
    places = [None if s is None else np.array([[1, 0, s[0]], [0, 1, s[1]], [0, 0, 1.0]]) for s in shifts]
    sizes = [SIZE] * 5
    assert closures(places, sizes, [(0, 1), (2, 1)]) == [(1, 3), (0, 3), (2, 3)]
    assert (0, 2) in closures(places, sizes, least=0.05)


def test_nonsense_is_refused(rng: np.random.Generator) -> None:
    links = [linked([np.eye(3)] * 2, 0, 1, rng)]
    with pytest.raises(ValueError, match="unknown model 'rigid'; choose one of: homography"):
        adjust(2, links, "rigid")  # type: ignore[arg-type]
