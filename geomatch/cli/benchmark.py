"""``geomatch benchmark``: measure on data sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geomatch.cli.evaluation import (
    PROTOCOLS,
    SEMANTIC,
    Chosen,
    Option,
    ended,
    keypoints_option,
    out_option,
    prompt_option,
    settings_options,
    split_option,
)
from geomatch.cli.exit_codes import FOUND
from geomatch.cli.options import bundled, run_options
from geomatch.cli.sweep import sweep

if TYPE_CHECKING:
    from geomatch.benchmarks.harness.task import Settings
    from geomatch.engine import RunContext

_TITLES = {
    "hpatches": "a folder in HPatches layout",
    "spair": "the folder of SPair-71k",
    "willow": "the folder of PF-WILLOW",
    "cub": "the folder of CUB-200-2011",
    "davis": "the folder of DAVIS-2017",
    "jhmdb": "the folder of JHMDB",
}
_SPLITS = {
    "spair": "test, val or trn; test is reported.",
    "davis": "val or train; val is reported.",
    "jhmdb": "1, 2 or 3; 1 is reported.",
}
_SPARSE = "DETECTOR+DESCRIPTOR, or sift, aliked:WEIGHTS, ...; DESCRIPTOR[t=50,layer=2] changes settings."
_DENSE = "A dense preset, folder or hub id, dino, dinov2 or clip; NAME[t=50,layer=2] changes settings."


@click.group()
def benchmark() -> None:
    """Measure descriptors on data sets."""


benchmark.add_command(sweep)


def _data_set(name: str) -> click.Command:
    """The command of a data set."""

    def command(
        data: Path, protocols: Chosen, method: str, out: Path, context: "RunContext", settings: "Settings"
    ) -> int:
        from geomatch.benchmarks.harness.record import table
        from geomatch.benchmarks.harness.run import run_benchmark
        from geomatch.benchmarks.harness.task import find_task
        from geomatch.benchmarks.methods.strings import split_methods

        task = find_task(name)
        chosen = protocols.of(task, default)
        result = run_benchmark(name, data, chosen, split_methods(method), out, context, settings)
        if result.warning:
            click.echo(f"warning     {result.warning}", err=True)
        click.echo(table(task, result.summaries()))
        return ended(task, result, [result.path])

    command.__doc__ = (
        f"Evaluate methods on DATA, {_TITLES[name]}, under named protocols.\n\n"
        "Exit code 1: something was skipped."
    )
    default, others = PROTOCOLS[name]
    sparse = name == "hpatches"
    own = [keypoints_option] if sparse else []
    own += [split_option(_SPLITS[name])] if name in _SPLITS else []
    decorators: list[Option] = [
        click.argument("data", type=click.Path(path_type=Path)),
        bundled("protocols", Chosen,
            click.option("--protocol", metavar="NAME,...", default=default, show_default=True,
                         help=f"Or: {others}, all."),
            *([prompt_option] if name in SEMANTIC else [])),
        click.option("--method", metavar="STRING,...", show_default=True,
                     default="sift+dift-tiny,rootsift" if sparse else "dift-tiny-dense",
                     help=_SPARSE if sparse else _DENSE),
        out_option,
        settings_options(*own),
        run_options("OUT", device=True),
    ]  # fmt: skip
    made: Any = command
    for decorator in reversed(decorators):
        made = decorator(made)
    return click.command(name)(made)


for _name in PROTOCOLS:
    benchmark.add_command(_data_set(_name))


@benchmark.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUNS...")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", default=Path("report"),
              show_default=True, help="Where report.md and report.html go.")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR",
              help="The folder of the data, for pictures of the worst pairs.")  # fmt: skip
@click.option("--store", metavar="PLACE", help="Of the runs. [default: the folder of each record]")
def report(runs: tuple[Path, ...], out: Path, data: Path | None, store: str | None) -> int:
    """Tables, curves and comparisons of RUNS, records of benchmarks or folders with them."""
    from geomatch.benchmarks.harness.report import write_report

    for path in write_report(runs, out, data, store):
        click.echo(f"wrote       {click.format_filename(path)}")
    return FOUND
