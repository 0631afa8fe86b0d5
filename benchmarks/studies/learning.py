"""What more training of the embedded model would buy: quality against samples seen, images and parameters.

``python -m geomatch.benchmarks.studies.learning IMAGES`` with the folder of the recipe's unpacked packages.
Every row is trained on first use (an hour and a half on one core) and measured by its rank-1 accuracy on
photographs held out: the share of patches whose nearest neighbour among those of the other view is right.
Corner errors would tell less, since SIFT's keypoints bound them (`geomatch.benchmarks.studies.embedded`).
Everything is cached in the work folder, where a second run resumes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from geomatch.benchmarks.studies.controls import random_model
from geomatch.benchmarks.studies.record import Row, markdown, study_parser, write_record
from geomatch.benchmarks.training.crops import CropSource, load_crops
from geomatch.benchmarks.training.denoise import DenoiseConfig, new_unet, train_denoiser
from geomatch.benchmarks.training.recipe import DENOISER_PACKAGES, bank_images
from geomatch.benchmarks.training.sources import find_images
from geomatch.dift import PRESETS, DIFTConfig, DIFTExtractor
from geomatch.dift.head.projection import ConvolutionalHead
from geomatch.training.bank import PatchBank, Rows, load_bank, make_bank
from geomatch.training.convolutional_head import HeadConfig, rank1, train_head
from geomatch.weights.sources import HEAD_FILE

SHORT = 400
"""Steps of the projection head where something else varies."""
HELD_OUT_VIEWS = 10
"""Pairs of views per held-out photograph, for the rank-1 accuracy."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One row: what differs from the recipe."""

    name: str
    head: HeadConfig
    denoiser: DenoiseConfig | None = None
    """None for the shipped one."""
    every: int = 1
    """Train with every so-many-th image."""


def variants() -> list[Variant]:
    """One thing at a time, then the shipped model."""
    short = HeadConfig(steps=SHORT)
    rows = [Variant(f"projection head, {steps} steps", HeadConfig(steps=steps)) for steps in (100, SHORT)]
    rows.append(Variant(f"quarter of the images, {SHORT} steps", short, every=4))
    for widths in ((32, 64), (128, 256)):
        head = replace(short, widths=widths)
        rows.append(Variant(f"projection head of widths {widths}, {SHORT} steps", head))
    for steps in (0, 500, 2000):
        denoiser = DenoiseConfig(steps=steps)
        rows.append(Variant(f"denoiser, {steps} steps; projection head, {SHORT}", short, denoiser))
    wide = DenoiseConfig(widths=(64, 96, 128), steps=2000)
    rows.append(
        Variant(f"denoiser of widths {wide.widths}, 2000 steps; projection head, {SHORT}", short, wide)
    )
    return [*rows, Variant("dift-tiny as shipped", HeadConfig())]


def trained(variant: Variant, images: Path, crops: list[CropSource], work: Path) -> DIFTConfig:
    """The settings of a variant; trains what is not there yet. ``crops`` caches what was read once."""
    config = PRESETS["dift-tiny"]
    if variant.name == "dift-tiny as shipped":
        return config
    found = find_images(images, "train")
    place = work / "".join(letter if letter.isalnum() else "-" for letter in variant.name)
    if variant.denoiser and variant.denoiser.steps:
        if not (place / "denoiser" / "config.json").is_file():
            if not crops:
                crops.append(load_crops([entry for entry in found if entry[0].package in DENOISER_PACKAGES]))
            train_denoiser(variant.denoiser, crops[0], place / "denoiser")
        config = replace(config, model=str(place / "denoiser"))
    elif variant.denoiser:
        config = replace(config, model=str(random_model(work / "random")))
    if not (place / HEAD_FILE).is_file():
        chosen = bank_images(found)[:: variant.every]
        plain = replace(config, head=False)
        train_head(plain, chosen, place, variant.head, work / "patches").head.save(place)
    return replace(config, head=str(place))


def measured(variant: Variant, config: DIFTConfig, held_out: Sequence[Rows]) -> Row:
    """What was spent, and rank-1 accuracy on held-out photographs."""
    extractor = DIFTExtractor(config)
    head = extractor.head
    if not isinstance(head, ConvolutionalHead):
        raise TypeError(f"{config.head} holds no trained projection head")
    denoiser = variant.denoiser or DenoiseConfig()
    parameters = sum(p.numel() for net in (new_unet(denoiser), head.network) for p in net.parameters())
    return {
        "method": variant.name,
        "crops": denoiser.steps * denoiser.batch_size,
        "pairs": variant.head.steps * variant.head.views * variant.head.per_view,
        "parameters": parameters,
        "rank1": round(rank1(extractor, head.network, held_out), 4),
    }


def table(rows: Sequence[Row]) -> str:
    """In Markdown, one line per variant."""
    return markdown(
        ("", "crops seen", "pairs seen", "parameters", "rank-1"),
        [
            (row["method"], f"{row['crops']:,}", f"{row['pairs']:,}", f"{row['parameters'] / 1e6:.2f} M",
             f"{100 * row['rank1']:.1f} %")
            for row in rows
        ],
    )  # fmt: skip


if __name__ == "__main__":
    parser = study_parser("learning", __doc__)
    parser.add_argument("images", type=Path, help="folder of the recipe's unpacked packages")
    parser.add_argument("--work", type=Path, default=Path("runs/learning"), help="cache between runs")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    photos = [entry for entry in find_images(options.images, "holdout") if entry[0].kind == "photo"]
    watched = bank_images(photos, {"photo": HELD_OUT_VIEWS})
    bank = PatchBank(options.work / "patches")
    make_bank(bank, watched)
    crops: list[CropSource] = []
    configs = {v: trained(v, options.images, crops, options.work) for v in variants()}
    results = [measured(v, config, load_bank(bank, watched)) for v, config in configs.items()]
    print(table(results))
    settings = {"images": [image.sha256 for image in watched], "views": HELD_OUT_VIEWS}
    write_record(options.out, "learning", results, settings)
