"""What comes out of networks with random weights, with and without `geomatch.content`, beside trained ones.

``python -m geomatch.benchmarks.studies.untrained FOLDER... [--hpatches DIR]`` makes pairs of the photographs
(each folder one place): the sequences of ``--hpatches``, views with known homographies up to half of the
pairs, then photographs of different folders. An answer is wrong from 10 px of mean corner error on, or for
photographs of different places.
"""

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

import geomatch
from geomatch import DIFTConfig, DIFTExtractor, Features, Image, corner_error, pipeline
from geomatch.benchmarks.studies.record import markdown
from geomatch.benchmarks.tasks.homography.sequences import read_hpatches
from geomatch.content import check_content
from geomatch.describers import Describer
from geomatch.dift import PRESETS
from geomatch.geometry import resize_homography
from geomatch.images import load_image, reduce_image
from geomatch.keypoints import Detector, GridDetector, OpenCVDetector, SuperPointDetector, TinyDetector
from geomatch.keypoints.superpoint import SuperPointNetwork
from geomatch.keypoints.tiny import new_network, save_network
from geomatch.synthetic import change_light, random_homography, render_view
from geomatch.types import EstimationFailure, HomographyEstimate
from geomatch.weights.sources import model_folder

WRONG = 10.0
"""Mean corner error in pixels from which on an answer is wrong."""
Pair = tuple[Image, Image, NDArray[np.float64] | None]
Parts = tuple[Detector, Describer]
Answer = HomographyEstimate | EstimationFailure


def make_pairs(folders: Sequence[Path], hpatches: Path | None, count: int, side: int) -> list[Pair]:
    """Pairs of images of at most ``side`` pixels, with the homography; None for different places."""
    rng = np.random.default_rng(0)
    pairs: list[Pair] = []
    for sequence in read_hpatches(hpatches).units if hpatches else []:
        reference = load_image(sequence.reference)
        for _, path, truth in sequence.targets:
            image, small = load_image(path), reduce_image(reference, side)
            reduced = reduce_image(image, side)
            to_small = resize_homography(reference.size, small.size)
            matrix = resize_homography(image.size, reduced.size) @ truth @ np.linalg.inv(to_small)
            pairs.append((small, reduced, matrix / matrix[2, 2]))
    photos = [
        (place, reduce_image(load_image(path), side))
        for place, folder in enumerate(folders)
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in (".jpg", ".png", ".ppm")
    ]
    while len(pairs) < count:
        place, image = photos[rng.integers(len(photos))]
        other_place, other = photos[rng.integers(len(photos))]
        if len(pairs) < count // 2:
            truth = np.eye(3)
            truth[:2, 2] = rng.uniform(-0.25, 0.25, 2) * image.size
            if len(pairs) % 2:
                truth = random_homography(rng, image.size)
            view = change_light(rng, render_view(image.pixels, truth, image.size))
            pairs.append((image, Image(view, "view"), truth))
        elif place != other_place:
            pairs.append((image, other, None))
    return pairs


def _stable_diffusion(folder: Path) -> DIFTExtractor:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    widths = (64, 128, 256, 256)
    unet = UNet2DConditionModel(block_out_channels=widths, cross_attention_dim=64)
    unet.save_pretrained(folder / "unet")
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(block_out_channels=(32, 64, 64, 64), layers_per_block=2, **blocks)
    vae.save_pretrained(folder / "vae")
    DDIMScheduler(beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")
    text = np.random.default_rng(0).normal(0, 1, (77, 64)).astype(np.float32)
    return DIFTExtractor(DIFTConfig(str(folder), 0, (2,), noise=False), text)


def _adm(folder: Path) -> DIFTExtractor:
    from diffusers import DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        out_channels=6, block_out_channels=(32, 32, 64, 64, 128, 128), attention_head_dim=32,
        down_block_types=["ResnetDownsampleBlock2D"] * 3 + ["AttnDownBlock2D"] * 3,
        up_block_types=["AttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"] * 3,
        resnet_time_scale_shift="scale_shift", downsample_type="resnet", upsample_type="resnet",
    )  # fmt: skip
    unet.save_pretrained(folder)
    DDPMScheduler().save_pretrained(folder)
    return DIFTExtractor(DIFTConfig(str(folder), 41, (11,), noise=False, metric="l2"))


def _tiny(folder: Path, preset: str) -> DIFTExtractor:
    """The embedded model's architecture; its trained projection head comes along."""
    from diffusers import UNet2DModel

    trained = model_folder("dift-tiny")
    if not folder.exists():
        UNet2DModel.from_config(json.loads((trained / "config.json").read_text())).save_pretrained(folder)
        for name in ("scheduler_config.json", "head.safetensors"):
            shutil.copy(trained / name, folder)
    return DIFTExtractor(replace(PRESETS[preset], model=str(folder)))


