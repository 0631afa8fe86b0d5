"""``geomatch head``: short descriptors for any DIFT model, from photographs without labels."""

from pathlib import Path

import rich_click as click

from geomatch.cli.logs import finish
from geomatch.cli.options import OVERWRITE, changed_config, descriptor_options, make_out


@click.group()
def head() -> None:
    """Fit projection heads, which make descriptors short and robust."""


@head.command()
@click.argument("descriptor", metavar="MODEL")
@click.argument("images", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--dimension", type=click.IntRange(min=1), default=128, show_default=True,
              help="Length of the descriptors.")  # fmt: skip
@click.option("--views", type=click.IntRange(min=1), default=8, show_default=True,
              help="Pairs of views per photograph.")  # fmt: skip
@descriptor_options(leave_out=("--head",))
@OVERWRITE
def fit(descriptor: str, images: Path, out: Path, dimension: int, views: int) -> None:
    """Fit a projection head of MODEL to the photographs in the folder IMAGES, and write it into the folder
    OUT.

    MODEL is a preset, a diffusers folder or an id on the hub. Use the result with `--head OUT`, or with the
    model itself when OUT is its folder. OUT/work caches what was computed: an interrupted fit goes on there,
    and another dimension costs seconds; remove it when done.
    """
    from geomatch.collection.folder import find_images
    from geomatch.describers import dift_config
    from geomatch.training import fit_on_images
    from geomatch.weights.folders import HEAD_FILES

    config = changed_config(dift_config(descriptor))
    make_out(out, [name := HEAD_FILES[config.sampling]])
    found = find_images(images, exclude=out)
    paths = [found.root / name for name in found.names]
    fitted = fit_on_images(config, paths, out / "work", dimension, views, config.seed)
    for skipped, reason in {**found.skipped, **fitted.skipped}.items():
        click.echo(f"skipped     {skipped}: {reason}", err=True)
    fitted.head.save(out)
    if fitted.rank1:
        before, after = (f"{100 * share:.1f} %" for share in fitted.rank1)
        click.echo(f"rank-1      {before} without, {after} with it, in images held out of the fit")
    finish(f"fitted to {fitted.pairs} pairs of keypoints in {fitted.images} images", out / name)
