"""``geomatch register``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from geomatch.cli.logs import finish
from geomatch.cli.match import How, pair_options
from geomatch.cli.options import bundled, descriptor_options, make_out

if TYPE_CHECKING:
    from geomatch.registration.register import Registration


@click.command()
@click.argument("images", nargs=-1, metavar="REFERENCE IMAGE...", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", required=True,
              help="Folder for the pictures, tables and pages; a second run goes on there.")  # fmt: skip
@click.option("--pairs", "pair_list", type=click.Path(path_type=Path), metavar="FILE",
              help="Instead of images a list of lines REFERENCE IMAGE.")  # fmt: skip
@click.option("--images", "folder", type=click.Path(path_type=Path), metavar="DIR",
              help="Where the names of --pairs lie. [default: the working directory]")  # fmt: skip
@click.option("--sequence", is_flag=True,
              help="Register each image to those before it, in natural order of the names, and all of them "
                   "onto the first, without drift.")  # fmt: skip
@bundled(
    "output",
    dict,
    click.option("--interpolation", type=click.Choice(["nearest", "linear", "cubic"]), default="linear",
                 show_default=True, help="Of values between pixels."),
    click.option("--canvas", type=click.Choice(["reference", "union"]), default="reference",
                 show_default=True, help="The reference's frame, or one with room for both."),
    click.option("--inverse", is_flag=True, help="Warp the reference onto each image."),
    click.option("--format", "suffix", type=click.Choice(["png", "tif"]),
                 help="[default: png, tif for floats, more bands and maps]"),
    click.option("--pages/--no-pages", default=True, show_default=True,
                 help="Write index.html, where image and reference flicker."),
)  # fmt: skip
@pair_options
@descriptor_options()
def register(
    images: tuple[Path, ...],
    out: Path,
    pair_list: Path | None,
    folder: Path | None,
    sequence: bool,
    output: dict[str, Any],
    how: How,
) -> int:
    """Warp each IMAGE onto REFERENCE, at full size and depth; a folder stands for its images.

    Writes warped/, registrations.csv and .json, matches.jsonl and index.html.
    Exit code 1: an image could not be registered.
    """
    if (pair_list is None) == (not images) or (folder and not pair_list) or (sequence and pair_list):
        raise click.UsageError("give images, or --pairs FILE; --images goes with --pairs, --sequence without")
    from geomatch.registration.pair_list import read_pairs
    from geomatch.registration.pictures import Output
    from geomatch.registration.register import register as run
    from geomatch.registration.register import register_pairs
    from geomatch.registration.stack import register_sequence

    make_out(out)
    told: Any = {"pipeline": how.pipeline(), "reading": how.reading, "output": Output(**output)}
    if pair_list is not None:
        done = register_pairs(read_pairs(pair_list), folder or Path(), out, **told)
    elif sequence:
        done = register_sequence(images, out, **told)
    else:
        done = run(images[0], images[1:], out, **told)
    return _told(done, out, output["pages"])


def _told(done: "list[Registration]", out: Path, pages: bool) -> int:
    names = [click.format_filename(one.image) for one in done]
    for name, one in zip(names, done, strict=True):
        line = f"{name:{max(map(len, names))}}  "
        if one:
            worst = "" if one.corner_deviation is None else f", corners within {one.corner_deviation:.2g} px"
            score = "" if one.score is None else f", score {one.score:.2f}"
            line += f"{one.model}, {one.inliers} of {one.matches} matches{worst}{score}"
            line += "".join(f"; {remark}" for remark in one.remarks)
        else:
            line += f"not registered: {click.format_filename(str(one.reason))}"
        click.echo(line)
    failed = sum(not one for one in done)
    kept = ("registrations.csv", "warped", *(["index.html"] if pages else []))
    written = [out / name for name in kept if (out / name).exists()]
    return finish(f"registered {len(done) - failed} of {len(done)} images", *written, whole=not failed)
