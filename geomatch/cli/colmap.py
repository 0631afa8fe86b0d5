"""``geomatch colmap``: databases written and examined."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from geomatch.cli import collection as shared
from geomatch.cli.logs import finish
from geomatch.cli.options import OVERWRITE, bundled, descriptor_options, make_out, refuse_given, run_options

if TYPE_CHECKING:
    from geomatch.colmap import Cameras
    from geomatch.engine import RunContext


@click.group()
def colmap() -> None:
    """Write COLMAP databases, and examine them."""


@colmap.command()
@click.argument("images", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["database", "text", "hloc", "npz"]), default="database",
              show_default=True, help="What TARGET becomes: a file, else a folder.")  # fmt: skip
@shared.source_options
@shared.collection_options
@run_options("geomatch-store beside TARGET")
@bundled("cameras", shared.cameras_of, *shared.CAMERAS)
@bundled(
    "writing",
    dict,
    click.option("--extend", is_flag=True, help="Add to a database that exists."),
    *shared.geometry("colmap", "geomatch", "none"),
)
@descriptor_options(leave_out=("--seed", "--metric"))
def export(
    images: Path,
    target: Path,
    form: str,
    source: shared.Source,
    collection: dict[str, Any],
    context: "RunContext",
    cameras: "Cameras",
    writing: dict[str, Any],
) -> int:
    """Match the images of the folder IMAGES and write TARGET, a COLMAP database.

    Exit code 1: an image or a pair could not be used.
    """
    from geomatch.collection import find_images, match_collection
    from geomatch.colmap import copy_database, export_database, write_correspondences
    from geomatch.colmap.cameras import check_cameras, image_sizes
    from geomatch.colmap.formats.convert import UNREADABLE, check_names
    from geomatch.colmap.sqlite import beyond_correspondences
    from geomatch.colmap.target import check_target
    from geomatch.errors import GeomatchError

    # everything is checked before the matching, which takes long
    copied = source.database if form == "database" and not writing["extend"] else None
    if source:
        source.check(copied is not None)
    if form == "database":
        check_target(target, writing["extend"])
        check_cameras(cameras)
    else:
        refuse_given((*writing, *shared.CAMERA_NAMES), f"on {form} files: --format database")
        if target.exists() and (target.is_file() or any(target.iterdir())):
            raise GeomatchError(f"{target} exists already; give another name")
    if copied:
        del writing["extend"]
        click.echo(copy_database(copied, target, images, **writing, context=context).text())
        return finish("copied", target)
    if source:
        found, failed = source.read(images), False
        context = replace(context, store=None)
        if source.database and (lost := beyond_correspondences(source.database)):
            click.echo(f"skipped     {lost}: only keypoints and matches are taken")
    else:
        folder = find_images(images, None, collection["extraction"].masks)
        image_sizes(images, folder.names, cameras)
        if form != "database":
            check_names(folder.names, form)  # type: ignore[arg-type]
        context = replace(context, store=context.store_at(target.parent / "geomatch-store"))
        result = match_collection(folder, **collection, context=context)
        found, failed = result.correspondences, bool(result.skipped or result.failed_pairs)
        shared.tell(result)
    if form == "database":
        report = export_database(images, found, target, cameras=cameras, **writing, context=context)
        click.echo(report.text())
        failed = failed or bool(report.images_skipped)
    else:
        skipped = write_correspondences(found, target, form, images)  # type: ignore[arg-type]
        for what, count in skipped.items():
            click.echo(f"skipped     {count} {what}")
        failed = failed or UNREADABLE in skipped
    return finish(f"exported {len(found.features)} images", target, whole=not failed)


@colmap.command()
@click.argument("database", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR",
              help="The folder of images, to compare their sizes.")  # fmt: skip
def check(database: Path, images: Path | None) -> int:
    """Examine DATABASE for known mistakes, whoever wrote it; nothing is changed.

    Exit code 1: there are errors.
    """
    from geomatch.colmap.doctor.check import check_database, format_report

    report = check_database(database, images)
    click.echo(format_report(report))
    return finish("no errors" if report.ok else "there are errors", whole=report.ok)


@colmap.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR",
              help="The photographs. [default: what MODEL/summary.json says, or MODEL/images]")  # fmt: skip
@OVERWRITE
@shared.outputs_options
def outputs(model: Path, folder: Path, images: Path | None, forms: tuple[str, ...]) -> int:
    """Write MODEL, a COLMAP model, to FOLDER in forms of other programs."""
    from geomatch.reconstruction.folder import photographs_of
    from geomatch.reconstruction.models import read_model
    from geomatch.reconstruction.outputs import write_outputs

    if not forms:
        raise click.UsageError("nothing is asked for: give --undistort, --to nerfstudio or --to ply")
    files = {"undistorted": "undistorted", "nerfstudio": "transforms.json", "ply": "points.ply"}
    make_out(folder, (files[form] for form in forms))
    source = images or photographs_of(model)
    written = write_outputs(read_model(model), source, folder, forms, progress=True)
    return finish("converted", *written)