def families(folder: Path) -> dict[str, Callable[[], Parts]]:
    """Detectors and describers by name; random weights are made under ``folder``."""
    grid, sift = GridDetector(8), OpenCVDetector("sift", max_keypoints=1000)

    def noisy() -> Parts:
        plain = _stable_diffusion(folder / "noisy")
        config = replace(plain.config, timestep=261, layers=(1,), noise=True)
        return grid, replace(plain, config=config)

    def superpoint(detector: Detector | None) -> Parts:
        torch.save(SuperPointNetwork().state_dict(), folder / "superpoint.pth")
        found = SuperPointDetector(folder / "superpoint.pth", max_keypoints=1000)
        return detector or found, found

    def tiny_detector() -> Parts:
        save_network(new_network(), folder / "tiny.safetensors")
        return TinyDetector(folder / "tiny.safetensors", max_keypoints=500), DIFTExtractor()

    patches = replace(PRESETS["dift-tiny"], head=False)
    return {
        "Stable Diffusion, t=0": lambda: (grid, _stable_diffusion(folder / "sd")),
        "Stable Diffusion, noise of t=261": noisy,
        "ADM": lambda: (grid, _adm(folder / "adm")),
        "dift-tiny-dense": lambda: (grid, _tiny(folder / "tiny", "dift-tiny-dense")),
        "dift-tiny-dense, SIFT": lambda: (sift, _tiny(folder / "tiny", "dift-tiny-dense")),
        "dift-tiny": lambda: (sift, replace(_tiny(folder / "tiny", "dift-tiny"), config=replace(
            patches, model=str(folder / "tiny")))),
        "dift-tiny, trained head": lambda: (sift, _tiny(folder / "tiny", "dift-tiny")),
        "SuperPoint": partial(superpoint, None),
        "SuperPoint, grid": partial(superpoint, grid),
        "superpoint-tiny with trained dift-tiny": tiny_detector,
        "trained dift-tiny-dense": lambda: (grid, DIFTExtractor(PRESETS["dift-tiny-dense"])),
        "trained dift-tiny-dense, SIFT": lambda: (sift, DIFTExtractor(PRESETS["dift-tiny-dense"])),
        "trained dift-tiny": lambda: (sift, DIFTExtractor()),
    }  # fmt: skip


class _Remembering:
    """A describer that works once for each photograph."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.known: dict[tuple[str, str], Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def dense(self, image: Image) -> Any:
        return self._once("dense", image)

    def describe(self, image: Image, features: Features) -> Any:
        return self._once("describe", image, features)

    def _once(self, method: str, image: Image, *rest: Any) -> Any:
        found = self.known.get((method, image.name))
        if found is None:
            found = getattr(self.inner, method)(image, *rest)
            if not image.name.endswith(("view", "moved")):
                self.known[method, image.name] = found
        return found


def measure(parts: Parts, pairs: Sequence[Pair]) -> Iterator[tuple[str, str, float, float]]:
    """Each pair's verdict without and with the check, and seconds of `geomatch.match` and of the check."""
    before: list[Answer] = []

    def recorded(*arguments: Any) -> Answer:
        before.append(arguments[4])
        return check_content(*arguments)

    for image0, image1, truth in pairs:
        before.clear()
        start = time.perf_counter()
        with patch.object(pipeline, "check_content", recorded):
            result = geomatch.match(image0, image1, detector=parts[0], descriptor=parts[1])
        seconds = time.perf_counter() - start

        answers = (before[0] if before else result.homography), result.homography
        verdicts = [_verdict(found, truth, image0.size) for found in answers]
        yield verdicts[0], verdicts[1], seconds, result.seconds.get("check_content", 0.0)


def _verdict(found: Answer, truth: NDArray[np.float64] | None, size: tuple[int, int]) -> str:
    if not found:
        return "none"
    return "right" if truth is not None and corner_error(found.matrix, truth, size) <= WRONG else "wrong"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study and print its table."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m geomatch.benchmarks.studies.untrained", description=__doc__
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="photographs of one place")
    parser.add_argument("--hpatches", type=Path, metavar="DIR")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--side", type=int, default=256, help="longest side of the images in pixels")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of these families alone")
    options = parser.parse_args(argv)
    pairs = make_pairs(options.folders, options.hpatches, options.pairs, options.side)
    lines = []
    with tempfile.TemporaryDirectory() as name:
        for family, make in families(Path(name)).items():
            if options.only and family not in options.only:
                continue
            torch.manual_seed(0)
            detector, describer = make()
            rows = []
            for row in measure((detector, _Remembering(describer)), pairs):
                rows.append(row)
                counts = [Counter(row[column] for row in rows) for column in (0, 1)]
                if len(rows) % 10 == 0:
                    print(family, len(rows), *map(dict, counts), flush=True)
            spent = [f"{sum(float(row[column]) for row in rows) / len(rows):.2f}" for column in (2, 3)]
            lines.append((family, *(f"{c['right']} / {c['wrong']}" for c in counts), *spent))
            print(*lines[-1], flush=True)
    print(
        markdown(
            ("weights", "without: right / wrong", "with: right / wrong", "s per pair", "of which check"),
            lines,
        )
    )


if __name__ == "__main__":
    main()
