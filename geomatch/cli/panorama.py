"""``geomatch panorama``."""

from pathlib import Path
from typing import Any

import click

from geomatch.cli.exit_codes import FOUND, NOT_FOUND
from geomatch.cli.match import descriptor_config, show_progress
from geomatch.cli.options import bundled, descriptor_options, given_options


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", required=True,
              help="The picture: .png or .tif, with alpha where no image is, or .jpg.")  # fmt: skip
@bundled(
    "drawing",
    dict,
    click.option("--scene", type=click.Choice(["turning", "plane"]), default="turning", show_default=True,
                 help="A camera that turned where it stood, or a plane such as a wall seen from anywhere."),
    click.option("--projection", type=click.Choice(["spherical", "cylindrical", "plane"]),
                 default="spherical", show_default=True, help="Of a turning camera."),
    click.option("--max-keypoints", type=click.IntRange(min=1), default=3000, show_default=True,
                 help="Per image."),
)  # fmt: skip
@click.option("--detector", metavar="NAME", help="As in `geomatch match`; so are those that follow.")
@click.option("--descriptor", metavar="NAME")
@click.option("--matcher", metavar="NAME")
@descriptor_options()
def panorama(
    images: tuple[Path, ...],
    out: Path,
    drawing: dict[str, Any],
    detector: str | None,
    descriptor: str | None,
    matcher: str | None,
) -> int:
    """Put IMAGES, or those of folders, that overlap into one picture.

    Exit code 0: all are in it, 1: some belong to no other, or there is no picture, 2: bad input or usage.
    """
    from geomatch.describers import choose_parts
    from geomatch.files import natural_order
    from geomatch.images import IMAGE_SUFFIXES, check_image_file
    from geomatch.keypoints import ORIENTED
    from geomatch.panorama import SUFFIXES, stitch

    if out.suffix.lower() not in SUFFIXES or not out.parent.is_dir():
        raise click.UsageError(f"--out {out}: give a {', '.join(SUFFIXES)} file in a folder that exists")
    paths = []
    for path in images:
        inside = natural_order(map(str, path.iterdir())) if path.is_dir() else [str(path)]
        some = [
            Path(name) for name in inside if path.is_file() or Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
        paths += [one for one in some if one.resolve() != out.resolve()]
    for path in paths:
        check_image_file(path)
    config = descriptor_config(descriptor, matcher, detector is None or detector in ORIENTED)
    device, most = given_options().get("device", "auto"), drawing["max_keypoints"]
    made, keypoints, describer = choose_parts(matcher, detector, config, most, device)
    show_progress()
    result = stitch(paths, matcher=made, detector=keypoints, descriptor=describer, **drawing)
    for name, reason in result.left_out.items():
        click.echo(f"left out    {name}: {reason}")
    if result.pixels is None:
        click.echo(f"geomatch: no panorama: {result.reason}", err=True)
        return NOT_FOUND
    result.save(out)
    for pair in result.pairs:
        if not pair.reason:
            click.echo(f"pair        {pair}")
    height, width = result.pixels.shape[:2]
    click.echo(f"wrote       {click.format_filename(out)}, {width}x{height} pixels")
    return NOT_FOUND if result.left_out else FOUND
