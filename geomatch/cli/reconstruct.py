"""``geomatch reconstruct``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geomatch.cli.collection import CAMERAS, cameras_of, collection_options, geometry, tell, tell_remade
from geomatch.cli.exit_codes import FOUND, NOT_FOUND
from geomatch.cli.options import bundled, descriptor_options, run_options

if TYPE_CHECKING:
    from geomatch.colmap import Cameras
    from geomatch.engine import RunContext


@click.command()
@click.argument("images", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@collection_options
@run_options("store in OUT")
@bundled("cameras", cameras_of, *CAMERAS)
@bundled(
    "mapping",
    dict,
    click.option("--mapper", type=click.Choice(["incremental", "global"]), default="incremental",
                 show_default=True, help="COLMAP's mapper."),
    *geometry("colmap", "geomatch"),
)  # fmt: skip
@descriptor_options(leave_out=("--seed", "--metric"))
def reconstruct(
    images: Path,
    out: Path,
    collection: dict[str, Any],
    context: "RunContext",
    cameras: "Cameras",
    mapping: dict[str, Any],
) -> int:
    """From IMAGES, a folder of photographs, to a COLMAP model in OUT.

    Writes database.db, sparse/, summary.json and model.html. Exit code 1: no
    model.
    """
    from geomatch.reconstruction import Mapping
    from geomatch.reconstruction import reconstruct as run

    result = run(images, out, **collection, cameras=cameras, mapping=Mapping(**mapping), context=context)
    tell(result.matching)
    tell_remade(result.matching.remade)
    click.echo(result.export.text())
    for number, model in enumerate(result.models):
        click.echo(
            f"model {number}     {model.registered} of {result.num_images} images, {model.points} points, "
            f"mean track length {model.mean_track_length:.2f}, "
            f"mean reprojection error {model.mean_reprojection_error:.3f} px"
        )
    if not result:
        click.echo(f"no model    {result.reason}")
    spent = ", ".join(f"{stage} {value:.1f}" for stage, value in result.seconds.items())
    click.echo(f"seconds     {sum(result.seconds.values()):.1f} ({spent})")
    written = ["database.db", "summary.json", *(["sparse", "model.html"] if result else [])]
    for name in written:
        click.echo(f"wrote       {click.format_filename(out / name)}")
    return FOUND if result else NOT_FOUND
