"""``geomatch show``."""

from pathlib import Path

import click

from geomatch.cli.options import changed_config, descriptor_options


def _point(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[float, float] | None:
    if value is None:
        return None
    try:
        x, y = (float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no point; give x,y such as 120,80") from error
    return x, y


@click.command()
@click.argument("image0", type=click.Path(path_type=Path))
@click.argument("image1", type=click.Path(path_type=Path), required=False)
@click.option("--point", callback=_point, metavar="X,Y", help="Pixel of IMAGE0 to find in IMAGE1.")
@click.option("--pca", is_flag=True, help="Draw the first three principal components of IMAGE0's features.")
@click.option("--out", type=click.Path(path_type=Path), metavar="PNG", default=Path("show.png"),
              show_default=True, help="The picture.")  # fmt: skip
@click.option("--descriptor", metavar="NAME", default="dift-tiny-dense", show_default=True,
              help="A dense preset (`geomatch models`), or a diffusers model: folder or hub id.")  # fmt: skip
@descriptor_options(leave_out=("--rotations", "--scales"))
def show(
    image0: Path,
    image1: Path | None,
    point: tuple[float, float] | None,
    pca: bool,
    out: Path,
    descriptor: str,
) -> int:
    """Draw what the features see.

    With IMAGE1 and --point: the point, its similarity all over IMAGE1 and the
    best match. With --pca: IMAGE0 beside three components of its features.
    """
    if pca == (point is not None) or pca != (image1 is None):
        raise click.UsageError("give either IMAGE0 IMAGE1 --point X,Y, or IMAGE0 --pca")
    import geomatch
    from geomatch.output import write_png
    from geomatch.parts import cached_extractor, dift_config
    from geomatch.show import draw_components, show_point

    config = changed_config(dift_config(descriptor))
    if config.sampling != "dense":
        raise click.UsageError(f"{descriptor} works in patches; choose a dense one, such as dift-tiny-dense")
    if out.suffix.lower() != ".png" or out.is_dir() or not out.parent.is_dir():
        raise click.UsageError(f"--out {out}: give a .png file in a folder that exists")
    first = geomatch.load_image(image0)
    extractor = cached_extractor(config)
    if point is None or image1 is None:
        picture = draw_components(first, extractor.dense(first))
    else:
        transfer, picture = show_point(extractor, first, geomatch.load_image(image1), point)
        x, y = transfer.point1
        click.echo(f"best match  {x:.1f},{y:.1f} (similarity {transfer.best:.4f})")
    write_png(out, picture)
    click.echo(f"wrote       {click.format_filename(out)}")
    return 0
