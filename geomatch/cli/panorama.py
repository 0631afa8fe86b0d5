"""``geomatch panorama``."""

from pathlib import Path
from typing import Any

import rich_click as click

from geomatch.cli.logs import NOT_FOUND, finish
from geomatch.cli.match import How, pair_options
from geomatch.cli.options import OVERWRITE, descriptor_options, make_out


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", required=True,
              help="Folder for the picture, panorama.png.")  # fmt: skip
@click.option("--format", "suffix", type=click.Choice(["png", "tif", "jpg"]), default="png",
              show_default=True, help="PNG and TIFF have alpha where no image is.")  # fmt: skip
@OVERWRITE
@click.option("--scene", type=click.Choice(["turning", "plane"]), default="turning", show_default=True,
              help="A camera that turned where it stood, or a plane, such as a wall.")  # fmt: skip
@click.option("--projection", type=click.Choice(["spherical", "cylindrical", "plane"]), default="spherical",
              show_default=True, help="What a turning camera is drawn on.")  # fmt: skip
@pair_options
@descriptor_options()
def panorama(
    images: tuple[Path, ...],
    out: Path,
    suffix: str,
    scene: Any,
    projection: Any,
    how: How,
) -> int:
    """Put IMAGES, or those of folders, that overlap into one picture.

    Tilted views are not searched, and homographies not refined.
    Exit code 0: all are in it, 1: some belong to no other, or there is no picture, 2: bad input or usage.
    """
    from geomatch.images import check_image_file
    from geomatch.panorama import stitch
    from geomatch.registration.register import named_files

    picture = out / f"panorama.{suffix}"
    make_out(out, [picture.name])
    folder, names = named_files(images, out, how.reading.masks)
    names = [name for name in names if (folder / name).resolve() != picture.resolve()]  # of an earlier run
    if names:
        how.reading.masks.check(names, folder)
    for name in names:
        check_image_file(folder / name)
    sources = [how.reading.file(folder / name, name) for name in names]
    result = stitch(sources, scene=scene, projection=projection, pipeline=how.pipeline())
    for name, reason in result.left_out.items():
        click.echo(f"left out    {name}: {reason}")
    if result.pixels is None:
        click.echo(f"geomatch: no panorama: {result.reason}", err=True)
        return NOT_FOUND
    result.save(picture)
    for pair in result.pairs:
        if not pair.reason:
            click.echo(f"pair        {pair}")
    height, width = result.pixels.shape[:2]
    placed = f"{len(names) - len(result.left_out)} of {len(names)} images"
    return finish(f"{placed} became {width}x{height} pixels", picture, whole=not result.left_out)
