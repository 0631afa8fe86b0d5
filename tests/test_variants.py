"""Changes of the second image, and the variants of protocols that make them."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from geomatch.benchmarks.harness.task import find_task
from geomatch.benchmarks.methods import Method, create_method
from geomatch.benchmarks.tasks.homography.protocols import PROTOCOLS, with_change
from geomatch.benchmarks.tasks.pairs.changes import CHANGES, changed
from geomatch.cli import main
from geomatch.geometry import warp_points
from geomatch.images import Image
from geomatch.types import Features

sys.path.append(str(Path(__file__).parent / "helpers"))
from correspondence_data import save, view
from pair_data import run


@pytest.mark.parametrize("change", ["rotation=30", "rotation=90", "rotation=210", "scale=0.5", "scale=1.41"])
def test_a_spot_goes_where_the_matrix_says(change: str) -> None:
    x, y = np.meshgrid(np.arange(120.0), np.arange(80.0))
    for place in ([30.0, 50.0], [90.5, 20.25]):
        spot = 255 * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / 50)
        image, matrix = changed(Image(np.repeat(spot[..., None], 3, 2).round().astype(np.uint8), "a"), change)
        weights = image.pixels[..., 0].astype(float)
        rows, columns = np.indices(weights.shape)
        found = [(weights * columns).sum() / weights.sum(), (weights * rows).sum() / weights.sum()]
        assert warp_points(matrix, [place])[0] == pytest.approx(found, abs=0.05)


def test_changes_of_an_image(photo0: Image) -> None:
    image = Image(photo0.pixels[:90, :120], "a")
    for name, (_, strengths) in CHANGES.items():
        for strength in strengths:
            shown, matrix = changed(image, f"{name}={strength:g}")
            again, _ = changed(image, f"{name}={strength:g}")
            assert np.array_equal(shown.pixels, again.pixels)
            corners = warp_points(matrix, [[0, 0], [119, 0], [119, 89], [0, 89]])
            assert (corners >= -0.5).all()
            assert (corners <= np.array(shown.size) - 0.5).all()
            if name not in ("rotation", "scale"):
                assert np.array_equal(matrix, np.eye(3))
    for same in ("rotation=0", "scale=1", "noise=0", "blur=0", "darkness=1", "resolution=1"):
        assert np.array_equal(changed(image, same)[0].pixels, image.pixels)
    assert np.array_equal(changed(image, "rotation=90")[0].pixels, np.rot90(image.pixels, -1))
    assert np.std(changed(image, "noise=20")[0].pixels.astype(float) - image.pixels) == pytest.approx(
        20, rel=0.1
    )
    assert changed(image, "darkness=4")[0].pixels.mean() == pytest.approx(image.pixels.mean() / 4, rel=0.02)


@dataclass(frozen=True)
class Spots:
    """Matches spots of different colours by their centres."""

    colours: tuple[tuple[int, int, int], ...]

    def match_images(self, image0: Image, image1: Image) -> tuple[Features, Features]:
        found = []
        directions = np.array(self.colours, float) / np.linalg.norm(self.colours, axis=1, keepdims=True)
        for image in (image0, image1):
            bright = np.linalg.norm(image.pixels.astype(float), axis=2)
            nearest = (image.pixels @ directions.T).argmax(2)
            rows, columns = np.indices(bright.shape)
            own = [np.where((nearest == k) & (bright > 30), bright, 0) for k in range(len(directions))]
            points = [[(w * columns).sum() / w.sum(), (w * rows).sum() / w.sum()] for w in own]
            found.append(Features(np.array(points), np.ones(len(points)), image.size))
        return found[0], found[1]


def test_variants_of_an_exact_matcher_are_right_at_every_strength(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colours = tuple(c for c in np.ndindex(3, 3, 3) if max(c) == 2)[::3]
    rng, picture = np.random.default_rng(2), np.zeros((100, 140, 3), np.uint8)
    x, y = np.meshgrid(np.arange(20, 140, 33), np.arange(20, 100, 30))
    places = rng.permutation(np.column_stack([x.ravel(), y.ravel()]))[: len(colours)].tolist()
    for place, colour in zip(places, colours, strict=True):
        cv2.circle(picture, place, 8, tuple(127 * c for c in colour), -1, cv2.LINE_AA)
    folder = tmp_path / "data" / "v_spots"
    matrix = np.array([[1.0, 0, 4], [0, 1, -3], [0, 0, 1]])
    save(folder / "1.png", picture)
    save(folder / "2.png", view(picture, matrix, (140, 100)))
    np.savetxt(folder / "H_1_2", matrix)
    plain = replace(PROTOCOLS["geomatch"], name="plain", solver="ransac 3", seeds=1)
    every = [with_change(plain, name) for name in ("rotation", "scale")]
    task = find_task("hpatches")
    result = run(
        "hpatches", tmp_path / "data", every, {"spots": Method("spots", pair_matcher=Spots(colours))}
    )
    for protocol in every:
        found = [row for row in result.summaries() if row["protocol"] == protocol.name]
        by_strength = {row["split"]: row["accuracy@3"] for row in found if "=" in row["split"]}
        assert by_strength == {f"{protocol.change}={s:g}": 100 for s in protocol.strengths}
        rows = [row for row in result.record["rows"] if row["protocol"] == protocol.name]
        x_values, y_values = task.curve(protocol, rows)
        assert x_values.tolist() == list(protocol.strengths)
        assert set(y_values) == {100}
        assert task.protocol_of(json.loads(json.dumps(result.record["protocols"][protocol.name]))) == protocol
    with pytest.raises(ValueError, match="no variant 'fog' of geomatch; choose from: rotation"):
        with_change(PROTOCOLS["geomatch"], "fog")
    with pytest.raises(ValueError, match="no variant 'blur' of superpoint"):
        with_change(PROTOCOLS["superpoint"], "blur")
    with pytest.raises(ValueError, match="no variant 'fog' of own"):
        replace(plain, name="own", change="fog", strengths=(1.0,))
    with pytest.raises(ValueError, match="with strengths"):
        replace(plain, change="blur")
    files_of = create_method(f"npz:{tmp_path}:mine")
    assert "as they are" in str(task.undefined(every[0], files_of))
    command = ["benchmark", "hpatches", str(tmp_path / "data"), "--method", "orb", "--protocol", "geomatch"]
    assert main([*command, "--variant", "blur", "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    assert "### geomatch-blur" in capsys.readouterr().out
    assert main([*command, "--variant", "fog"]) == 2
