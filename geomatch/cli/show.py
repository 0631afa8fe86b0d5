"""``geomatch show``."""

from pathlib import Path

import rich_click as click

from geomatch.cli import options
from geomatch.cli.logs import finish
from geomatch.cli.match import FORMAT


@click.command()
@click.argument("image0", type=click.Path(path_type=Path))
@click.argument("targets", metavar="[IMAGE1]...", type=click.Path(path_type=Path), nargs=-1)
@click.option("--point", "points", callback=options.parse_points, metavar="X,Y", multiple=True,
              help="Pixel of IMAGE0 to find in IMAGE1; may be given several times.")  # fmt: skip
@click.option("--soft", is_flag=True,
              help="Take the weighted mean about the best cell, not the best pixel.")  # fmt: skip
@click.option("--pca", is_flag=True, help="Draw the first three principal components of IMAGE0's features.")
@options.bundled(
    "output",
    options.in_order,
    click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
                 default=Path("show-out"), show_default=True,
                 help="Write points.png, of --pca pca.png, of --html show.html here."),
    FORMAT,
)  # fmt: skip
@options.bundled(
    "page",
    options.in_order,
    click.option("--html", is_flag=True,
                 help="Draw a page to click: what the features see, the matches, the warped pair."),
    click.option("--maps", nargs=2, metavar="T,... LAYER,...",
                 callback=lambda context, parameter, pair: pair and (
                     options.parse_numbers(context, parameter, pair[0]), options.parse_layers(pair[1])),
                 help="Of --html: timesteps and layers for its sliders. [default: two of each of the "
                      "embedded model]"),
)  # fmt: skip
@options.OVERWRITE
@options.DENSE
@options.descriptor_options()
def show(
    image0: Path,
    targets: tuple[Path, ...],
    points: list[tuple[float, float]],
    soft: bool,
    pca: bool,
    output: tuple[Path, str],
    page: tuple[bool, tuple[tuple[int, ...], tuple[str | int, ...]] | None],
    descriptor: str,
) -> None:
    """Draw what the features see.

    With one or more IMAGE1 and --point: a row for each, IMAGE0 with the point
    and IMAGE1 with the best match, under its similarity everywhere; several
    points are numbered instead. With --pca: IMAGE0 beside three components of
    its features. With --html: one file of IMAGE0 and IMAGE1 to explore in a
    browser, which needs no network.
    """
    html, maps = page
    if pca + bool(points) + html != 1 or (len(targets) != 1 if html else pca == bool(targets)):
        raise click.UsageError("give IMAGE0 IMAGE1 --point X,Y, IMAGE0 IMAGE1 --html, or IMAGE0 --pca")
    if (soft and not points) or (maps and not html):
        raise click.UsageError("--soft is about --point, --maps about --html; leave it out")
    import numpy as np

    import geomatch
    from geomatch.dift import cached_extractor
    from geomatch.dift.maps.transfer import check_inside
    from geomatch.drawing.similarity import draw_components, show_points

    out, suffix = output
    path = out / ("show.html" if html else f"{'pca' if pca else 'points'}.{suffix}")
    config = options.dense_config(descriptor)
    images = [geomatch.load_image(image) for image in (image0, *targets)]
    places0 = np.array(points).reshape(-1, 2)
    check_inside(places0, images[0].size)
    options.make_out(out, [path.name])
    extractor = cached_extractor(config)
    if html:
        from geomatch.drawing.page import EMBEDDED, page_maps, write_page

        seen = page_maps(config, images, *(maps or (EMBEDDED if config.embedded else ((), ()))))
        result = geomatch.match(*images, descriptor=None if config.embedded else config)
        write_page(path, result, seen, descriptor)
    elif pca:
        picture = draw_components(images[0], extractor.dense(images[0]))
    else:
        found, picture = show_points(
            extractor, images[0], images[1:], places0, "soft-argmax" if soft else "argmax"
        )
        for target, places in zip(targets, found, strict=True):
            for (x, y), similarity in zip(places.points, places.similarity, strict=True):
                name = click.format_filename(target)
                click.echo(f"best match  {x:.1f},{y:.1f} in {name} (similarity {similarity:.4f})")
    if not html:
        picture.write(path)
    finish("drawn", path)
