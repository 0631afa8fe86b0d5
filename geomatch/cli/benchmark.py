"""``geomatch benchmark``: measure on data sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geomatch.cli.exit_codes import FOUND, NOT_FOUND
from geomatch.cli.options import chosen_engine, engine_options
from geomatch.cli.sweep import sweep

if TYPE_CHECKING:
    from geomatch.benchmarks.harness.run import RunResult
    from geomatch.benchmarks.harness.suite import Suite


@click.group()
def benchmark() -> None:
    """Measure descriptors on data sets."""


benchmark.add_command(sweep)


@benchmark.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--protocol", metavar="NAME,...", default="geomatch", show_default=True,
              help="Or: dift, dift-adm, mma, auc480, auc480-poselib, superpoint, roma, all.")  # fmt: skip
@click.option("--method", metavar="STRING,...", default="sift+dift-tiny,rootsift", show_default=True,
              help="DETECTOR+DESCRIPTOR, or a peer's name (sift, aliked:WEIGHTS, ...).")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", default=Path("runs"),
              show_default=True, help="Records; the same run goes on there.")  # fmt: skip
@click.option("--max-keypoints", type=click.IntRange(min=1), default=2000, show_default=True,
              help="Per image, at most; protocols take the best.")  # fmt: skip
@click.option("--store", metavar="PLACE",
              help="Of features and rows: a folder or a URL, s3://bucket/folder. [default: OUT]")  # fmt: skip
@engine_options
@click.option("--device", default="auto", show_default=True, help="Of the networks: cpu, cuda, mps.")
def hpatches(
    data: Path, protocol: str, method: str, out: Path, max_keypoints: int, store: str | None, device: str
) -> int:
    """Evaluate methods on DATA, a folder in HPatches layout, under named protocols.

    Exit code 1: something was skipped.
    """
    from geomatch.benchmarks.tasks.homography.harness import run_hpatches
    from geomatch.benchmarks.tasks.homography.protocols import find_protocols
    from geomatch.benchmarks.tasks.homography.sequences import read_data
    from geomatch.benchmarks.tasks.homography.suite import SUITE

    protocols, methods = find_protocols(protocol), list(dict.fromkeys(method.split(",")))
    warning = read_data(data).warning
    if warning:
        click.echo(f"warning     {warning}", err=True)
    with chosen_engine() as engine:
        result = run_hpatches(data, protocols, methods, out, max_keypoints, engine, device, store)
    return _told(SUITE, result)


def _dataset(name: str, title: str, others: str, splits: str | None) -> click.Command:
    """The command of a data set of semantic or temporal correspondence."""
    semantic = name in ("spair", "willow", "cub")

    @click.argument("data", type=click.Path(path_type=Path))
    @click.option("--protocol", metavar="NAME,...", default=name, show_default=True,
                  help=f"Or: {others}, all.")  # fmt: skip
    @click.option("--method", metavar="STRING,...", default="dift-tiny-dense", show_default=True,
                  help="A dense descriptor (`geomatch models`; a folder or hub id), dino, dinov2 or clip.",
                  )  # fmt: skip
    @click.option("--out", type=click.Path(path_type=Path), metavar="DIR", default=Path("runs"),
                  show_default=True, help="Records; the same run goes on there.")  # fmt: skip
    @click.option("--store", metavar="PLACE",
                  help="Of features and rows: a folder or a URL, s3://bucket/folder. [default: OUT]",
                  )  # fmt: skip
    @engine_options
    @click.option("--device", default="auto", show_default=True, help="Of the networks: cpu, cuda, mps.")
    def command(
        data: Path,
        protocol: str,
        method: str,
        out: Path,
        store: str | None,
        device: str,
        split: str | None = None,
        prompt: str | None = None,
    ) -> int:
        from geomatch.benchmarks.harness.suite import find_suite
        from geomatch.benchmarks.tasks.semantic import protocols as semantic_protocols
        from geomatch.benchmarks.tasks.semantic.harness import run_semantic
        from geomatch.benchmarks.tasks.temporal import protocols as temporal_protocols
        from geomatch.benchmarks.tasks.temporal.harness import run_temporal

        methods = list(dict.fromkeys(method.split(",")))
        with chosen_engine() as engine:
            if semantic:
                rules = semantic_protocols.find_protocols(name, protocol)
                if prompt is not None:
                    rules = [semantic_protocols.with_prompt(one, prompt) for one in rules]
                result = run_semantic(name, data, rules, methods, out, engine, device, store, split=split)
            else:
                others = temporal_protocols.find_protocols(name, protocol)
                result = run_temporal(name, data, others, methods, out, engine, device, store, split=split)
        suite = find_suite(name)
        if not result.record["data"]["complete"]:
            have = len(result.record["data"]["units"])
            click.echo(
                f"warning     this is not the whole of {title} ({have} of {suite.whole} {suite.unit[1]}): "
                "numbers are not comparable with published ones",
                err=True,
            )
        return _told(suite, result)

    command.__doc__ = (
        f"Evaluate methods on DATA, the folder of {title}, under named protocols.\n\n"
        "Exit code 1: something was skipped."
    )
    made: Any = command
    if splits:
        made = click.option("--split", metavar="NAME", help=f"{splits}.")(made)
    if semantic:
        words = "For models conditioned on text. [default: a photo of a {category}]"
        made = click.option("--prompt", metavar="TEXT", help=words)(made)
    return click.command(name)(made)


for _arguments in (
    ("spair", "SPair-71k", "spair-image, spair-soft", "test, val or trn; test is reported"),
    ("willow", "PF-WILLOW", "willow-image, willow-soft", None),
    ("cub", "CUB-200-2011", "cub-image, cub-soft", None),
    ("davis", "DAVIS-2017", "davis-adm, davis-dino", "val or train; val is reported"),
    ("jhmdb", "JHMDB", "jhmdb-adm", "1, 2 or 3; 1 is reported"),
):
    benchmark.add_command(_dataset(*_arguments))


def _told(suite: "Suite", result: "RunResult") -> int:
    """Print what a run found."""
    from geomatch.benchmarks.harness.record import table

    click.echo(table(suite, result.summaries()))
    for name, reason in result.record["skipped"].items():
        click.echo(f"skipped     {name}: {reason}", err=True)
    click.echo(f"computed    {result.computed} evaluations of a {suite.unit[0]}, the rest was there")
    click.echo(f"wrote       {click.format_filename(result.path)}")
    return NOT_FOUND if result.record["skipped"] else FOUND


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
