"""The model cards of what the recipe makes, from Markdown templates in this folder."""

import importlib.resources
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from geomatch.benchmarks.training.adaptation import STABLE, WARPS
from geomatch.benchmarks.training.denoise import DenoiseConfig
from geomatch.benchmarks.training.detector import DetectorConfig
from geomatch.benchmarks.training.sources import TrainingImage
from geomatch.dift import PRESETS
from geomatch.dift.head.projection import Head


def model_card(
    config: DenoiseConfig,
    images: Sequence[TrainingImage],
    packages: Sequence[str],
    head: Head,
    losses: Sequence[tuple[int, float]],
) -> str:
    """The model card in Markdown: data, licences, settings and learning curves.

    The denoiser saw the images of ``packages`` alone; some twenty of its ``losses`` are shown.
    """
    stride = max(1, len(losses) // 20)
    shown = [*losses[::stride], losses[-1]] if (len(losses) - 1) % stride else losses[::stride]
    training = head.training
    return _template("dift-tiny").format(
        dimension=head.dimension,
        denoiser=json.dumps(asdict(config)),
        samples=config.steps * config.batch_size,
        packages=", ".join(packages),
        head=json.dumps(training["head"]),
        distillation=json.dumps(training["distillation"]),
        pairs=training["pairs"],
        distillation_pairs=training["distillation_pairs"],
        descriptor=json.dumps(PRESETS["dift-tiny"].feature_settings()),
        data=_data(images),
        head_curve=_curve(training["log"]),
        distillation_curve=_curve(training["distillation_log"]),
        curve="\n".join(f"| {step} | {loss:.4f} |" for step, loss in shown),
    )


def detector_card(
    config: DetectorConfig, images: Sequence[TrainingImage], views: int, losses: Sequence[tuple[int, float]]
) -> str:
    """The detector's card: data, licences, settings and every second row of the learning curve."""
    return _template("superpoint-tiny").format(
        views=views,
        warps=WARPS,
        stable=STABLE,
        network=json.dumps(asdict(config)),
        data=_data(images),
        curve="\n".join(f"| {step} | {loss:.3f} |" for step, loss in losses[1::2]),
    )


def _curve(log: Sequence[Mapping[str, float]]) -> str:
    return "\n".join(f"| {row['step']:.0f} | {row['loss']:.3f} | {row['rank1']:.3f} |" for row in log[1::2])


def _template(name: str) -> str:
    folder = importlib.resources.files("geomatch.benchmarks.training")
    return (folder / f"{name}.md").read_text(encoding="utf-8")


def _data(images: Sequence[TrainingImage]) -> str:
    groups = Counter((image.package, image.kind, image.licence) for image in images)
    return "\n".join(
        f"| {p} | {kind} | {n} | {licence} |" for (p, kind, licence), n in sorted(groups.items())
    )
