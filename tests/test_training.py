"""The recipe: its list of images, crops, resumption, model cards, and pairs with known truth."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geomatch import GeomatchError, Image, WeightsError, warp_points
from geomatch.benchmarks.training import denoise
from geomatch.benchmarks.training.__main__ import DENOISER_PACKAGES, DENSE, DENSE_IMAGES
from geomatch.benchmarks.training.denoise import CropSource, DenoiseConfig, train_denoiser
from geomatch.benchmarks.training.detector import STABLE, WARPS, DetectorConfig
from geomatch.benchmarks.training.distillation import occluded
from geomatch.benchmarks.training.sources import TrainingImage, find_images, listed_images
from geomatch.dift import PRESETS
from geomatch.dift.head.projection import load_head
from geomatch.images import write_png
from geomatch.keypoints import OpenCVDetector
from geomatch.keypoints.tiny import weights_file
from geomatch.synthetic import random_homography, render_view
from geomatch.training import checkpoint
from geomatch.training.bank import make_views, true_pairs, view_pairs
from geomatch.training.checkpoint import Log
from geomatch.weights.sources import model_folder

CONFIG = DenoiseConfig(widths=(16, 16), crop_size=16, batch_size=2, steps=6)


def test_list_is_complete_and_licensed(tmp_path: Path) -> None:
    images = listed_images()
    assert len(images) > 600
    assert len({image.sha256 for image in images}) == len(images)
    assert all(image.licence and len(image.sha256) == 64 for image in images)
    assert {image.split for image in images} == {"train", "holdout"}
    assert {image.kind for image in images} == {"photo", "texture"}
    (demo,) = [image for image in images if "picosdeeuropa" in image.path]
    assert demo.split == "holdout"
    with pytest.raises(GeomatchError, match=r"of 648 listed images are missing or differ"):
        find_images(tmp_path)


@pytest.fixture(scope="module")
def crops() -> CropSource:
    rng = np.random.default_rng(0)
    pyramid = [rng.integers(0, 256, (n, n, 3), dtype=np.uint8) for n in (96, 48)]
    return CropSource(photos=[pyramid], textures=[])


def test_crops_depend_on_the_generator_alone(crops: CropSource) -> None:
    one, two = (crops.batch(np.random.default_rng(3), 4, 16) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert one.shape == (4, 16, 16, 3)
    assert (crops.batch(np.random.default_rng(4), 4, 16) != one).any()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "diffusion_pytorch_model.safetensors")


def test_an_interrupted_training_gives_the_same(
    crops: CropSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying: Any
) -> None:
    def train(name: str) -> list[Log]:
        return train_denoiser(CONFIG, crops, tmp_path / name)

    monkeypatch.setattr(checkpoint, "EVERY", 2)
    whole = train("whole")
    with monkeypatch.context() as patch:
        patch.setattr(denoise.functional, "mse_loss", dying(denoise.functional.mse_loss, 6))
        with pytest.raises(KeyboardInterrupt):
            train("cut")
    assert (tmp_path / "cut" / "checkpoint.pt").is_file()
    resumed = train("cut")
    assert resumed == whole
    again = weights(tmp_path / "cut")
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)
    with pytest.raises(WeightsError, match="train into another folder"):
        train_denoiser(replace(CONFIG, steps=9), crops, tmp_path / "cut")


def test_rendered_views_follow_their_homography(photo0: Image, rng: np.random.Generator) -> None:
    matrix = random_homography(rng, photo0.size)
    view = render_view(photo0.pixels, matrix, photo0.size)
    points = rng.uniform([100, 200], [500, 400], (200, 2)).round()
    there = warp_points(matrix, points).round().astype(int)
    inside = ((there > 5) & (there < np.array(photo0.size) - 5)).all(1)
    x, y = points[inside].astype(int).T
    u, v = there[inside].T
    difference = np.abs(photo0.pixels[y, x].astype(int) - view[v, u]).mean(1)
    assert inside.sum() > 50
    assert np.median(difference) < 12


def test_tilted_planes_have_the_stated_tilt_and_no_aliases() -> None:
    """The tilt is the ratio of the singular values in the middle; a grating too fine to show is grey."""
    centre, step, tilts = np.array([319.5, 239.5]), 1e-3, []
    for seed in range(200):
        matrix = random_homography(np.random.default_rng(seed), (640, 480), "tilted")
        around = warp_points(matrix, centre + step * np.array([[0, 0], [1, 0], [0, 1]]))
        larger, smaller = np.linalg.svd((around[1:] - around[0]) / step, compute_uv=False)
        tilts.append(larger / smaller)
    assert 1.5 <= min(tilts) < 1.7
    assert 3.5 < max(tilts) <= 4.3  # perspective turns the plane a little more
    grating = np.zeros((240, 320, 3), np.uint8)
    grating[:, ::2] = 255  # two pixels a period
    squeezed = np.diag([1 / 3, 3.0, 1.0])
    fine = render_view(grating, squeezed, (100, 240), oversampling=3)[20:-20, 20:-20]
    assert np.ptp(fine) <= 90
    assert np.ptp(render_view(grating, squeezed, (100, 240))[20:-20, 20:-20]) > 200
    shown = render_view(np.full((50, 60, 3), 77, np.uint8), np.eye(3), (60, 50), oversampling=3)
    assert np.abs(shown[4:-4, 4:-4].astype(int) - 77).max() <= 1


def test_occlusions_spare_the_centre_and_are_other_patches(rng: np.random.Generator) -> None:
    patches = np.repeat(np.arange(200, dtype=np.uint8), 32 * 32 * 3).reshape(200, 32, 32, 3)
    changed = occluded(patches, 0.25, rng)
    differs = (changed != patches).any(-1)
    assert 30 < differs.any((1, 2)).sum() < 70
    assert not differs[:, 12:20, 12:20].any()
    assert all(len(np.unique(patch)) <= 2 for patch in changed)
    np.testing.assert_array_equal(occluded(patches, 0.0, rng), patches)


def test_synthetic_pairs_are_true(photo0: Image) -> None:
    rng = np.random.default_rng(5)
    view0, view1, matrix = make_views(photo0.pixels, rng, "upright")
    detector = OpenCVDetector("sift", 400)
    features0, features1 = detector.detect(view0), detector.detect(view1)
    pairs = true_pairs(features0, features1, matrix)
    assert len(pairs) > 20
    moved = warp_points(matrix, features0.keypoints[pairs[:, 0]])
    assert np.linalg.norm(moved - features1.keypoints[pairs[:, 1]], axis=1).max() < 2.5
    assert len(np.unique(pairs[:, 0])) == len(np.unique(pairs[:, 1])) == len(pairs)
    same = true_pairs(features0, features0, np.eye(3))
    assert (same[:, 0] == same[:, 1]).mean() > 0.95


def test_pairs_of_images(photo0: Image, tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", photo0.pixels)
    found = list(view_pairs(tmp_path / "a.png", views=1, seed=0))
    assert found
    for _, _, features0, features1 in found:
        assert len(features0) == len(features1)


def data_rows(images: Sequence[TrainingImage]) -> list[str]:
    groups = Counter((image.package, image.kind, image.licence) for image in images)
    return [f"| {p} | {kind} | {n} | {licence} |" for (p, kind, licence), n in sorted(groups.items())]


def test_model_cards_are_those_of_the_recipe() -> None:
    """Their settings, in the order of the cards, their counts, and the images that they list."""
    images = [image for image in listed_images() if image.split == "train"]
    folder = model_folder("dift-tiny")
    head, dense = load_head(folder / "head.safetensors"), load_head(folder, "dense")
    seen, denoiser = listed_images(DENSE_IMAGES), DenoiseConfig()
    assert {image.sha256 for image in seen} == set(dense.training["images"])
    assert len(seen) == len(dense.training["images"])
    assert dense.training["head"] == asdict(DENSE)
    card = (folder / "README.md").read_text()
    settings = [json.loads(text) for text in re.findall(r"`(\{.*\})`", card)]
    recorded = [head.training["head"], head.training["distillation"], PRESETS["dift-tiny"].feature_settings()]
    recorded = [asdict(denoiser), *recorded, dense.training["head"], dense.settings]
    assert settings == json.loads(json.dumps(recorded))
    text, counts = " ".join(card.split()), [head.training[name] for name in ("pairs", "distillation_pairs")]
    assert f"{denoiser.steps * denoiser.batch_size:,} crops seen of the packages" in text
    assert ", ".join(DENOISER_PACKAGES) in text
    assert f"- {counts[0]:,} pairs of SIFT keypoints" in text
    assert f"projection head, {counts[1]:,} for the network over patches" in text
    assert f"{dense.training['pairs']:,} pairs of views of {len(seen):,} images" in text
    rows = r"^\| .* \| (?:photo|texture) \| \d+ \| .*$"
    assert re.findall(rows, card, re.MULTILINE) == data_rows(images) + data_rows(seen)
    card = (weights_file().parent / "README.md").read_text()
    assert json.loads(re.findall(r"`(\{.*\})`", card)[0]) == json.loads(json.dumps(asdict(DetectorConfig())))
    assert f"1,194 views, each searched under {WARPS} homographies" in card
    assert f"found in {STABLE:.0%} of" in card
    assert re.findall(rows, card, re.MULTILINE) == data_rows(images)
