"""``geomatch demo``."""

from pathlib import Path

import rich_click as click

from geomatch.cli.logs import finish, show_progress
from geomatch.cli.options import OVERWRITE, make_out


@click.command()
@click.option("--out", type=click.Path(file_okay=False, writable=True, path_type=Path), metavar="DIR",
              default=Path("demo-out"), show_default=True,
              help="Folder for the pictures, in rendered/ and photographs/.")  # fmt: skip
@OVERWRITE
def demo(out: Path) -> int:
    """Register a rendered pair, whose homography is known, and two photographs of one building."""
    show_progress()
    import geomatch
    from geomatch.demo import real_pair
    from geomatch.drawing.result import FILES, save_result

    make_out(out, [f"{name}/{file}" for name in ("rendered", "photographs") for file in FILES])
    known, registered = geomatch.bundled_pair(), 0
    written: list[Path] = []
    for name, pair in (("rendered", known), ("photographs", real_pair())):
        result = geomatch.match(pair.image0, pair.image1)
        written += save_result(result, out / name)
        found = result.homography
        registered += bool(found)
        told = f"{found.num_inliers} of {len(result.matches)} matches are inliers"
        if found and pair is known:
            error = geomatch.corner_error(found.matrix, known.homography, result.image0.size)
            told += f"; mean corner error {error:.2f} px against the known homography"
        click.echo(f"{name:11} {told}\n{'':11} {pair.credit}")
    return finish(f"registered {registered} of 2 pairs", *written, whole=registered == 2)
