"""What heads learn from: pairs of views with known truth. And the cards of the embedded models."""

import csv
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from geomatch import Image, warp_points
from geomatch.dift import PRESETS, DIFTExtractor
from geomatch.dift.head.projection import load_head
from geomatch.images import write_png
from geomatch.keypoints import OpenCVDetector
from geomatch.keypoints.tiny import weights_file
from geomatch.synthetic import random_homography, render_view
from geomatch.training import PER_VIEW, make_views, true_pairs, view_activations
from geomatch.weights.folders import HEAD_FILES
from geomatch.weights.sources import model_folder


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
        matrix = random_homography(np.random.default_rng(seed), (640, 480), "oblique")
        around = warp_points(matrix, centre + step * np.array([[0, 0], [1, 0], [0, 1]]))
        larger, smaller = np.linalg.svd((around[1:] - around[0]) / step, compute_uv=False)
        tilts.append(larger / smaller)
    assert 3 <= min(tilts) < 3.2
    assert 5.3 < max(tilts) <= 5.9  # perspective turns the plane a little more
    grating = np.zeros((240, 320, 3), np.uint8)
    grating[:, ::2] = 255  # two pixels a period
    squeezed = np.diag([1 / 3, 3.0, 1.0])
    fine = render_view(grating, squeezed, (100, 240), oversampling=3)[20:-20, 20:-20]
    assert np.ptp(fine) <= 90
    assert np.ptp(render_view(grating, squeezed, (100, 240))[20:-20, 20:-20]) > 200
    shown = render_view(np.full((50, 60, 3), 77, np.uint8), np.eye(3), (60, 50), oversampling=3)
    assert np.abs(shown[4:-4, 4:-4].astype(int) - 77).max() <= 1


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
    extractor = DIFTExtractor(replace(PRESETS["dift-tiny"], device="cpu"))
    found = view_activations(extractor, tmp_path / "a.png", 2, ("upright", "rotated"), 0)
    counts = np.bincount(found["view"])
    assert len(found["first"]) == len(found["second"]) == counts.sum()
    assert ((counts > 0) & (counts <= PER_VIEW)).all()


def listed(name: str) -> list[dict[str, str]]:
    """The rows of a list of images beside the card of `dift-tiny`."""
    with (model_folder("dift-tiny") / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def trained_on() -> list[dict[str, str]]:
    return [row for row in listed("images.tsv") if row["split"] == "train"]


def data_rows(images: list[dict[str, str]]) -> list[str]:
    groups = Counter((image["package"], image["kind"], image["licence"]) for image in images)
    return [f"| {p} | {kind} | {n} | {licence} |" for (p, kind, licence), n in sorted(groups.items())]


def test_lists_are_complete_and_licensed() -> None:
    images = listed("images.tsv")
    assert len(trained_on()) == 648
    assert {image["split"] for image in images} == {"train", "holdout"}
    (demo,) = [image for image in images if "picosdeeuropa" in image["path"]]
    assert demo["split"] == "holdout"
    for rows in (images, listed("dense-images.tsv")):
        assert len({row["sha256"] for row in rows}) == len(rows)
        assert all(row["licence"] and len(row["sha256"]) == 64 for row in rows)
        assert {row["kind"] for row in rows} == {"photo", "texture"}


def test_model_cards_tell_what_the_weights_record() -> None:
    """Their settings, in the order of the cards, their counts, the images listed, and where the code is."""
    folder = model_folder("dift-tiny")
    head, dense = (load_head(folder / name) for name in HEAD_FILES.values())
    images, seen = trained_on(), listed("dense-images.tsv")
    assert {image["sha256"] for image in seen} == set(dense.training["images"])
    assert len(seen) == len(dense.training["images"])
    assert {image["sha256"] for image in images} >= set(head.training["images"])
    card = (folder / "README.md").read_text()
    denoiser, *settings = [json.loads(text) for text in re.findall(r"`(\{.*\})`", card)]
    recorded = [head.training["head"], head.training["distillation"], PRESETS["dift-tiny"].feature_settings()]
    assert settings == json.loads(json.dumps([*recorded, dense.training["head"], dense.settings]))
    config = json.loads((folder / "config.json").read_text())
    assert denoiser["widths"] == config["block_out_channels"]
    assert 3 * denoiser["unshuffle"] ** 2 == config["in_channels"]
    text, counts = " ".join(card.split()), [head.training[name] for name in ("pairs", "distillation_pairs")]
    assert f"{denoiser['steps'] * denoiser['batch_size']:,} crops seen of the packages" in text
    assert f"- {counts[0]:,} pairs of SIFT keypoints" in text
    assert f"projection head, {counts[1]:,} for the network over patches" in text
    assert f"{dense.training['pairs']:,} pairs of views of {len(seen):,} images" in text
    rows = r"^\| .* \| (?:photo|texture) \| \d+ \| .*$"
    assert re.findall(rows, card, re.MULTILINE) == data_rows(images) + data_rows(seen)
    detector = (weights_file().parent / "README.md").read_text()
    assert re.findall(rows, detector, re.MULTILINE) == data_rows(images)
    for each in (text, " ".join(detector.split())):
        assert "The code that trained it: `benchmarks/training` at commit 3ccad72 of this repository." in each
