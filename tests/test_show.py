"""Point transfer and principal components on maps whose answer is known."""

import numpy as np
import pytest
import torch

from geomatch.dift import PRESETS, DIFTExtractor, FeatureMap
from geomatch.images import Image
from geomatch.show import draw_transfer, principal_components, show_point, transfer_point

CODES = torch.nn.functional.normalize(
    torch.randn(12, 10, 15, generator=torch.Generator().manual_seed(1)), dim=0
)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("factor", [1, 7])
def test_the_same_cell_of_a_moved_map_is_found(metric: str, factor: int) -> None:
    size = (15 * factor, 10 * factor)
    moved = FeatureMap((CODES.roll((2, -3), (1, 2)),), size)
    for column, row in ((4, 3), (9, 6), (12, 0)):
        centre = ((column + 0.5) * factor - 0.5, (row + 0.5) * factor - 0.5)
        found = transfer_point(FeatureMap((CODES,), size), moved, centre, metric)  # type: ignore[arg-type]
        assert found.point1 == pytest.approx((centre[0] - 3 * factor, centre[1] + 2 * factor))
        assert found.best == pytest.approx(1 if metric == "cosine" else 0, abs=1e-5)
        assert found.similarity.shape == (size[1], size[0])


def test_points_outside_are_refused() -> None:
    small = FeatureMap((CODES,), (15, 10))
    for point in ((-1.0, 0.0), (15.0, 3.0), (3.0, float("nan"))):
        with pytest.raises(ValueError, match=r"outside image 0, whose last pixel is \(14, 9\)"):
            transfer_point(small, small, point)


def test_components_of_three_known_directions() -> None:
    """Rows that vary along three directions, most along the first: one colour channel each."""
    ys, xs = torch.meshgrid(torch.linspace(-1, 1, 20), torch.linspace(-1, 1, 30), indexing="ij")
    waves = torch.stack([0.5 * xs, 0.3 * ys, 0.1 * torch.sin(9 * xs), torch.full_like(xs, 5.0)])
    shown = principal_components(FeatureMap((waves,), (30, 20)))
    assert shown.shape == (20, 30, 3)
    assert shown.dtype == np.uint8
    for channel, wave in enumerate(waves[:3]):
        correlation = np.corrcoef(shown[..., channel].ravel(), wave.numpy().ravel())[0, 1]
        assert abs(correlation) > 0.95
    assert shown.min() == 0
    assert shown.max() == 255


def test_flat_and_narrow_features_have_a_picture() -> None:
    assert principal_components(FeatureMap((torch.ones(2, 4, 4),), (8, 8))).shape == (4, 4, 3)


def test_a_point_of_the_bundled_pair(photo0: Image, photo1: Image) -> None:
    extractor = DIFTExtractor(PRESETS["dift-tiny-dense"])
    transfer, picture = show_point(extractor, photo0, photo1, (320, 200))
    assert np.hypot(transfer.point1[0] - 344.3, transfer.point1[1] - 194.1) < 4  # by the known homography
    assert picture.shape == (480, 1280, 3)
    np.testing.assert_array_equal(picture, draw_transfer(photo0, photo1, transfer))
