"""Answers that follow the photographs' frame instead of their content, and weights that look untrained."""

import json
import logging
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

import geomatch
from geomatch import Features, Image, content
from geomatch.collection import Extraction, find_images, match_collection
from geomatch.content import content_share, describe_moved
from geomatch.dift import PRESETS, DIFTExtractor
from geomatch.drawing.result import summary
from geomatch.engine import LocalEngine, RunContext
from geomatch.images import reduce_image
from geomatch.keypoints import GridDetector
from geomatch.weights.sources import model_folder

PAIR = geomatch.bundled_pair()
SIDE = 256
"""Pixels of the long side, for the sake of time."""
GRID = GridDetector(8)
TRAINED = PRESETS["dift-tiny-dense"]
FRAME = "the features tell positions in the image more than its content"


@dataclass(frozen=True)
class Positions:
    """Where a keypoint lies in the frame, and hardly anything else; counts the images that it is shown."""

    seen: list[str] = field(default_factory=list, repr=False)

    def describe(self, image: Image, features: Features) -> Features:
        self.seen.append(image.name)
        x, y = ((features.keypoints + 0.5) / image.size).T
        waves = [f(np.pi * k * side) for k in (1, 2, 4, 8) for side in (x, y) for f in (np.sin, np.cos)]
        return replace(features, descriptors=np.stack(waves, axis=1).astype(np.float32))


@pytest.fixture(scope="module")
def small(photo0: Image, photo1: Image) -> tuple[Image, Image]:
    return reduce_image(photo0, SIDE), reduce_image(photo1, SIDE)


@pytest.fixture
def untrained(tmp_path: Path) -> geomatch.DIFTConfig:
    """The embedded model's architecture with new weights."""
    import torch
    from diffusers import UNet2DModel

    embedded, folder = model_folder("dift-tiny"), tmp_path / "random"
    torch.manual_seed(0)
    UNet2DModel.from_config(json.loads((embedded / "config.json").read_text())).save_pretrained(folder)
    shutil.copy(embedded / "scheduler_config.json", folder)
    return replace(TRAINED, model=str(folder), head=False)


def test_matches_of_positions_are_refused_where_the_photographs_differ(small: tuple[Image, Image]) -> None:
    describer = Positions()
    found = geomatch.match(*small, detector=GRID, descriptor=describer)
    assert not found.homography
    assert found.homography.reason.startswith(FRAME)
    assert len(found.matches) == len(found.features0)  # all of them agree with the identity
    assert [Path(name).name for name in describer.seen] == ["image0.jpg", "image1.jpg", "image1.jpg, moved"]
    assert found.to_dict()["reason"] == found.homography.reason


def test_a_still_camera_is_no_frame(photo0: Image, rng: np.random.Generator) -> None:
    """The identity is the truth: the pixels say so, and no image is described again."""
    image = reduce_image(photo0, SIDE)
    noisy = image.pixels * 0.7 + rng.normal(20, 4, image.pixels.shape)
    describer = Positions()
    for descriptor in (describer, TRAINED):
        found = geomatch.match(
            image, noisy.clip(0, 255).astype(np.uint8), detector=GRID, descriptor=descriptor
        )
        assert found.homography
        assert geomatch.corner_error(found.homography.matrix, np.eye(3), image.size) < 0.5
    assert len(describer.seen) == 2


@pytest.mark.parametrize("detector", ["grid", "sift"])
def test_trained_features_pass_by_either_test(
    detector: str, small: tuple[Image, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"detector": GRID if detector == "grid" else "sift", "descriptor": TRAINED}
    for _ in range(2):
        found = geomatch.match(*small, **parts)  # type: ignore[arg-type]
        assert found.homography
        truth = np.diag([SIDE / 640, SIDE / 640, 1])
        truth = truth @ PAIR.homography @ np.linalg.inv(truth)
        assert geomatch.corner_error(found.homography.matrix, truth / truth[2, 2], small[0].size) < 2
        monkeypatch.setattr(content, "_pixels_agree", lambda *_: False)


def test_other_places_of_the_same_content(photo0: Image) -> None:
    """What a window of pixels sees moves with it; the keypoints stay those that were asked about."""
    image = reduce_image(photo0, 64)

    @dataclass(frozen=True)
    class Pixels:
        def describe(self, image: Image, features: Features) -> Features:
            x, y = np.floor(features.keypoints + 0.5).astype(int).T
            return replace(features, descriptors=image.pixels[y, x].astype(np.float32))

    features = GRID.detect(image)
    offset, moved = describe_moved(Pixels(), image, features)
    assert offset.tolist() == [17, 13]
    assert replace(moved, descriptors=None) == features
    assert moved == Pixels().describe(image, features)
    described = Positions().describe(image, features)
    assert content_share(Positions(), image, described) == 0
    extractor = DIFTExtractor(TRAINED)
    larger = reduce_image(photo0, SIDE)
    assert content_share(extractor, larger, extractor.describe(larger, GRID.detect(larger))) > 0.9


def test_untrained_weights_are_told(
    untrained: geomatch.DIFTConfig, small: tuple[Image, Image], caplog: pytest.LogCaptureFixture
) -> None:
    result = geomatch.match(*small, detector=GRID, descriptor=untrained)
    assert "weights that look untrained" in caplog.text
    assert result.to_dict()["settings"]["remark"] == "the descriptor's weights look untrained"
    assert "\nremark      the descriptor's weights look untrained\n" in summary(result)
    caplog.clear()
    result = geomatch.match(*small, detector=GRID, descriptor=TRAINED)
    assert result.settings["remark"] is None
    assert not caplog.text


def test_random_stable_diffusion_is_refused(small_sd: Path, small: tuple[Image, Image]) -> None:
    """Without the check, hundreds of its matches are inliers of a near-identity."""
    config = geomatch.DIFTConfig(str(small_sd), timestep=261, layers=(1,), image_size=None, device="cpu")
    extractor = DIFTExtractor(config, {"prompt_embeds": np.zeros((77, 32), np.float32)})
    found = geomatch.match(*small, detector=GRID, descriptor=extractor).homography
    assert not found
    assert found.reason.startswith(FRAME)


def test_collections_warn_of_positions(
    small_views: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = RunContext(store=tmp_path / "store", engine=LocalEngine(1), progress=False)
    images = find_images(small_views)
    with caplog.at_level(logging.WARNING):
        match_collection(images, extraction=Extraction(GRID, Positions()), context=context)
        assert caplog.text.count(FRAME) == 1
        caplog.clear()
        match_collection(images, extraction=Extraction(GRID, DIFTExtractor(TRAINED)), context=context)
    assert not caplog.text
