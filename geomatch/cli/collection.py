"""Options of the commands that match a folder, and what they tell of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from geomatch.cli.match import MATCHING, descriptor_config
from geomatch.cli.options import MASKS, Option, bundled, complete_names, refuse_given

if TYPE_CHECKING:
    from geomatch.collection import CollectionResult, Correspondences
    from geomatch.colmap import Cameras


def _collection(given: dict[str, Any]) -> dict[str, Any]:
    """How `geomatch.collection.match_collection` is called."""
    from geomatch.collection import Extraction, Matching, PairSelection
    from geomatch.images import Masks

    detector, matcher = given["detector"], given["matcher"]
    config = descriptor_config(given["descriptor"], matcher, patches=detector != "grid")
    masks = Masks(given["masks"], given["ignore_border"])
    bounds = given["min_similarity"], given["max_ratio"]
    return {
        "extraction": Extraction(detector, config, given["max_keypoints"], masks),
        "pairs": PairSelection(given.get("rules", ()), given.get("max_pairs")),
        "matching": Matching(matcher, None, *bounds, given.get("guided", True)),
    }


DETECTOR = click.option("--detector", metavar="NAME", shell_complete=complete_names,
                        help="sift-large, sift, mixed, superpoint-tiny, superpoint, aliked, grid, orb, ... "
                             "[default: sift-large]")  # fmt: skip
MAX_RATIO = click.option(
    "--max-ratio", type=float, help="Lowe's ratio test of mnn. [default: 0.8 for patches]"
)
_NAMES = ("detector", "descriptor", "matcher", "max_keypoints", "min_similarity", "max_ratio", "masks",
          "ignore_border", "rules", "max_pairs", "guided")  # fmt: skip
feature_options = bundled("features", _collection, DETECTOR, *MATCHING, MAX_RATIO, *MASKS)
"""Those of features and matches alone."""
collection_options = bundled(
    "collection", _collection,
    DETECTOR,
    *MATCHING,
    MAX_RATIO,
    click.option("--pairs", "rules", multiple=True, metavar="RULE",
                 help="exhaustive, sequential:N, retrieval:N, gps:N, file:PATH; may be repeated. "
                      "[default: exhaustive up to 60 images, then retrieval:20]"),
    click.option("--max-pairs", type=click.IntRange(min=1), help="No image is in more pairs than this."),
    click.option("--guided/--no-guided", default=True, show_default=True,
                 help="Keep only matches that agree with one geometry of their pair."),
    *MASKS,
)  # fmt: skip

CAMERAS = (
    click.option("--camera-mode", type=click.Choice(["auto", "single", "per-folder", "per-image"]),
                 default="auto", show_default=True, help="Which images share a camera."),
    click.option("--camera-model", metavar="NAME", default="SIMPLE_RADIAL", show_default=True,
                 help="COLMAP's name; focal lengths come from EXIF where it has them."),
    click.option("--camera-params", metavar="F,CX,CY,...", default="",
                 help="Known parameters, in COLMAP's order and pixels."),
    click.option("--cameras", "known", type=click.Path(path_type=Path), metavar="FILE",
                 help="Known cameras instead: a COLMAP model or its cameras.txt, by image name or size."),
)  # fmt: skip
CAMERA_NAMES = ("camera_mode", "camera_model", "camera_params", "known")


def cameras_of(given: dict[str, Any]) -> "Cameras":
    """The cameras of new images."""
    from geomatch.colmap import Cameras

    if given["known"]:
        refuse_given(CAMERA_NAMES[:3], "with --cameras, which has them")
    return Cameras(*given.values())


class Source(NamedTuple):
    """Keypoints and matches of another program, as the command line names them; false without any."""

    path: Path | None
    features: Path | None
    matches: Path | None

    def __bool__(self) -> bool:
        return any(one is not None for one in self)

    @property
    def database(self) -> Path | None:
        """The database that it is, if it is one."""
        from geomatch.colmap.formats.convert import is_database

        return None if self.features or self.matches or not is_database(self.path) else self.path

    def read(self, images: Path) -> "Correspondences":
        """Keypoints and matches, for the folder of images."""
        from geomatch.colmap import read_correspondences

        return read_correspondences(self.path or Path(), images, self.features, self.matches)

    def check(self, copied: bool) -> None:
        """Refuse options of matching, which have no effect; if a database is ``copied``, of cameras, too."""
        context, names = click.get_current_context(), {*_NAMES, "store"}
        names |= {str(option.name) for option in context.command.params if "dift_" in str(option.name)}
        if context.params.get("verification") != "geomatch":
            names |= {"engine", "workers", "ray_address", "cpus_per_worker", "gpus_per_worker"}
        refuse_given(names, "on keypoints and matches that are there (--from)")
        if copied:
            refuse_given(CAMERA_NAMES, "on a database, which has its cameras (--from)")


source_options = bundled(
    "source", lambda given: Source(**given),
    click.option("--from", "path", type=click.Path(path_type=Path), metavar="PATH",
                 help="Keypoints and matches of another program instead: a database, features.h5 of hloc or "
                      "deep-image-matching, or a folder that `colmap export --format` wrote."),
    click.option("--features", type=click.Path(path_type=Path), metavar="FILE",
                 help="h5 file of features of another name, in the folder PATH or anywhere."),
    click.option("--matches", type=click.Path(path_type=Path), metavar="FILE", help="That of matches."),
)  # fmt: skip

outputs_options = bundled(
    "forms", lambda given: (*given["to"], *["undistorted"] * given["undistort"]),
    click.option("--undistort", is_flag=True,
                 help="Undistorted images with their model, for 3D Gaussian Splatting: undistorted/."),
    click.option("--to", type=click.Choice(["nerfstudio", "ply"]), multiple=True,
                 help="transforms.json with sparse_pc.ply, or points.ply; may be repeated."),
)  # fmt: skip


def geometry(*verifications: str) -> tuple[Option, Option]:
    """The options of two-view geometry; the first verification is the default."""
    return (
        click.option("--seed", type=int, default=0, show_default=True, help="COLMAP's random seed."),
        click.option("--verification", type=click.Choice(verifications), default=verifications[0],
                     show_default=True, help="What finds the two-view geometry of each pair."),
    )  # fmt: skip


def tell(result: "CollectionResult") -> None:
    """Print what was matched, and what was left out and why."""
    from geomatch.engine.run import grouped

    click.echo(result.pairs.text())
    click.echo(f"computed    {result.computed[0]} images, {result.computed[1]} pairs, the rest was there")
    if result.retries:
        click.echo(f"retried     {result.retries} blocks of work")
    for what, names in (("image", result.skipped), ("pair", result.failed_pairs)):
        for line in grouped(names):
            click.echo(f"skipped     {what}: {line}", err=True)
