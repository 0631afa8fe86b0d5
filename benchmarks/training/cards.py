"""The model cards of what the recipe makes, in Markdown."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from geomatch.benchmarks.training.adaptation import STABLE, WARPS
from geomatch.benchmarks.training.denoise import DenoiseConfig
from geomatch.benchmarks.training.detector import DetectorConfig
from geomatch.benchmarks.training.sources import TrainingImage
from geomatch.dift import PRESETS
from geomatch.dift.head.projection import Head


def model_card(
    config: DenoiseConfig,
    images: Sequence[tuple[TrainingImage, Path]],
    packages: Sequence[str],
    head: Head,
    losses: Sequence[tuple[int, float]],
) -> str:
    """The model card in Markdown: data, licences, settings and loss curve."""
    log = head.training["log"]
    stride = max(1, len(losses) // 20)
    chosen = [*losses[::stride], losses[-1]] if (len(losses) - 1) % stride else losses[::stride]
    curve = [f"| {step} | {loss:.4f} |" for step, loss in chosen]
    head_curve = [f"| {row['step']:.0f} | {row['loss']:.3f} | {row['rank1']:.3f} |" for row in log[1::2]]
    settings = json.dumps(asdict(config))
    samples = config.steps * config.batch_size
    return "\n".join(
        [
            "# dift-tiny",
            "",
            "A small denoising diffusion model in pixel space (diffusers `UNet2DModel`, 2 x 2 pixel",
            "blocks as channels, no attention), whose activations serve as descriptors, with a projection",
            f"head (a small network, {head.dimension} dimensions) trained on the frozen activations.",
            "",
            "Made by `geomatch train OUT`. The weights are released under the MIT licence of the code, as",
            "far as its authors hold rights in them; they were trained on the openly licensed images below.",
            "",
            "## Training",
            "",
            f"- Denoiser: `{settings}`",
            f"- {samples:,} crops seen of the packages {', '.join(packages)};",
            "  noise prediction, linear DDPM schedule, weights averaged (EMA).",
            f"- Projection head: `{json.dumps(head.training['head'])}`",
            f"- {head.training['pairs']:,} pairs of SIFT keypoints in made views of all images (every",
            "  20th was only watched).",
            f"- Descriptor: `{json.dumps(PRESETS['dift-tiny'].feature_settings())}`",
            "",
            "## Data",
            "",
            *_data(images),
            "",
            "## Learning curves",
            "",
            "The projection head: its loss, and the share of keypoints of watched images whose nearest",
            "neighbour among those of the other view is right.",
            "",
            "| step | loss | rank-1 |",
            "| --- | --- | --- |",
            *head_curve,
            "",
            "Of the denoiser:",
            "mean squared error of the predicted noise, averaged since the row before it in the log.",
            "",
            "| step | loss |",
            "| --- | --- |",
            *curve,
            "",
        ]
    )


def detector_card(
    config: DetectorConfig,
    images: Sequence[tuple[TrainingImage, Path]],
    views: int,
    losses: Sequence[tuple[int, float]],
) -> str:
    """Data, licences, settings and loss curve of the detector."""
    return "\n".join(
        [
            "# superpoint-tiny",
            "",
            "A detector: SuperPoint's backbone and keypoint head, narrower, without",
            "descriptors. Made by `geomatch train OUT`. The weights are released under the MIT licence of",
            "the code, as far as its authors hold rights in them; they were trained on the openly licensed",
            "images below, without labels: by homographic adaptation of SIFT and OpenCV's corners.",
            "",
            "## Training",
            "",
            f"- {views:,} views, each searched under {WARPS} homographies and lights; what {STABLE:.0%}",
            "  of the searches or more have found is what is to be found.",
            f"- Network: `{json.dumps(asdict(config))}`",
            "",
            "## Data",
            "",
            *_data(images),
            "",
            "## Learning curve",
            "",
            "Cross-entropy per cell, averaged since the row before it in the log.",
            "",
            "| step | loss |",
            "| --- | --- |",
            *(f"| {step} | {loss:.3f} |" for step, loss in losses[1::2]),
            "",
        ]
    )


def _data(images: Sequence[tuple[TrainingImage, Path]]) -> list[str]:
    groups: dict[tuple[str, str, str], int] = {}
    for image, _ in images:
        key = (image.package, image.kind, image.licence)
        groups[key] = groups.get(key, 0) + 1
    return [
        "From Debian 12 (main). Every file with its SHA-256 is listed in `geomatch/training/images.tsv`;",
        "rows marked `holdout` were not used.",
        "",
        "| package | kind | images | licence |",
        "| --- | --- | --- | --- |",
        *(f"| {p} | {kind} | {count} | {licence} |" for (p, kind, licence), count in sorted(groups.items())),
    ]
