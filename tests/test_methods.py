"""Methods by their strings, with random weights where the real ones are not here."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_sequences import make_sequences

import geomatch
from geomatch.benchmarks.methods import create_dense_method, create_method
from geomatch.benchmarks.methods.backbones import TransformersFeatures
from geomatch.benchmarks.methods.strings import split_methods
from geomatch.dift import PRESETS
from geomatch.images import Image
from geomatch.keypoints import GridDetector
from geomatch.keypoints.learned import WEIGHTS, KorniaFeatures
from geomatch.keypoints.superpoint import SuperPointNetwork


@pytest.fixture(scope="module")
def small() -> Image:
    whole = geomatch.load_image(geomatch.bundled_pair().image0).pixels
    return Image(np.ascontiguousarray(whole[100:228, 200:360]), "part")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sequences(tmp_path_factory.mktemp("methods"), "p", (240, 180), seed=1)


def seeded(make: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    return make().eval()


def test_kornia_features_with_random_weights(small: Image, tmp_path: Path) -> None:
    from kornia import feature

    path = tmp_path / WEIGHTS["disk"].file_name
    torch.save({"extractor": seeded(feature.DISK).state_dict()}, path)
    method = create_method(f"disk:{path}", 50)
    found = method.describe([small], [method.detect(small)])[0]
    assert 0 < len(found) <= 50
    assert found.descriptors is not None
    assert found.descriptors.shape == (len(found), 128)
    # pixel centres are whole numbers
    assert np.allclose(found.keypoints, np.round(found.keypoints), atol=1e-4)
    assert (np.diff(found.scores) <= 0).all()
    again = method.describe([small], [method.detect(small)])[0]
    assert np.array_equal(again.descriptors, found.descriptors)
    key = method.key()["source"]
    assert len(key["key"]["items"][2]["items"]) == 1  # the checksum of its file
    path.write_bytes(b"nothing")
    with pytest.raises(geomatch.WeightsError, match="not a readable file of weights of disk"):
        KorniaFeatures("disk", 50, str(path)).detect(small)


def test_superpoint_by_string(small: Image, tmp_path: Path) -> None:
    network = seeded(SuperPointNetwork)
    torch.save(network.state_dict(), tmp_path / "sp.pth")
    method = create_method(f"superpoint:{tmp_path / 'sp.pth'}", 30)
    found = method.describe([small], [method.detect(small)])[0]
    assert found.descriptors is None or found.descriptors.shape[1] == 256
    assert str(tmp_path) not in str(method.key())  # weights count by their content


@pytest.mark.parametrize(("name", "kind"), [("dino", "ViT"), ("dinov2", "Dinov2"), ("clip", "CLIPVision")])
def test_backbones_describe_where_the_image_says(name: Any, kind: str, small: Image, tmp_path: Path) -> None:
    import transformers

    config, model = (getattr(transformers, f"{kind}{part}") for part in ("Config", "Model"))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    made = config(**sizes, patch_size=8, image_size=64)
    options = {"add_pooling_layer": False} if name == "dino" else {}
    seeded(lambda: model(made, **options)).save_pretrained(tmp_path / name)
    backbone = TransformersFeatures(name, str(tmp_path / name), (96, 96))
    grid = GridDetector(step=16).detect(small)
    found = backbone.describe(small, grid)
    assert found.descriptors is not None
    assert found.descriptors.shape == (len(grid), 32)
    assert np.allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-5)
    # a change at the right edge changes descriptors there most
    pixels = small.pixels.copy()
    pixels[:, -24:] = 0
    other = backbone.describe(Image(pixels, "changed"), grid).descriptors
    assert other is not None
    change = np.linalg.norm(other - found.descriptors, axis=1)
    right = grid.keypoints[:, 0] > 130
    assert change[right].mean() > 2 * change[grid.keypoints[:, 0] < 100].mean()
    method = create_method(f"sift+{name}:{tmp_path / name}", 20)
    assert str(tmp_path) not in str(method.key())
    assert len(method.describe([small], [method.detect(small)])[0]) == 20
    (tmp_path / "empty").mkdir()
    with pytest.raises(geomatch.WeightsError, match=r"config\.json is missing"):
        create_method(f"sift+{name}:{tmp_path / 'empty'}", 20).key()


def test_strings_that_are_no_method() -> None:
    for text in ("", "surf", "sift+dift-tiny+dift-tiny", "sift+dift-tiny+lightglue", "orb+lightglue", "npz:"):
        with pytest.raises(ValueError, match=r"no method|LightGlue has weights for"):
            create_method(text)


def test_settings_in_strings() -> None:
    text = "orb,sift+dift-sd[t=0,layer=2],orb,mine=aliked:a/b.pth,aliked:a/b.pth,aliked:c/b.pth"
    assert split_methods(text) == {
        "orb": "orb", "sift+dift-sd[t=0,layer=2]": "sift+dift-sd[t=0,layer=2]", "mine": "aliked:a/b.pth",
        "aliked:b.pth": "aliked:a/b.pth", "aliked:c/b.pth": "aliked:c/b.pth",
    }  # fmt: skip
    with pytest.raises(ValueError, match="two methods are called 'mine': orb and sift"):
        split_methods("mine=orb,mine=sift")
    assert [*split_methods("sift+/models/my sd,xfeat:/my models/a.pt")] == ["sift+my sd", "xfeat:a.pt"]
    method = create_method("sift+dift-sd[t=5,layer=up_blocks.1|2,ensemble=3,image_size=640x480,seed=7]+lmeds")
    assert method.estimator == "lmeds"
    changed = replace(PRESETS["dift-sd"], timestep=5, layers=("up_blocks.1", 2), ensemble_size=3)
    assert method.dift == replace(changed, image_size=(640, 480), seed=7, device="cpu")
    for setting, name, value in (
        ("image_size=320", "image_size", 320), ("image_size=native", "image_size", None),
        ("noise=false,latent=mode,ensemble=1", "noise", False), ("dtype=bfloat16", "dtype", "bfloat16"),
        ("patch_scale=2.5", "patch_scale", 2.5), ("batch_size=3", "batch_size", 3),
        ("prompt=a+b", "prompt", "a+b"), ("head=some/folder", "head", "some/folder"),
    ):  # fmt: skip
        assert getattr(create_dense_method(f"dift-sd[{setting}]").dift, name) == value
    for given, words in (
        ("depth=1", "unknown setting 'depth=1'; give NAME=VALUE with one of: t, layer, ensemble, model"),
        ("t", "unknown setting 't'"),
        ("t=x", "t cannot be 'x'"),
        ("noise=maybe", "noise cannot be 'maybe'"),
        ("t=1000", "timestep must be a whole number in 0..999"),
        ("device=cuda", "unknown setting 'device=cuda'"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            create_dense_method(f"dift-sd[{given}]")


def test_the_whole_pipeline_is_a_method(photo0: Image, photo1: Image) -> None:
    matcher = create_method("geomatch[effort=fast,detector=sift]", 300).pair_matcher
    assert matcher is not None
    found = geomatch.match(photo0.pixels, photo1.pixels, detector="sift", max_keypoints=300, effort="fast")
    one, two = matcher.match_images(photo0, photo1)
    assert found.homography
    assert np.array_equal(one.keypoints, found.points0[found.homography.inliers])
    aligned = create_method("geomatch[effort=fast,detector=sift,aligned=yes]", 300).pair_matcher
    assert aligned is not None
    one, two = aligned.match_images(photo0, photo1)
    moved = geomatch.warp_points(found.homography.matrix, one.keypoints)
    assert np.abs(moved - two.keypoints).max() < 1e-3
    with pytest.raises(ValueError, match="settings of geomatch are detector, descriptor, matcher, effort"):
        create_method("geomatch[speed=1]")
    with pytest.raises(ValueError, match="effort must be"):
        create_method("geomatch[effort=most]")
