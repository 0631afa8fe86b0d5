"""``geomatch colmap``: databases written and examined."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from geomatch.cli import collection as shared
from geomatch.cli.exit_codes import FOUND, NOT_FOUND
from geomatch.cli.logs import finish
from geomatch.cli.options import bundled, descriptor_options, refuse_given, run_options
from geomatch.cli.outputs import outputs

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
    remade: list[str] = []
    if copied:
        del writing["extend"]
        click.echo(copy_database(copied, target, images, **writing, context=context).text())
        finish("copied", target)
        return FOUND
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
        found, remade = result.correspondences, result.remade
        failed = bool(result.skipped or result.failed_pairs)
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
    shared.tell_remade(remade)
    finish(f"exported {len(found.features)} images", target)
    return NOT_FOUND if failed else FOUND


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
    finish("no errors" if report.ok else "there are errors")
    return FOUND if report.ok else NOT_FOUND


colmap.add_command(outputs)
