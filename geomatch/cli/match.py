"""``geomatch match``."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import rich_click as click

from geomatch.cli import options
from geomatch.cli.logs import FOUND, NOT_FOUND, finish, show_progress
from geomatch.errors import require

if TYPE_CHECKING:
    from geomatch.dift import DIFTConfig
    from geomatch.drawing.pair import Style
    from geomatch.images import Reading
    from geomatch.pipeline import Pipeline

GEOMETRIES = (
    "homography", "affine", "similarity", "euclidean", "translation", "auto", "fundamental", "essential",
)  # fmt: skip

MATCHING = (
    click.option("--descriptor", metavar="NAME", shell_complete=options.complete_names,
                 help="A preset (`geomatch models`), a diffusers model (folder or hub id), or own: the "
                      "detector's."),
    click.option("--matcher", metavar="NAME",
                 help="mnn, or one that brings detector and descriptor: aliked+lightglue, disk+lightglue, "
                      "superpoint+lightglue, xfeat+lighterglue. [default: mnn]"),
    click.option("--max-keypoints", type=int, default=3000, show_default=True, help="Per image."),
    click.option("--min-similarity", type=float, help="Drop matches of a lower similarity, or confidence."),
)  # fmt: skip
"""What the command has in common with those of collections."""


class How(NamedTuple):
    """How files become images, and two of them matches and a geometry, as the command line says it."""

    reading: "Reading"
    pipeline: "Callable[[], Pipeline]"
    """Makes it, which loads torch; names and numbers are checked before."""


def _how(given: dict[str, Any]) -> How:
    from geomatch.cameras import read_cameras
    from geomatch.describers import choose_parts
    from geomatch.estimators import Essential, create_estimator
    from geomatch.estimators.models import PLANE_MODELS
    from geomatch.images import Conversion, Masks, Reading
    from geomatch.keypoints import ORIENTED

    converted = Conversion(given.pop("stretch"), given.pop("bands"))
    masks = Masks(given.pop("masks"), given.pop("ignore_border"))
    reading = Reading(given.pop("apply_exif"), converted, masks)
    model, cameras, threshold = given.pop("geometry"), given.pop("cameras"), given["threshold"]
    if model in PLANE_MODELS:
        create_estimator(given["estimator"], threshold, model)
    if cameras is not None:
        if model != "essential":
            raise click.UsageError("--cameras needs --geometry essential")
        model = Essential(*read_cameras(cameras), threshold)
    matcher, detector = given["matcher"], given["detector"]
    config = descriptor_config(given["descriptor"], matcher, detector is None or detector in ORIENTED)
    device = options.given_options().get("device", "auto")
    parts = choose_parts(matcher, detector, config, given["max_keypoints"], device)
    given |= zip(("matcher", "detector", "descriptor"), parts, strict=True)

    def make() -> "Pipeline":
        from geomatch.pipeline import Pipeline

        return Pipeline(model=model, device=device, **given)

    return How(reading, make)


pair_options = options.bundled(
    "how",
    _how,
    click.option("--detector", metavar="NAME", shell_complete=options.complete_names,
                 help="mixed, sift, superpoint-tiny, superpoint, aliked, grid, orb, ... "
                      "[default: mixed]"),
    *MATCHING,
    click.option("--effort", type=click.Choice(["fast", "normal", "high"]), default="normal",
                 show_default=True, help="How many tilted views are tried where plain matching fails."),
    click.option("--estimator", metavar="NAME", default="usac_magsac", show_default=True,
                 help="usac_magsac, ransac, lmeds, rho, ..., kornia, poselib.",
                 shell_complete=options.complete_names),
    click.option("--geometry", type=click.Choice(GEOMETRIES), default="homography", show_default=True,
                 help="What to estimate; auto is the simplest of the first five that explains the "
                      "matches, essential the relative pose of known cameras."),
    click.option("--cameras", type=click.Path(path_type=Path), metavar="FILE",
                 help="cameras.txt of COLMAP, one camera or one for each image. [default: EXIF data]"),
    click.option("--threshold", type=float, default=3.0, show_default=True,
                 help="Largest error of an inlier, in pixels of image 1."),
    click.option("--max-ratio", type=float, help="Lowe's ratio test, of mnn."),
    click.option("--refine-keypoints/--no-refine-keypoints", default=None,
                 help="Move matched grid points to where feature maps agree. [default: yes]"),
    click.option("--refine-homography/--no-refine-homography", default=True, show_default=True,
                 help="Refine the homography by Lucas-Kanade, to a fraction of a pixel."),
    click.option("--stretch", type=click.Choice(["auto", "never", "always"]), default="auto",
                 show_default=True,
                 help="Stretch values of more than 8 bits that use less than a quarter of their range."),
    click.option("--bands", metavar="N[,N,N]", callback=options.parse_numbers,
                 help="Of an image with several bands: one, or red, green and blue, counted from 1."),
    click.option("--apply-exif/--no-apply-exif", default=True, show_default=True,
                 help="Turn images as their EXIF data says."),
    *options.MASKS,
)  # fmt: skip
"""From files to geometry; a command gets `How` as ``how``."""
FORMAT = click.option("--format", "suffix", type=click.Choice(["png", "svg", "pdf"]), default="png",
                      show_default=True, help="Of the pictures; svg and pdf need the extra report.",
                      callback=lambda context, parameter, value: value if value == "png" else (
                          require("matplotlib", "report", "writing SVG and PDF") and value))  # fmt: skip


@click.command()
@click.argument("images", nargs=-1, metavar="IMAGE0 IMAGE1", type=click.Path(path_type=Path))
@options.bundled(
    "output",
    options.in_order,
    click.option("--out", type=click.Path(file_okay=False, writable=True, path_type=Path), metavar="DIR",
                 help="Write result.json, matches.npz, matches.png and overlay.png here; of --pairs "
                      "matches.jsonl."),
    click.option("--style", "styles", multiple=True, default=["checkerboard"], show_default=True,
                 type=click.Choice(["checkerboard", "red-cyan", "blend", "quad"]),
                 help="How overlay.png shows IMAGE0 on IMAGE1; may be given several times."),
    FORMAT,
)  # fmt: skip
@options.OVERWRITE
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON and nothing else.")
@options.bundled(
    "own_masks",
    options.in_order,
    click.option("--mask0", type=click.Path(path_type=Path), metavar="FILE",
                 help="A picture of IMAGE0's size, black where no keypoints are wanted."),
    click.option("--mask1", type=click.Path(path_type=Path), metavar="FILE", help="The same for IMAGE1."),
)  # fmt: skip
@click.option("--pairs", "pair_list", type=click.Path(path_type=Path), metavar="FILE",
              help="Instead of two images a list, two names per line; one line of JSON is written for "
                   "each.")  # fmt: skip
@click.option("--images", "folder", type=click.Path(path_type=Path), metavar="DIR",
              help="Where the names of --pairs lie. [default: the working directory]")  # fmt: skip
@pair_options
@options.descriptor_options()
def match(
    images: tuple[Path, ...],
    output: "tuple[Path | None, tuple[Style, ...], str]",
    as_json: bool,
    own_masks: tuple[Path | None, Path | None],
    pair_list: Path | None,
    folder: Path | None,
    how: How,
) -> int:
    """Register IMAGE0 and IMAGE1: the homography from the first to the second, or another model.

    Exit code 0: found, 1: not found, of a list: a pair could not be matched, 2: bad input or usage.
    """
    out, styles, suffix = output
    if out is None or pair_list is not None:
        options.refuse_given(("styles", "suffix"), "without the pictures of --out")
    if pair_list is not None:
        if images or as_json or any(own_masks):
            raise click.UsageError("--pairs goes without images, --json, --mask0 and --mask1")
        return _match_list(pair_list, folder or Path(), out, how)
    if len(images) != 2 or folder is not None:
        raise click.UsageError("give two images, or --pairs FILE; --images goes with --pairs")
    from geomatch.images import check_image_file

    for path in (*images, *filter(None, own_masks)):
        check_image_file(path)
    show_progress()
    from geomatch.drawing.result import FILES, save_result, summary
    from geomatch.pairs import match_pair

    if out:
        options.make_out(out, FILES)  # better now than after the work
    how.reading.masks.check([path.name for path in images])
    found = [how.reading.file(path, path.name) for path in images]
    one, two = (replace(file, mask=own or file.mask) for file, own in zip(found, own_masks, strict=True))
    result = match_pair(how.pipeline(), one, two, how.reading)
    written = save_result(result, out, styles, suffix) if out else []
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2, allow_nan=False))
    else:
        click.echo(summary(result))
        inliers = f"{result.geometry.num_inliers} of {len(result.matches)} matches are inliers"
        finish(inliers if result.geometry else "not found", *written)
    return FOUND if result.geometry else NOT_FOUND


def _match_list(pair_list: Path, folder: Path, out: Path | None, how: How) -> int:
    """Lines of JSON on standard output, or in a file that a second run goes on with."""
    from geomatch.registration.pair_list import match_list, read_pairs

    pairs = read_pairs(pair_list)
    if out:
        options.make_out(out)
    failed = total = 0
    for line in match_list(pairs, folder, how.pipeline(), how.reading, out and out / "matches.jsonl"):
        total += 1
        failed += line["reason"] is not None
        if out is None:
            click.echo(json.dumps(line, allow_nan=False))
    if out:
        finish(f"matched {total - failed} of {total} pairs", out / "matches.jsonl")
    return NOT_FOUND if failed else FOUND


def descriptor_config(
    descriptor: str | None, matcher: str | None, patches: bool
) -> "DIFTConfig | str | None":
    """The descriptor's settings with the options given; without a descriptor those of the embedded model, in
    patches or densely; None without either. A detector's own descriptors have no options."""
    from geomatch.describers import default_config, dift_config

    given = options.given_options()
    if descriptor == "own" or matcher not in (None, "mnn"):
        if others := sorted(given.keys() - {"device"}):
            raise click.UsageError(f"--{others[0].replace('_', '-')} is for descriptors of DIFT")
        return descriptor
    if descriptor is not None:
        return options.changed_config(dift_config(descriptor))
    if not given:
        return None
    if "model" in given:
        raise click.UsageError("--model needs --descriptor: the settings with which it is used")
    return options.changed_config(default_config(patches))
