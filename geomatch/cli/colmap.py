"""``geomatch colmap`` and ``geomatch reconstruct``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geomatch.cli.exit_codes import FOUND, NOT_FOUND
from geomatch.cli.match import MATCHING, descriptor_config
from geomatch.cli.options import MASKS, Option, bundled, descriptor_options, run_options

if TYPE_CHECKING:
    from geomatch.collection import CollectionResult
    from geomatch.colmap import Cameras
    from geomatch.engine import RunContext


def _collection(
    detector: str | None,
    descriptor: str | None,
    matcher: str | None,
    max_keypoints: int,
    rules: tuple[str, ...],
    max_pairs: int | None,
    min_similarity: float | None,
    max_ratio: float | None,
    guided: bool,
    masks: Path | None,
    ignore_border: int,
) -> dict[str, Any]:
    """How `geomatch.collection.match_collection` is called."""
    from geomatch.collection import Extraction, Matching, PairSelection
    from geomatch.images import Masks

    config = descriptor_config(descriptor, matcher, patches=detector != "grid")
    return {
        "extraction": Extraction(detector, config, max_keypoints, Masks(masks, ignore_border)),
        "pairs": PairSelection(rules, max_pairs),
        "matching": Matching(matcher, None, min_similarity, max_ratio, guided),
    }


_collection_options = bundled(
    "collection", _collection,
    click.option("--detector", metavar="NAME",
                 help="sift-large, sift, mixed, superpoint-tiny, superpoint, aliked, grid, orb, ... "
                      "[default: sift-large]"),
    *MATCHING,
    click.option("--max-ratio", type=float, help="Lowe's ratio test of mnn. [default: 0.8 for patches]"),
    click.option("--pairs", "rules", multiple=True, metavar="RULE",
                 help="exhaustive, sequential:N, retrieval:N, gps:N, file:PATH; may be repeated. "
                      "[default: exhaustive up to 60 images, then retrieval:20]"),
    click.option("--max-pairs", type=click.IntRange(min=1), help="No image is in more pairs than this."),
    click.option("--guided/--no-guided", default=True, show_default=True,
                 help="Keep only matches that agree with one geometry of their pair."),
    *MASKS,
)  # fmt: skip

_CAMERAS = (
    click.option("--camera-mode", type=click.Choice(["auto", "single", "per-folder", "per-image"]),
                 default="auto", show_default=True, help="Which images share a camera."),
    click.option("--camera-model", metavar="NAME", default="SIMPLE_RADIAL", show_default=True,
                 help="COLMAP's name; focal lengths come from EXIF where it has them."),
    click.option("--camera-params", metavar="F,CX,CY,...", default="",
                 help="Known parameters, in COLMAP's order and pixels."),
)  # fmt: skip


def _cameras(camera_mode: str, camera_model: str, camera_params: str) -> "Cameras":
    from geomatch.colmap import Cameras

    return Cameras(camera_mode, camera_model, camera_params)  # type: ignore[arg-type]


def _geometry(*verifications: str) -> tuple[Option, Option]:
    return (
        click.option("--seed", type=int, default=0, show_default=True, help="COLMAP's random seed."),
        click.option("--verification", type=click.Choice(verifications), default=verifications[0],
                     show_default=True, help="What finds the two-view geometry of each pair."),
    )  # fmt: skip


def _writing(
    camera_mode: str, camera_model: str, camera_params: str, verification: str, seed: int
) -> dict[str, Any]:
    """How `geomatch.colmap.export_database` is called."""
    cameras = _cameras(camera_mode, camera_model, camera_params)
    return {"cameras": cameras, "verification": verification, "seed": seed}


@click.group()
def colmap() -> None:
    """Write COLMAP databases, and examine them."""


@colmap.command()
@click.argument("images", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["database", "text", "hloc", "npz"]), default="database",
              show_default=True, help="What TARGET becomes: a file, else a folder.")  # fmt: skip
@click.option("--from", "source", type=click.Path(path_type=Path), metavar="PATH",
              help="Keypoints and matches of another program instead: a database, features.h5 of hloc, "
                   "or a folder that --format wrote.")  # fmt: skip
@click.option("--extend", is_flag=True, help="Add to a database that exists.")
@_collection_options
@run_options("geomatch-store beside TARGET")
@bundled("writing", _writing, *_CAMERAS, *_geometry("colmap", "geomatch", "none"))
@descriptor_options(leave_out=("--seed", "--metric"))
def export(
    images: Path,
    target: Path,
    form: str,
    source: Path | None,
    extend: bool,
    collection: dict[str, Any],
    context: "RunContext",
    writing: dict[str, Any],
) -> int:
    """Match the images of the folder IMAGES and write TARGET, a COLMAP database.

    Exit code 1: an image or a pair could not be used.
    """
    from geomatch.collection import find_images, match_collection
    from geomatch.colmap import export_database, read_correspondences, write_correspondences
    from geomatch.colmap.cameras import check_cameras, image_sizes
    from geomatch.colmap.formats.convert import UNREADABLE
    from geomatch.colmap.target import check_target
    from geomatch.errors import GeomatchError

    # everything is checked before the matching, which takes long
    if extend and form != "database":
        raise click.UsageError("--extend is for databases only")
    if form == "database":
        check_target(target, extend)
        check_cameras(writing["cameras"])
    elif target.exists() and (target.is_file() or any(target.iterdir())):
        raise GeomatchError(f"{target} exists already; give another name")
    remade: list[str] = []
    if source:
        found, failed = read_correspondences(source, images), False
        context = replace(context, store=None)
    else:
        folder = find_images(images, None, collection["extraction"].masks)
        image_sizes(images, folder.names, writing["cameras"].mode)
        context = replace(context, store=context.store_at(target.parent / "geomatch-store"))
        result = match_collection(folder, **collection, context=context)
        found, remade = result.correspondences, result.remade
        failed = bool(result.skipped or result.failed_pairs)
        _tell(result)
    if form == "database":
        report = export_database(images, found, target, **writing, extend=extend, context=context)
        click.echo(report.text())
        failed = failed or bool(report.images_skipped)
    else:
        skipped = write_correspondences(found, target, form, images)  # type: ignore[arg-type]
        for what, count in skipped.items():
            click.echo(f"skipped     {count} {what}")
        failed = failed or UNREADABLE in skipped
    _tell_remade(remade)
    click.echo(f"wrote       {click.format_filename(target)}")
    return NOT_FOUND if failed else FOUND


def _tell(result: "CollectionResult") -> None:
    from geomatch.engine.run import grouped

    click.echo(result.pairs.text())
    click.echo(f"computed    {result.computed[0]} images, {result.computed[1]} pairs, the rest was there")
    if result.retries:
        click.echo(f"retried     {result.retries} blocks of work")
    for what, names in (("image", result.skipped), ("pair", result.failed_pairs)):
        for line in grouped(names):
            click.echo(f"skipped     {what}: {line}", err=True)


def _tell_remade(names: list[str]) -> None:
    from geomatch.engine.run import grouped

    for line in grouped(dict.fromkeys(names, "features were damaged in the store")):
        click.echo(f"made again  {line}")


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
    return FOUND if report.ok else NOT_FOUND


@colmap.command()
@click.argument("database", type=click.Path(path_type=Path))
def scores(database: Path) -> None:
    """Print how well one plane registers each pair of DATABASE, as CSV; nothing is changed.

    The score is that of `geomatch match`: low for scenes with depth, too.
    """
    import csv
    import sys

    from geomatch.colmap.pair_scores import COLUMNS, pair_scores

    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows(pair_scores(database))


@click.command()
@click.argument("images", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@_collection_options
@run_options("store in OUT")
@bundled("cameras", _cameras, *_CAMERAS)
@bundled(
    "mapping",
    dict,
    click.option("--mapper", type=click.Choice(["incremental", "global"]), default="incremental",
                 show_default=True, help="COLMAP's mapper."),
    *_geometry("colmap", "geomatch"),
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
    from geomatch.colmap import Mapping
    from geomatch.colmap import reconstruct as run

    result = run(images, out, **collection, cameras=cameras, mapping=Mapping(**mapping), context=context)
    _tell(result.matching)
    _tell_remade(result.matching.remade)
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
