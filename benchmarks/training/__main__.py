"""``python -m geomatch.benchmarks.training OUT``: the whole recipe of what is embedded.

The model cards, `README.md` beside the weights, are written by hand; a test holds them to the recipe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from geomatch.benchmarks.training.denoise import DenoiseConfig, load_crops, train_denoiser
from geomatch.benchmarks.training.detector import DetectorConfig, load_labels, make_labels, train_detector
from geomatch.benchmarks.training.distillation import DistillationConfig, distilled
from geomatch.benchmarks.training.sources import TrainingImage, fetch_packages, find_images
from geomatch.dift import PRESETS
from geomatch.files import write_whole
from geomatch.keypoints.tiny import save_network
from geomatch.training.bank import BankImage
from geomatch.training.convolutional_head import HeadConfig, train_head
from geomatch.training.dense_head import DenseConfig, train_dense_head
from geomatch.weights.folders import write_sums

DENOISER_PACKAGES = (
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
    "supertuxkart-data",
    "torcs-data",
)
"""Packages that the denoiser learned from; the projection head, which came later, learned from all."""
VIEWS = {"photo": 40, "texture": 4}
"""View pairs per image for the projection head: there are few photographs."""
DETECTOR_VIEWS = {"photo": 8, "texture": 1}
"""Views per image for the detector."""
DISTILLATION_VIEWS = {"photo": 20, "texture": 4}
"""View pairs per image for the network over patches, which has descriptors to learn from."""
TILTED_VIEWS = {"photo": 24, "texture": 3}
"""The same of tilted planes."""
DENSE_IMAGES = "dense-images.tsv"
DENSE_VIEWS = {
    "photo": 13, "texture": 1, "bakerydemo": 3, "brighton_beach": 3, "budgie_backgrounds": 4,
    "c2lc_landmarks": 5, "clothing_small": 1, "coco_open": 3, "flower_photos": 1, "gb82": 6,
    "grocery_store": 1, "opensfm_berlin": 5, "ubuntu_mate": 2, "ubuntu_wallpapers": 1,
}  # fmt: skip
"""How often the dense head sees an image, in proportion, by kind or by package."""
DENSE = DenseConfig(width=96, size=192, points=256, steps=4500)


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR", default=Path("training-images"),
              show_default=True, help="Where the Debian packages are, or will be, unpacked.")  # fmt: skip
@click.option("--dense", is_flag=True,
              help="Train the dense head, too, on what dense-images.tsv lists.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="Of the denoiser: cpu or cuda.")
def train(out: Path, images: Path, dense: bool, device: str) -> None:
    """Train the embedded model again into the folder OUT, and the detector into OUT/detector.

    OUT/work keeps checkpoints, patches and labels (4 GB), from which an
    interrupted run resumes.
    """
    from diffusers.models.unets.unet_2d import UNet2DModel

    fetch_packages(images)
    found = find_images(images)
    work = out / "work"
    crops = load_crops([entry for entry in found if entry[0].package in DENOISER_PACKAGES])
    train_denoiser(DenoiseConfig(), crops, work, device)
    unet = UNet2DModel.from_pretrained(work, low_cpu_mem_usage=False)
    unet.register_to_config(_name_or_path="dift-tiny")  # not a path of this machine
    unet.half().save_pretrained(out)
    (out / "diffusion_pytorch_model.safetensors").chmod(0o644)  # diffusers leaves it to the owner alone
    write_whole(out / "scheduler_config.json", (work / "scheduler_config.json").read_text(encoding="utf-8"))
    write_sums(out)
    settings = replace(PRESETS["dift-tiny"], model=str(out), head=False)
    teacher = train_head(settings, bank_images(found), work, HeadConfig()).head
    replace(teacher, training={**teacher.training, "model": "dift-tiny"}).save(work / "teacher")
    imitated = replace(settings, head=str(work / "teacher"))
    seen, tilted = bank_images(found, DISTILLATION_VIEWS), bank_images(found, TILTED_VIEWS)
    distilled(imitated, seen, tilted, work, DistillationConfig()).save(out)
    if dense:
        settings = replace(PRESETS["dift-tiny-dense"], model=str(out), head=False)
        seen = bank_images(find_images(images, DENSE_IMAGES), DENSE_VIEWS)
        fitted = train_dense_head(settings, seen, work / "dense", DENSE).head
        replace(fitted, training={**fitted.training, "model": "dift-tiny"}).save(out)
    images_seen = bank_images(found, DETECTOR_VIEWS)
    make_labels(work / "labels", images_seen)
    network = train_detector(load_labels(work / "labels", images_seen), DetectorConfig(), work)
    (out / "detector").mkdir(exist_ok=True)
    save_network(network, out / "detector" / "tiny.safetensors")
    click.echo(f"wrote       {out}")


def bank_images(
    images: Sequence[tuple[TrainingImage, Path]], views: Mapping[str, int] = VIEWS
) -> list[BankImage]:
    """The images with the number of views of each, by package or by kind."""
    return [
        BankImage(path, image.sha256, views.get(image.package) or views[image.kind]) for image, path in images
    ]


if __name__ == "__main__":
    train()
