"""``geomatch track``."""

from pathlib import Path

import rich_click as click

from geomatch.cli.logs import finish
from geomatch.cli.options import DENSE, OVERWRITE, dense_config, descriptor_options, make_out, parse_points


@click.command()
@click.argument("video", type=click.Path(path_type=Path))
@click.option("--points", multiple=True, callback=parse_points, metavar="X,Y",
              help="Pixel of the first frame to follow; may be given several times.")  # fmt: skip
@click.option("--mask", type=click.Path(path_type=Path), metavar="PNG",
              help="Objects of the first frame to follow: grey or palette values number them, 0 is none, "
              "black and white is one.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", required=True,
              help="Write overlay.mp4, tracks.csv and masks/ here; store/ caches what is done.")  # fmt: skip
@OVERWRITE
@click.option("--frames", type=click.IntRange(min=1), help="Stop after so many. [default: all]")
@click.option("--cells", type=click.IntRange(min=1), help="Along the short side of the grid of labels.")
@DENSE
@descriptor_options(leave_out=("--metric",))
def track(
    video: Path,
    points: list[tuple[float, float]],
    mask: Path | None,
    out: Path,
    frames: int | None,
    cells: int | None,
    descriptor: str,
) -> None:
    """Follow --points or the objects of --mask through VIDEO, a file or a folder of images.

    Where labels are looked for, and the default of --cells, depend on the
    model: the paper's rules for Stable Diffusion and ADM, measured ones for
    dift-tiny. A run that was interrupted resumes where it was.
    """
    if bool(points) == (mask is not None):
        raise click.UsageError("give either --points X,Y (once or more often) or --mask PNG")
    import numpy as np

    from geomatch.describers import dift_config
    from geomatch.dift import cached_extractor
    from geomatch.progress import progress_bar
    from geomatch.store import Store
    from geomatch.video.frames import frames_of, video_properties
    from geomatch.video.masks import load_mask
    from geomatch.video.track import default_propagation, track_mask, track_points
    from geomatch.video.writer import save_tracks

    config = dense_config(descriptor)
    rules, usual = default_propagation(dift_config(descriptor))  # --model may rename it
    marks = load_mask(mask) if mask else None
    images = frames_of(video, frames)
    count, rate = video_properties(video, frames)
    make_out(out, ("overlay.mp4", "tracks.csv"))
    given = rules, cells or usual, Store.at(out / "store")
    extractor, shown = cached_extractor(config), progress_bar(images, "frames", "frame", count)
    paths, number, seen = save_tracks(
        track_points(extractor, shown, np.array(points), *given) if marks is None
        else track_mask(extractor, shown, marks, *given), out, rate,
    )  # fmt: skip
    what = f"{len(seen)} {'objects' if mask else 'points'} through {number} frames"
    finish(f"followed {what}, {seen.count(number)} of them in every frame,", *paths)
