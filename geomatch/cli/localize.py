"""``geomatch localize``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from geomatch.cli.collection import feature_options
from geomatch.cli.logs import finish
from geomatch.cli.options import descriptor_options, run_options

if TYPE_CHECKING:
    from geomatch.engine import RunContext


@click.command()
@click.argument("queries", nargs=-1, required=True, metavar="QUERY...", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR",
              help="The model's photographs. [default: as MODEL says, or MODEL/images]")  # fmt: skip
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="For the poses; a second run goes on there. [default: MODEL/localized]")  # fmt: skip
@click.option("--nearest", type=click.IntRange(min=1), default=20, show_default=True, metavar="N",
              help="Images of the model that each query is matched with, those most alike.")  # fmt: skip
@feature_options
@run_options("that of the run, or MODEL/localized/store")
@descriptor_options(leave_out=("--seed", "--metric"))
def localize(
    queries: tuple[Path, ...],
    model: Path,
    images: Path | None,
    out: Path | None,
    nearest: int,
    features: dict[str, Any],
    context: "RunContext",
) -> int:
    """Find where each QUERY was taken: its pose in MODEL.

    QUERY is an image or a folder; MODEL a folder that reconstruct
    wrote, or any COLMAP model. Writes results.json, poses.txt (name, quaternion,
    translation), images.txt and cameras.txt. Exit code 1: a query has no pose.
    """
    from geomatch.reconstruction import localize as run

    del features["pairs"]
    done = run(queries, model, images, out, nearest=nearest, context=context, **features)
    for name, one in done.items():
        text = f"not localized: {one.reason}"
        if one:
            text = f"{one.inliers} of {one.num_matches} matches, rotation within {one.rotation_deviation:.2g}"
            text += f" degrees, centre within {one.centre_percent:.2g} % of the model's extent"
        click.echo(f"{click.format_filename(name):{max(map(len, done))}}  {text}")
    found = sum(map(bool, done.values()))
    written = out or model / "localized"
    return finish(f"localized {found} of {len(done)} images", written, whole=found == len(done))
