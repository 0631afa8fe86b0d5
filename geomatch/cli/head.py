"""``geomatch head``: short descriptors for any DIFT model, from photographs without labels."""

from pathlib import Path

import click

from geomatch.cli.options import changed_config, descriptor_options


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
              help="Pairs of views per photograph, in closed form.")  # fmt: skip
@click.option("--dense", is_flag=True,
              help="Train a small network in place of the closed form, for models that see the whole image, "
                   "at a cell per 4 pixels.")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), help="Steps of that training. [default: 6000]")
@descriptor_options(leave_out=("--head",))
def fit(
    descriptor: str,
    images: Path,
    out: Path,
    dimension: int,
    views: int,
    dense: bool,
    steps: int | None,
) -> None:
    """Fit a projection head of MODEL to the photographs in the folder IMAGES, and write it into the folder
    OUT.

    MODEL is a preset, a diffusers folder or an id on the hub. Use the result with `--head OUT`, or with the
    model itself when OUT is its folder. OUT/work caches what was computed: an interrupted fit goes on there,
    and another dimension costs seconds; remove it when done.
    """
    from geomatch.collection.folder import find_images
    from geomatch.describers import dift_config
    from geomatch.weights.folders import HEAD_FILES

    if steps and not dense:
        raise click.UsageError("--steps is of a training: give --dense")
    config = changed_config(dift_config(descriptor))
    found = find_images(images, exclude=out)
    paths = [found.path(name) for name in found.names]
    work = out / "work"
    for name, reason in found.skipped.items():
        click.echo(f"skipped     {name}: {reason}", err=True)
    if dense:
        from geomatch.training.dense_head import DenseConfig, train_dense_head

        plan = DenseConfig(dimension=dimension, steps=steps or DenseConfig().steps, seed=config.seed)
        fitted = train_dense_head(config, paths, work, plan)
    else:
        from geomatch.training.linear_head import fit_on_images

        fitted = fit_on_images(config, paths, work, dimension, views, config.seed)
    for name, reason in fitted.skipped.items():
        click.echo(f"skipped     {name}: {reason}", err=True)
    fitted.head.save(out)
    pairs = "views of" if dense else "keypoints in"
    click.echo(f"fitted on   {fitted.pairs} pairs of {pairs} {fitted.images} images")
    if fitted.after is not None:
        without = "" if fitted.before is None else f"{100 * fitted.before:.1f} % without, "
        click.echo(f"rank-1      {without}{100 * fitted.after:.1f} % with it, in images held out of the fit")
    click.echo(f"wrote       {click.format_filename(out / HEAD_FILES[config.sampling])}")
