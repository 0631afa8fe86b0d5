"""``geomatch match`` and ``geomatch demo``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from geomatch.cli.exit_codes import FOUND, NOT_FOUND
from geomatch.cli.options import changed_config, descriptor_options, given_options

if TYPE_CHECKING:
    from geomatch.dift import DIFTConfig


@click.command()
@click.argument("image0", type=click.Path(path_type=Path))
@click.argument("image1", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Write result.json, matches.npz, matches.png and overlay.png here.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON and nothing else.")
@click.option(
    "--detector",
    metavar="NAME",
    help="mixed, sift, superpoint-tiny, superpoint, grid, orb, ... [default: mixed]",
)
@click.option(
    "--descriptor",
    metavar="NAME",
    help="A preset (`geomatch models`), or a diffusers model: folder or hub id.",
)
@click.option("--estimator", metavar="NAME", default="usac_magsac", show_default=True,
              help="usac_magsac, ransac, lmeds, rho, ..., kornia, poselib.")  # fmt: skip
@click.option("--max-keypoints", type=int, default=3000, show_default=True, help="Per image.")
@click.option("--threshold", type=float, default=3.0, show_default=True,
              help="Largest error of an inlier, in pixels of image 1.")  # fmt: skip
@click.option("--min-similarity", type=float, help="Drop matches of a lower cosine similarity.")
@click.option("--max-ratio", type=float, help="Lowe's ratio test.")
@click.option("--refine-keypoints/--no-refine-keypoints", default=None,
              help="Move matched grid points to where feature maps agree. [default: yes]")  # fmt: skip
@descriptor_options()
@click.option("--refine-homography/--no-refine-homography", default=True, show_default=True,
              help="Estimate again from windows laid over each other to a fraction of a pixel.")  # fmt: skip
@click.option("--apply-exif/--no-apply-exif", default=True, show_default=True,
              help="Turn images as their EXIF data says.")  # fmt: skip
def match(
    image0: Path,
    image1: Path,
    out: Path | None,
    as_json: bool,
    detector: str | None,
    descriptor: str | None,
    estimator: str,
    max_keypoints: int,
    threshold: float,
    min_similarity: float | None,
    max_ratio: float | None,
    refine_keypoints: bool | None,
    refine_homography: bool,
    apply_exif: bool,
) -> int:
    """Register IMAGE0 and IMAGE1: the homography from the first to the second.

    Exit code 0: found, 1: not found, 2: bad input or usage.
    """
    import geomatch
    from geomatch.drawing.result import save_result, summary
    from geomatch.files import make_folder
    from geomatch.keypoints.opencv import FRAMED

    if out:
        make_folder(out)  # better now than after the work
    result = geomatch.match(
        image0,
        image1,
        detector=detector,
        descriptor=descriptor_config(descriptor, patches=detector is None or detector in FRAMED),
        estimator=estimator,
        min_similarity=min_similarity,
        max_ratio=max_ratio,
        max_keypoints=max_keypoints,
        threshold=threshold,
        refine_keypoints=refine_keypoints,
        refine_homography=refine_homography,
        apply_exif=apply_exif,
    )
    written = save_result(result, out) if out else []
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2, allow_nan=False))
    else:
        click.echo(summary(result))
        for path in written:
            click.echo(f"wrote       {click.format_filename(path)}")
    return FOUND if result.homography else NOT_FOUND


def descriptor_config(descriptor: str | None, patches: bool) -> "DIFTConfig | None":
    """The descriptor's settings with the options that were given; None leaves all of it to the package.

    Args:
        descriptor: as given.
        patches: whether options alone are for the embedded model in patches.
    """
    from geomatch.describers import default_config, dift_config

    if descriptor is not None:
        return changed_config(dift_config(descriptor))
    given = given_options()
    if not given:
        return None
    if "model" in given:
        raise click.UsageError("--model needs --descriptor: the settings with which it is used")
    return changed_config(default_config(patches))


@click.command()
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", default=Path("demo-out"),
              show_default=True, help="Folder for the pictures.")  # fmt: skip
def demo(out: Path) -> int:
    """Register the bundled pair and compare with the known truth."""
    import geomatch
    from geomatch.drawing.result import save_result, summary

    pair = geomatch.bundled_pair()
    result = geomatch.match(pair.image0, pair.image1)
    written = save_result(result, out)
    click.echo(summary(result))
    if result.homography:
        error = geomatch.corner_error(result.homography.matrix, pair.homography, result.image0.size)
        click.echo(f"truth       mean corner error {error:.2f} px against the known homography")
    for path in written:
        click.echo(f"wrote       {click.format_filename(path)}")
    click.echo(f"photograph  {pair.credit}")
    return FOUND if result.homography else NOT_FOUND
