"""``geomatch benchmark sweep``: the paper's search of timestep and layer, and its study of ensembles."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from geomatch.cli import evaluation as shared
from geomatch.cli.options import bundled, parse_layers, run_options

if TYPE_CHECKING:
    from geomatch.benchmarks.harness.sweep import Grid
    from geomatch.benchmarks.harness.task import Settings
    from geomatch.engine import RunContext


def _numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    parts = value.split(",") if value else []
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise click.BadParameter(f"{value!r}: give whole numbers separated by commas")
    return tuple(int(part) for part in parts)


def _grid(timesteps: tuple[int, ...], layers: str, ensemble_sizes: tuple[int, ...]) -> "Grid":
    from geomatch.benchmarks.harness.sweep import Grid

    return Grid(timesteps, parse_layers(layers), ensemble_sizes)


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@bundled("grid", _grid,
    click.option("--timesteps", required=True, callback=_numbers, metavar="T,T,...",
                 help="Noise levels, 0 to 999."),
    click.option("--layers", required=True, metavar="A,B,...",
                 help="The paper's indices or diffusers' names, each a descriptor of its own."),
    click.option("--ensemble-sizes", callback=_numbers, metavar="N,N,...",
                 help="Numbers of noises to average. [default: the descriptor's]"),
)  # fmt: skip
@click.option("--task", "name", type=click.Choice(list(shared.PROTOCOLS)), default="hpatches",
              show_default=True, help="The data set.")  # fmt: skip
@click.option("--method", metavar="STRING",
              help="A dense DIFT descriptor, NAME[image_size=320,noise=true]; on hpatches "
              "DETECTOR+DESCRIPTOR. [default: dift-tiny-dense, sift+dift-tiny-dense]")  # fmt: skip
@bundled("protocols", shared.Chosen,
    click.option("--protocol", metavar="NAME", help="One of the data set's. [default: its first; sweep]"),
    shared.prompt_option,
)  # fmt: skip
@shared.out_option
@shared.settings_options(
    shared.keypoints_option,
    shared.split_option("Of spair, davis or jhmdb. [default: the reported one]"),
    cache_features=False,
)
@run_options("OUT", device=True)
def sweep(
    data: Path,
    grid: "Grid",
    name: str,
    method: str | None,
    protocols: shared.Chosen,
    out: Path,
    context: "RunContext",
    settings: "Settings",
) -> int:
    """Search timesteps, layers and ensemble sizes on DATA, a folder in HPatches layout or of another task.

    Writes results.json, table.md and heatmap.png. Exit code 1: something was
    skipped.
    """
    from geomatch.benchmarks.harness.sweep import run_sweep, scores_table
    from geomatch.benchmarks.harness.task import find_task

    task = find_task(name)
    chosen = protocols.of(task, "sweep" if name == "hpatches" else name)
    if len(chosen) != 1:
        raise click.UsageError("--protocol: give one")
    method = method or ("dift-tiny-dense" if task.dense else "sift+dift-tiny-dense")
    result = run_sweep(name, data, chosen[0], method, grid, out, context, settings)
    click.echo(scores_table(task, [score for score in result.scores if score["split"] == "all"]))
    return shared.ended(task, result.run, [result.run.path, *result.written])
