"""``geomatch benchmark``: measure on data sets, search settings, report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geomatch.cli.exit_codes import FOUND, NOT_FOUND
from geomatch.cli.options import Option, bundled, parse_layers, run_options

if TYPE_CHECKING:
    from geomatch.benchmarks.harness.run import RunResult
    from geomatch.benchmarks.harness.sweep import Grid
    from geomatch.benchmarks.harness.task import Task
    from geomatch.engine import RunContext

_DATA_SETS = {
    "hpatches": ("a folder in HPatches layout", "geomatch",
                 "dift, dift-adm, mma, auc480, auc480-poselib, superpoint, roma, sweep", None),
    "evd": ("the folder of the Extreme View Dataset", "pairs", "evd", None),
    "homogr": ("the folder of homogr", "pairs", "evd", None),
    "oxford": ("the folder of Oxford-Affine", "pairs", "evd", None),
    "pairs": ("a list of lines IMAGE0 IMAGE1 HFILE, or a folder with pairs.txt or folders of images 1, 2 "
              "and H_1_2", "pairs", "evd", None),
    "wxbs": ("the folder of WxBS v1.1", "wxbs-f", "wxbs-f-loma, wxbs-pck",
             "test, validation or all; test is reported."),
    "megadepth": ("the folder of MegaDepth-1500", "megadepth",
                  "megadepth-loftr, megadepth-roma, megadepth-dad, megadepth-gluefactory, "
                  "megadepth-gluefactory-poselib, megadepth-xfeat", None),
    "scannet": ("a folder of ScanNet-1500", "scannet",
                "scannet-superglue, scannet-loftr, scannet-roma", None),
    "pose": ("a folder with a list of pairs and their cameras in 38 columns, or with a model of COLMAP",
             "pose", "pose-superglue", None),
    "spair": ("the folder of SPair-71k", "spair", "spair-image, spair-soft",
              "test, val or trn; test is reported."),
    "willow": ("the folder of PF-WILLOW", "willow", "willow-image, willow-soft", None),
    "cub": ("the folder of CUB-200-2011", "cub", "cub-image, cub-soft", None),
    "davis": ("the folder of DAVIS-2017", "davis", "davis-adm, davis-dino", "val or train; val is reported."),
    "jhmdb": ("the folder of JHMDB", "jhmdb", "jhmdb-adm", "1, 2 or 3; 1 is reported."),
}  # fmt: skip
"""What DATA is, the default protocol, the others, and the splits."""
_SEMANTIC = ("spair", "willow", "cub")
_SPARSE = "DETECTOR+DESCRIPTOR, or sift, aliked:WEIGHTS, ...; NAME=STRING; DESCRIPTOR[t=50] changes settings."
_DENSE = "A dense preset, folder or hub id, dino, dinov2 or clip; NAME[t=50,layer=2] changes settings."

_data = click.argument("data", type=click.Path(path_type=Path))
_out = click.option("--out", type=click.Path(path_type=Path), metavar="DIR", default=Path("runs"),
                    show_default=True, help="Records; the same run goes on there.")  # fmt: skip
_keypoints = click.option("--max-keypoints", type=click.IntRange(min=1), default=2000, show_default=True,
                          help="Per image, at most; protocols take the best.")  # fmt: skip
_prompt = click.option("--prompt", metavar="TEXT",
                       help="For models conditioned on text. [default: a photo of a {category}]",
                       )  # fmt: skip


def _split(words: str) -> Option:
    return click.option("--split", metavar="NAME", help=words)


def _protocols(task: "Task", default: str, protocol: str | None, prompt: str | None = None) -> list[Any]:
    """The protocols of a task that the command line names, perhaps with another text."""
    protocols = task.find_protocols(protocol or default)
    if prompt is None:
        return protocols
    if task.name not in _SEMANTIC:
        raise click.UsageError(f"--prompt has no meaning for {task.name}")
    from geomatch.benchmarks.tasks.semantic.task import with_prompt

    return [with_prompt(one, prompt) for one in protocols]


def _ended(task: "Task", result: "RunResult", *written: Path) -> int:
    """Print what a run did, and return the exit code."""
    from geomatch.engine.run import grouped

    for line in grouped(result.record["skipped"]):
        click.echo(f"skipped     {line}", err=True)
    click.echo(f"computed    {result.computed} evaluations of a {task.unit[0]}, the rest was there")
    for path in (result.path, *written):
        click.echo(f"wrote       {click.format_filename(path)}")
    return NOT_FOUND if result.record["skipped"] else FOUND


@click.group()
def benchmark() -> None:
    """Measure descriptors on data sets."""


def _add_data_set(name: str, title: str, default: str, others: str, splits: str | None) -> None:
    sparse = name not in (*_SEMANTIC, "davis", "jhmdb")

    @benchmark.command(
        name,
        help=f"Evaluate methods on DATA, {title}, under named protocols.\n\n"
        "Exit code 1: something was skipped.",
    )
    @_data
    @bundled("protocols", dict,
        click.option("--protocol", metavar="NAME,...", default=default, show_default=True,
                     help=f"Or: {others}, all."),
        *([_prompt] if name in _SEMANTIC else []))  # fmt: skip
    @click.option("--method", metavar="STRING,...", show_default=True,
                  default="sift+dift-tiny,rootsift" if sparse else "dift-tiny-dense",
                  help=_SPARSE if sparse else _DENSE)  # fmt: skip
    @_out
    @bundled("settings", dict, *([_keypoints] if sparse else []), *([_split(splits)] if splits else []))
    @run_options("OUT", device=True)
    def command(
        data: Path, protocols: dict[str, Any], method: str, out: Path, context: "RunContext",
        settings: dict[str, Any],
    ) -> int:  # fmt: skip
        from geomatch.benchmarks.harness.record import table
        from geomatch.benchmarks.harness.run import run_benchmark
        from geomatch.benchmarks.harness.task import Settings, find_task
        from geomatch.engine.run import grouped

        task = find_task(name)
        chosen = _protocols(task, default, **protocols)
        result = run_benchmark(name, data, chosen, method, out, context, Settings(**settings))
        if result.warning:
            click.echo(f"warning     {result.warning}", err=True)
        marked = {row["pair"]: row["warning"] for row in result.record["rows"] if row.get("warning")}
        for line in grouped(marked):
            click.echo(f"warning     {line}", err=True)
        click.echo(table(task, result.summaries()))
        return _ended(task, result)


for _name, _words in _DATA_SETS.items():
    _add_data_set(_name, *_words)


def _numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    parts = value.split(",") if value else []
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise click.BadParameter(f"{value!r}: give whole numbers separated by commas")
    return tuple(int(part) for part in parts)


def _grid(timesteps: tuple[int, ...], layers: str, ensemble_sizes: tuple[int, ...]) -> "Grid":
    from geomatch.benchmarks.harness.sweep import Grid

    return Grid(timesteps, parse_layers(layers), ensemble_sizes)


@benchmark.command()
@_data
@bundled("grid", _grid,
    click.option("--timesteps", required=True, callback=_numbers, metavar="T,T,...",
                 help="Noise levels, 0 to 999."),
    click.option("--layers", required=True, metavar="A,B,...",
                 help="The paper's indices or diffusers' names, each a descriptor of its own."),
    click.option("--ensemble-sizes", callback=_numbers, metavar="N,N,...",
                 help="Numbers of noises to average. [default: the descriptor's]"),
)  # fmt: skip
@click.option("--task", "name", type=click.Choice(list(_DATA_SETS)), default="hpatches", show_default=True,
              help="The data set.")  # fmt: skip
@click.option("--method", metavar="STRING",
              help="A dense DIFT descriptor, NAME[image_size=320,noise=true]; on hpatches "
              "DETECTOR+DESCRIPTOR. [default: dift-tiny-dense, sift+dift-tiny-dense]")  # fmt: skip
@bundled("protocols", dict,
    click.option("--protocol", metavar="NAME", help="One of the data set's. [default: its first; sweep]"),
    _prompt,
)  # fmt: skip
@_out
@bundled("settings", dict,
    _keypoints, _split("Of spair, davis or jhmdb. [default: the reported one]"),
)  # fmt: skip
@run_options("OUT", device=True)
def sweep(
    data: Path,
    grid: "Grid",
    name: str,
    method: str | None,
    protocols: dict[str, Any],
    out: Path,
    context: "RunContext",
    settings: dict[str, Any],
) -> int:
    """Search timesteps, layers and ensemble sizes on DATA, a folder in HPatches layout or of another task.

    Writes results.json, table.md and heatmap.png. Exit code 1: something was
    skipped.
    """
    from geomatch.benchmarks.harness.sweep import run_sweep, scores_table
    from geomatch.benchmarks.harness.task import Settings, find_task

    task = find_task(name)
    default = "sweep" if name == "hpatches" else next(iter(task.protocols))
    chosen = _protocols(task, default, **protocols)
    if len(chosen) != 1:
        raise click.UsageError("--protocol: give one")
    method = method or ("dift-tiny-dense" if task.dense else "sift+dift-tiny-dense")
    given = Settings(**settings, cache_features=False)
    result = run_sweep(name, data, chosen[0], method, grid, out, context, given)
    click.echo(scores_table(task, [score for score in result.scores if score["split"] == "all"]))
    return _ended(task, result.run, *result.written)


@benchmark.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUNS...")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", default=Path("report"),
              show_default=True, help="Where report.html and its kin go.")  # fmt: skip
@click.option("--keypoints", type=click.IntRange(min=1), metavar="N",
              help="Budget of the leaderboard. [default: that of most methods]")  # fmt: skip
def report(runs: tuple[Path, ...], out: Path, keypoints: int | None) -> int:
    """Tables, curves and comparisons of RUNS, records of benchmarks or folders with them.

    With a leaderboard over all of them, also as CSV.
    """
    from geomatch.benchmarks.harness.report import write_report

    for path in write_report(runs, out, keypoints):
        click.echo(f"wrote       {click.format_filename(path)}")
    return FOUND
