"""``geomatch colmap`` and ``geomatch reconstruct``."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from geomatch.cli.exit_codes import FOUND, NOT_FOUND
from geomatch.cli.match import descriptor_config
from geomatch.cli.options import chosen_engine, descriptor_options, engine_options

if TYPE_CHECKING:
    from geomatch.collection.match import CollectionResult

Command = TypeVar("Command", bound=Callable[..., Any])


def _add(options: list[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_matching = _add([
    click.option("--detector", metavar="NAME", default="sift-large", show_default=True,
                 help="sift-large, sift, mixed, superpoint-tiny, superpoint, grid, orb, ..."),
    click.option("--descriptor", metavar="NAME",
                 help="A preset (`geomatch models`), or a diffusers model: folder or hub id."),
    click.option("--max-keypoints", type=int, default=3000, show_default=True, help="Per image."),
    click.option("--min-similarity", type=float, help="Drop matches of a lower cosine similarity."),
    click.option("--max-ratio", type=float, help="Lowe's ratio test. [default: 0.8 for patch descriptors]"),
    click.option("--pairs", "rules", multiple=True, metavar="RULE",
                 help="exhaustive, sequential:N, retrieval:N, loop:N, gps:N, file:PATH; may be repeated. "
                      "[default: exhaustive up to 60 images, then retrieval:20]"),
    click.option("--max-pairs", type=click.IntRange(min=1), help="No image is in more pairs than this."),
    click.option("--guided/--no-guided", default=True, show_default=True,
                 help="Keep only matches that agree with one geometry of their pair."),
    click.option("--refine-keypoints", is_flag=True,
                 help="Move grid keypoints to where feature maps agree best; detected ones get worse."),
])  # fmt: skip

_cameras = _add([
    click.option("--camera-mode", type=click.Choice(["auto", "single", "per-folder", "per-image"]),
                 default="auto", show_default=True, help="Which images share a camera."),
    click.option("--camera-model", metavar="NAME", default="SIMPLE_RADIAL", show_default=True,
                 help="Of COLMAP; focal lengths come from EXIF where it has them."),
    click.option("--camera-params", metavar="F,CX,CY,...", default="",
                 help="Instead, in COLMAP's order and pixels."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of COLMAP's random choices."),
])  # fmt: skip


def _verification(*choices: str) -> Callable[[Command], Command]:
    return click.option("--verification", type=click.Choice(choices), default=choices[0], show_default=True,
                        help="Who finds the two-view geometry of each pair.")  # fmt: skip


def _store(default: str) -> Callable[[Command], Command]:
    return click.option("--store", metavar="PLACE",
                        help="For features and matches: a folder, or a URL such as s3://bucket/folder. "
                             f"[default: {default}]")  # fmt: skip


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
@_store("geomatch-store beside TARGET")
@_matching
@engine_options
@_cameras
@_verification("colmap", "geomatch", "none")
@descriptor_options(leave_out=("--seed", "--metric"))
def export(
    images: Path,
    target: Path,
    form: str,
    source: Path | None,
    extend: bool,
    store: str | None,
    detector: str,
    descriptor: str | None,
    max_keypoints: int,
    min_similarity: float | None,
    max_ratio: float | None,
    rules: tuple[str, ...],
    max_pairs: int | None,
    guided: bool,
    refine_keypoints: bool,
    camera_mode: str,
    camera_model: str,
    camera_params: str,
    verification: str,
    seed: int,
) -> int:
    """Match the images of the folder IMAGES and write TARGET, a COLMAP database.

    Exit code 1: something was skipped.
    """
    from geomatch.collection import find_images, match_collection
    from geomatch.colmap import export_database, read_correspondences, write_correspondences
    from geomatch.colmap.cameras import check_camera, image_sizes
    from geomatch.colmap.target import check_target
    from geomatch.errors import GeomatchError
    from geomatch.store import Store

    # all that can be known is asked before the matching, which takes long
    if extend and form != "database":
        raise click.UsageError("--extend is for databases only")
    if form == "database":
        check_target(target, extend)
        check_camera(camera_model, camera_params)
    elif target.exists() and (target.is_file() or any(target.iterdir())):
        raise GeomatchError(f"{target} exists already; give another name")
    place = Store.at(store or target.parent / "geomatch-store")
    lost: dict[str, str] = {}
    with chosen_engine() as engine:
        if source:
            found = read_correspondences(source, images)
        else:
            config = descriptor_config(descriptor, patches=detector != "grid")
            folder = find_images(images)
            image_sizes(images, folder.names, camera_mode)  # type: ignore[arg-type]
            result = match_collection(
                folder,
                place,
                rules=rules,
                max_pairs=max_pairs,
                detector=detector,
                descriptor=config,
                min_similarity=min_similarity,
                max_ratio=max_ratio,
                max_keypoints=max_keypoints,
                guided=guided,
                refine_keypoints=refine_keypoints,
                engine=engine,
            )
            found, lost = result.correspondences, result.skipped | result.lost_pairs
            _tell(result)
        if form == "database":
            report = export_database(
                images,
                found,
                target,
                camera_mode=camera_mode,  # type: ignore[arg-type]
                camera_model=camera_model,
                camera_params=camera_params,
                verification=verification,  # type: ignore[arg-type]
                extend=extend,
                seed=seed,
                engine=engine,
                store=None if source else place,
            )
            click.echo(report.text())
            left_out = {**report.skipped, **report.images_skipped}
        else:
            counted = write_correspondences(found, target, form, images)  # type: ignore[arg-type]
            for what, count in counted.items():
                click.echo(f"skipped     {count} {what}")
            left_out = dict.fromkeys(counted, "")
    click.echo(f"wrote       {click.format_filename(target)}")
    return NOT_FOUND if lost or left_out else FOUND


def _tell(result: "CollectionResult") -> None:
    from geomatch.engine.run import grouped

    click.echo(result.pairs.text())
    click.echo(f"computed    {result.computed[0]} images, {result.computed[1]} pairs, the rest was there")
    if result.retries:
        click.echo(f"retried     {result.retries} blocks of work")
    for what, names in (("image", result.skipped), ("pair", result.lost_pairs)):
        for line in grouped(names):
            click.echo(f"skipped     {what}: {line}", err=True)


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


@click.command()
@click.argument("images", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--mapper", type=click.Choice(["incremental", "global"]), default="incremental",
              show_default=True, help="Of COLMAP.")  # fmt: skip
@_store("store in OUT")
@_matching
@engine_options
@_cameras
@_verification("colmap", "geomatch")
@descriptor_options(leave_out=("--seed", "--metric"))
def reconstruct(
    images: Path,
    out: Path,
    mapper: str,
    store: str | None,
    detector: str,
    descriptor: str | None,
    max_keypoints: int,
    min_similarity: float | None,
    max_ratio: float | None,
    rules: tuple[str, ...],
    max_pairs: int | None,
    guided: bool,
    refine_keypoints: bool,
    camera_mode: str,
    camera_model: str,
    camera_params: str,
    verification: str,
    seed: int,
) -> int:
    """From IMAGES, a folder of photographs, to a COLMAP model in OUT.

    Writes database.db, sparse/, summary.json and model.html. Exit code 1: no
    model.
    """
    from geomatch.colmap import reconstruct as run

    with chosen_engine() as engine:
        result = run(
            images,
            out,
            mapper=mapper,  # type: ignore[arg-type]
            rules=rules,
            max_pairs=max_pairs,
            detector=detector,
            descriptor=descriptor_config(descriptor, patches=detector != "grid"),
            min_similarity=min_similarity,
            max_ratio=max_ratio,
            max_keypoints=max_keypoints,
            guided=guided,
            refine_keypoints=refine_keypoints,
            camera_mode=camera_mode,  # type: ignore[arg-type]
            camera_model=camera_model,
            camera_params=camera_params,
            verification=verification,  # type: ignore[arg-type]
            seed=seed,
            store=store,
            engine=engine,
        )
    _tell(result.matching)
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
