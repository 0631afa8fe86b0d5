"""``geomatch colmap outputs``, and its options for other commands."""

from pathlib import Path

import click

from geomatch.cli.options import bundled

outputs_options = bundled(
    "forms", lambda undistort, to: (*to, *["undistorted"] * undistort),
    click.option("--undistort", is_flag=True,
                 help="Undistorted images with their model, for 3D Gaussian Splatting: undistorted/."),
    click.option("--to", type=click.Choice(["nerfstudio", "ply"]), multiple=True,
                 help="transforms.json with sparse_pc.ply, or points.ply; may be repeated."),
)  # fmt: skip
"""The forms of `geomatch.reconstruction.outputs.write_outputs`; the command gets them as ``forms``."""


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR",
              help="The photographs of MODEL. [default: MODEL/images]")  # fmt: skip
@outputs_options
def outputs(model: Path, folder: Path, images: Path | None, forms: tuple[str, ...]) -> None:
    """Write MODEL, a COLMAP model, to FOLDER in forms of other programs."""
    from geomatch.reconstruction.models import read_model
    from geomatch.reconstruction.outputs import write_outputs

    if not forms:
        raise click.UsageError("nothing is asked for: give --undistort, --to nerfstudio or --to ply")
    for path in write_outputs(read_model(model), images or model / "images", folder, forms, progress=True):
        click.echo(f"wrote       {click.format_filename(path)}")
