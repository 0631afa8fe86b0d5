"""``geomatch show``."""

from pathlib import Path

import rich_click as click

from geomatch.cli.logs import finish
from geomatch.cli.match import FORMAT
from geomatch.cli.options import (
    DENSE,
    OVERWRITE,
    bundled,
    dense_config,
    descriptor_options,
    make_out,
    parse_points,
)


@click.command()
@click.argument("image0", type=click.Path(path_type=Path))
@click.argument("targets", metavar="[IMAGE1]...", type=click.Path(path_type=Path), nargs=-1)
@click.option("--point", "points", callback=parse_points, metavar="X,Y", multiple=True,
              help="Pixel of IMAGE0 to find in IMAGE1; may be given several times.")  # fmt: skip
@click.option("--soft", is_flag=True,
              help="Take the weighted mean about the best cell, not the best pixel.")  # fmt: skip
@click.option("--pca", is_flag=True, help="Draw the first three principal components of IMAGE0's features.")
@bundled(
    "output",
    lambda out, suffix: (out, suffix),
    click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
                 default=Path("show-out"), show_default=True,
                 help="Write points.png or, of --pca, pca.png here."),
    FORMAT,
)  # fmt: skip
@OVERWRITE
@DENSE
@descriptor_options()
def show(
    image0: Path,
    targets: tuple[Path, ...],
    points: list[tuple[float, float]],
    soft: bool,
    pca: bool,
    output: tuple[Path, str],
    descriptor: str,
) -> None:
    """Draw what the features see.

    With one or more IMAGE1 and --point: a row for each, IMAGE0 with the point
    and IMAGE1 with the best match, under its similarity everywhere; several
    points are numbered instead. With --pca: IMAGE0 beside three components of
    its features.
    """
    if pca == bool(points) or pca == bool(targets):
        raise click.UsageError("give either IMAGE0 IMAGE1 --point X,Y, or IMAGE0 --pca")
    if soft and pca:
        raise click.UsageError("--soft is about --point; leave it out with --pca")
    import numpy as np

    import geomatch
    from geomatch.dift import cached_extractor
    from geomatch.dift.maps.transfer import check_inside
    from geomatch.drawing.canvas import check_format
    from geomatch.drawing.similarity import draw_components, show_points

    out, suffix = output
    path = out / f"{'pca' if pca else 'points'}.{suffix}"
    check_format(suffix)
    config = dense_config(descriptor)
    images = [geomatch.load_image(image) for image in (image0, *targets)]
    places0 = np.array(points).reshape(-1, 2)
    check_inside(places0, images[0].size)
    make_out(out, [path.name])
    extractor = cached_extractor(config)
    if pca:
        picture = draw_components(images[0], extractor.dense(images[0]))
    else:
        found, picture = show_points(
            extractor, images[0], images[1:], places0, "soft-argmax" if soft else "argmax"
        )
        for target, places in zip(targets, found, strict=True):
            for (x, y), similarity in zip(places.points, places.similarity, strict=True):
                name = click.format_filename(target)
                click.echo(f"best match  {x:.1f},{y:.1f} in {name} (similarity {similarity:.4f})")
    picture.write(path)
    finish("drawn", path)
