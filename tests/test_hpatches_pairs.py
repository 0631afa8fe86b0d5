"""Real pairs of HPatches, where the development checkout has them; nothing of them is in the project."""

import json
from pathlib import Path

import numpy as np
import pytest

import geomatch
from geomatch.cli import main

pytestmark = [pytest.mark.shared, pytest.mark.slow]


@pytest.mark.parametrize(
    ("sequence", "number"),
    [
        *(("v_churchill", k) for k in (2, 3, 4, 5, 6)),
        ("v_graffiti", 2),
        ("v_graffiti", 3),
    ],
)
def test_homography_within_five_pixels(sequence: str, number: int, hpatches: Path) -> None:
    folder = hpatches / sequence
    first = geomatch.load_image(folder / "1.ppm")
    found = geomatch.match(first, folder / f"{number}.ppm").homography
    assert found
    truth = np.loadtxt(folder / f"H_1_{number}")
    assert geomatch.corner_error(found.matrix, truth, first.size) < 5


@pytest.mark.parametrize("number", [1, 4])
def test_unrelated_photographs_are_a_failure(
    number: int, hpatches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [str(hpatches / name / f"{number}.ppm") for name in ("v_churchill", "v_graffiti")]
    assert main(["match", *pair, "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["homography"] is None
    assert content["reason"]
