"""``geomatch data``: data sets to measure on."""

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from geomatch.cli.logs import finish
from geomatch.cli.options import OVERWRITE, make_out

if TYPE_CHECKING:
    from geomatch.benchmarks.tasks.homography.data import Style


@click.group()
def data() -> None:
    """Get data sets."""


@data.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("photos", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed of light and homographies.")
@click.option("--strong", "style", flag_value="strong",
              help="Stronger light, also in v_NAME, and any rotation in views 4 to 6.")  # fmt: skip
@click.option("--oblique", "style", flag_value="oblique", help="That light, and in v_NAME tilts of 3 to 5.5.")
@OVERWRITE
def synthetic(out: Path, photos: tuple[Path, ...], seed: int, style: "Style | None") -> None:
    """Make sequences in OUT from PHOTOS: i_NAME by changed light, v_NAME by homographies."""
    from geomatch.benchmarks.tasks.homography.data import make_synthetic, sequence_names

    make_out(out, (kind + name for name in sequence_names(photos) for kind in ("i_", "v_")))
    found = make_synthetic(photos, out, seed, style or "mild")
    finish(f"made sequences of {len(photos)} photographs, {len(found.units)} are there,", out)


def _add_release(name: str, title: str, size: str) -> None:
    @data.command(
        name, help=f"Download {title} and unpack it into OUT.\n\nExit code 1: it is not the whole release."
    )
    @click.argument("out", type=click.Path(path_type=Path))
    @click.option("--archive", "archives", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
                  help=f"A downloaded file of the release; may be repeated. [default: download {size}]",
                  )  # fmt: skip
    def command(out: Path, archives: tuple[Path, ...]) -> int:
        from geomatch.benchmarks.harness.download import RELEASES, fetch_release
        from geomatch.benchmarks.harness.task import find_task

        for licence in dict.fromkeys(file.licence for file, _ in RELEASES[name].files):
            click.echo(f"licence     {licence}")
        folder = fetch_release(RELEASES[name], out, archives)
        task = find_task(name)
        found = task.read(folder.absolute(), None)
        for missing, reason in found.broken.items():
            click.echo(f"missing     {missing}: {reason}", err=True)
        if warning := task.warning(found):
            click.echo(f"warning     {warning}", err=True)
        place = click.format_filename(folder)
        return finish(f"{title} is present in {place}, read", whole=found.complete)


for _name, _title, _size in (
    ("hpatches", "the HPatches sequences", "1.3 GB"),
    ("evd", "the Extreme View Dataset", "28 MB"),
    ("wxbs", "WxBS v1.1", "40 MB"),
    ("megadepth", "MegaDepth-1500", "its six files"),
    ("spair", "SPair-71k", "227 MB"),
    ("willow", "PF-WILLOW", "its two files"),
    ("cub", "CUB-200-2011", "1.2 GB"),
    ("davis", "DAVIS-2017 at 480p", "0.8 GB"),
    ("jhmdb", "JHMDB", "its three files"),
):
    _add_release(_name, _title, _size)
