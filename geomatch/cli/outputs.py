"""``geomatch colmap outputs``, and `outputs_options`, which give other commands ``forms`` of outputs, too."""

from pathlib import Path

import rich_click as click

from geomatch.cli.logs import finish
from geomatch.cli.options import bundled

outputs_options = bundled(
    "forms", lambda undistort, to: (*to, *["undistorted"] * undistort),
    click.option("--undistort", is_flag=True,
                 help="Undistorted images with their model, for 3D Gaussian Splatting: undistorted/."),
    click.option("--to", type=click.Choice(["nerfstudio", "ply"]), multiple=True,
                 help="transforms.json with sparse_pc.ply, or points.ply; may be repeated."),
)  # fmt: skip


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR",
              help="The photographs. [default: what MODEL/summary.json says, or MODEL/images]")  # fmt: skip
@outputs_options
def outputs(model: Path, folder: Path, images: Path | None, forms: tuple[str, ...]) -> None:
    """Write MODEL, a COLMAP model, to FOLDER in forms of other programs."""
    from geomatch.reconstruction.folder import photographs_of
    from geomatch.reconstruction.models import read_model
    from geomatch.reconstruction.outputs import write_outputs

    if not forms:
        raise click.UsageError("nothing is asked for: give --undistort, --to nerfstudio or --to ply")
    source = images or photographs_of(model)
    finish("converted", *write_outputs(read_model(model), source, folder, forms, progress=True))
