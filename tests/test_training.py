"""The recipe: its list of images, crops, resumption, and pairs with known truth."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geomatch import GeomatchError, Image, warp_points
from geomatch.benchmarks.training.cards import detector_card, model_card
from geomatch.benchmarks.training.crops import CropSource
from geomatch.benchmarks.training.denoise import DenoiseConfig, train_denoiser
from geomatch.benchmarks.training.detector import DetectorConfig
from geomatch.benchmarks.training.recipe import DENOISER_PACKAGES
from geomatch.benchmarks.training.sources import find_images, listed_images
from geomatch.dift.head.projection import ConvolutionalHead, HeadNetwork
from geomatch.keypoints import OpenCVDetector
from geomatch.synthetic import random_homography, render_view
from geomatch.training.convolutional_head import HeadConfig
from geomatch.training.pairs import make_views, true_pairs, view_pairs

CONFIG = DenoiseConfig(widths=(16, 16), crop_size=16, batch_size=2, steps=6)


def test_list_is_complete_and_licensed() -> None:
    images = listed_images()
    assert len(images) > 600
    assert len({image.sha256 for image in images}) == len(images)
    assert all(image.licence and len(image.sha256) == 64 for image in images)
    assert {image.split for image in images} == {"train", "holdout"}
    assert {image.kind for image in images} == {"photo", "texture"}


def test_demo_photograph_was_never_trained_on() -> None:
    (demo,) = [image for image in listed_images() if "picosdeeuropa" in image.path]
    assert demo.split == "holdout"


def test_missing_images_are_an_error_that_names_one(tmp_path: Path) -> None:
    with pytest.raises(GeomatchError, match=r"of 648 listed images are missing or differ"):
        find_images(tmp_path, "train")


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


def test_interrupted_training_ends_as_if_undisturbed(
    crops: CropSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying: Any
) -> None:
    def train(name: str) -> Path:
        return train_denoiser(CONFIG, crops, tmp_path / name, checkpoint_every=2, progress=False)

    whole = train("whole")
    with monkeypatch.context() as patch:
        patch.setattr(CropSource, "batch", dying(CropSource.batch, 6))
        with pytest.raises(KeyboardInterrupt):
            train("cut")
    assert (tmp_path / "cut" / "checkpoint.pt").is_file()
    resumed = train("cut")
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], value, rtol=0, atol=0)
    assert (resumed / "loss.csv").read_text() == (whole / "loss.csv").read_text()
    with pytest.raises(ValueError, match="train into another folder"):
        train_denoiser(replace(CONFIG, steps=9), crops, tmp_path / "cut", progress=False)


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


def test_made_pairs_are_true(photo0: Image) -> None:
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
    import cv2

    path = tmp_path / "a.png"
    cv2.imwrite(str(path), cv2.cvtColor(photo0.pixels, cv2.COLOR_RGB2BGR))
    found = list(view_pairs(path, views=2, seed=0))
    assert found
    for _, _, features0, features1 in found:
        assert len(features0) == len(features1)


def test_model_card_states_data_licence_steps_and_loss() -> None:
    images = [(image, Path(image.path)) for image in listed_images() if image.split == "train"]
    network = HeadNetwork([(4, 8)], (8,), 16).eval()
    log = [{"step": step, "loss": 1 / step, "rank1": 0.5} for step in (10, 20)]
    head = ConvolutionalHead(network, {}, {"head": asdict(HeadConfig(steps=77)), "pairs": 1234, "log": log})
    card = model_card(CONFIG, images, DENOISER_PACKAGES, head, [(2, 0.5), (4, 0.25), (6, 0.125)])
    for words in (
        "CC-BY-4.0",
        "supertuxkart-data",
        "1,234 pairs",
        '"steps": 6',
        '"steps": 77',
        "| 6 | 0.1250 |",
        "| 20 | 0.050 | 0.500 |",
        "MIT",
    ):
        assert words in card


def test_detector_card_states_data_licence_and_loss() -> None:
    images = [(image, Path(image.path)) for image in listed_images() if image.split == "train"]
    card = detector_card(DetectorConfig(steps=77), images, 1234, [(50, 0.9), (77, 0.75)])
    for words in ("CC-BY-4.0", "supertuxkart-data", "1,234 views", '"steps": 77', "| 77 | 0.750 |", "MIT"):
        assert words in card
