"""``geomatch reconstruct`` and ``geomatch triangulate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from geomatch.cli import collection as shared
from geomatch.cli.logs import finish
from geomatch.cli.options import bundled, descriptor_options, refuse_given, run_options

if TYPE_CHECKING:
    from geomatch.colmap import Cameras
    from geomatch.engine import RunContext
    from geomatch.reconstruction import Mapping

_REFINE = click.option("--refine-tracks/--no-refine-tracks", "refine", default=True, show_default=True,
                       help="Align the observations of each point to parts of a pixel.")  # fmt: skip


@click.command()
@click.argument("images", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@shared.source_options
@shared.collection_options
@run_options("store in OUT")
@bundled("cameras", shared.cameras_of, *shared.CAMERAS)
@bundled(
    "mapping",
    dict,
    click.option("--mapper", type=click.Choice(["incremental", "global"]), default="incremental",
                 show_default=True, help="COLMAP's mapper."),
    *shared.geometry("colmap", "geomatch"),
    click.option("--extend", "start", type=click.Path(path_type=Path), metavar="MODEL",
                 help="Add images to a COLMAP model, in its frame; its points are made anew."),
    click.option("--fix-poses", is_flag=True, help="Keep poses and cameras of MODEL exactly."),
    click.option("--fix-intrinsics", is_flag=True, help="Keep all cameras as they are given."),
    click.option("--gps", "positions", is_flag=True,
                 help="Hold cameras near their EXIF positions; the model is in metres, x east, y north."),
    click.option("--rigs", type=click.Path(path_type=Path), metavar="FILE",
                 help="COLMAP's rig_config.json: cameras that move together."),
    _REFINE,
)  # fmt: skip
@shared.outputs_options
@descriptor_options(leave_out=("--seed", "--metric"))
def reconstruct(
    images: Path,
    out: Path,
    source: shared.Source,
    collection: dict[str, Any],
    context: "RunContext",
    cameras: "Cameras",
    mapping: dict[str, Any],
    forms: tuple[str, ...],
) -> int:
    """From IMAGES, a folder of photographs, to a COLMAP model in OUT.

    Writes database.db, sparse/, summary.json and model.html. Exit code 1: no
    model.
    """
    from geomatch.reconstruction import Mapping

    if mapping["start"] is None:
        refuse_given(("fix_poses",), "without --extend")
    return _run(images, out, source, collection, cameras, Mapping(**mapping), forms, context)


@click.command()
@click.argument("images", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--poses", "start", type=click.Path(path_type=Path), metavar="MODEL", required=True,
              help="COLMAP model, or transforms.json of nerfstudio.")  # fmt: skip
@shared.source_options
@shared.collection_options
@run_options("store in OUT")
@bundled("mapping", dict, *shared.geometry("colmap", "geomatch"), _REFINE)
@shared.outputs_options
@descriptor_options(leave_out=("--seed", "--metric"))
def triangulate(
    images: Path,
    out: Path,
    start: Path,
    source: shared.Source,
    collection: dict[str, Any],
    context: "RunContext",
    mapping: dict[str, Any],
    forms: tuple[str, ...],
) -> int:
    """Points in OUT from IMAGES whose poses and cameras are known.

    Cameras, poses and the numbers of images stay as they are in MODEL; images
    without a pose are left out. Writes what `geomatch reconstruct` does. Exit
    code 1: no points.
    """
    from geomatch.colmap.cameras import CAMERAS as UNUSED
    from geomatch.reconstruction import Mapping

    known = Mapping("triangulation", start=start, fix_poses=True, fix_intrinsics=True, **mapping)
    return _run(images, out, source, collection, UNUSED, known, forms, context)


def _run(
    images: Path,
    out: Path,
    source: shared.Source,
    collection: dict[str, Any],
    cameras: "Cameras",
    mapping: "Mapping",
    forms: tuple[str, ...],
    context: "RunContext",
) -> int:
    from geomatch.collection import CollectionOptions
    from geomatch.engine.run import grouped
    from geomatch.reconstruction import reconstruct as run

    if source:
        source.check(source.database is not None)
    given = (source.database or source.read(images)) if source else CollectionOptions(**collection)
    result = run(images, out, given, cameras=cameras, mapping=mapping, outputs=forms, context=context)
    if result.matching:
        shared.tell(result.matching)
    for line in grouped(result.left_out):
        click.echo(f"skipped     image: {line}", err=True)
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
    most = max((model.registered for model in result.models), default=0)
    return finish(f"placed {most} of {result.num_images} images", *result.written, whole=bool(result))
