"""``geomatch benchmark``: measure on data sets."""

import json
from pathlib import Path

import click

from geomatch.cli.exit_codes import FOUND, NOT_FOUND
from geomatch.cli.options import (
    changed_config,
    chosen_engine,
    descriptor_options,
    engine_options,
    parse_layers,
)


@click.group()
def benchmark() -> None:
    """Measure descriptors on data sets."""


def _numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    parts = value.split(",")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise click.BadParameter(f"{value!r}: give whole numbers separated by commas")
    return tuple(int(part) for part in parts)


@benchmark.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--timesteps", required=True, callback=_numbers, metavar="T,T,...", help="Noise levels, 0 to 999."
)
@click.option("--layers", required=True, metavar="A,B,...",
              help="The paper's indices or diffusers' names, each a descriptor of its own.")  # fmt: skip
@click.option("--ensemble-sizes", callback=_numbers, metavar="N,N,...",
              help="Numbers of noises to average. [default: the descriptor's]")  # fmt: skip
@click.option("--descriptor", metavar="NAME", default="dift-tiny-dense", show_default=True,
              help="A dense preset (`geomatch models`), or a diffusers model: folder or hub id.")  # fmt: skip
@click.option(
    "--detector",
    metavar="NAME",
    default="sift",
    show_default=True,
    help="sift, mixed, superpoint-tiny, grid, ...",
)
@click.option("--max-keypoints", type=int, default=1000, show_default=True, help="Per image.")
@click.option("--estimator", metavar="NAME", default="usac_magsac", show_default=True,
              help="usac_magsac, ransac, lmeds, ..., kornia, poselib.")  # fmt: skip
@click.option("--threshold", type=float, default=3.0, show_default=True,
              help="Largest error of an inlier, in pixels of image 1.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", default=Path("runs"),
              show_default=True, help="Where results are kept; the same search goes on there.")  # fmt: skip
@descriptor_options(leave_out=("--timestep", "--layers", "--ensemble-size", "--rotations", "--scales"))
def sweep(
    data: Path,
    timesteps: tuple[int, ...],
    layers: str,
    ensemble_sizes: tuple[int, ...] | None,
    descriptor: str,
    detector: str,
    max_keypoints: int,
    estimator: str,
    threshold: float,
    out: Path,
) -> int:
    """Search timesteps, layers and ensemble sizes on DATA, a folder in HPatches layout.

    Writes results.json, table.md and heatmap.png. Exit code 1: images were
    skipped.
    """
    from geomatch.benchmarks.heat_map import draw_heat_map, markdown, summarise
    from geomatch.benchmarks.homography_task import HomographyTask
    from geomatch.benchmarks.sweep import Grid, run_sweep
    from geomatch.estimators import create_estimator
    from geomatch.files import replacing
    from geomatch.keypoints import create_detector
    from geomatch.optional import require
    from geomatch.parts import dift_config

    require("matplotlib", "plots", "drawing the heat map")  # better now than after the work
    config = changed_config(dift_config(descriptor))
    grid = Grid(timesteps, parse_layers(layers), ensemble_sizes or (config.ensemble_size,))
    parts = create_detector(detector, max_keypoints), create_estimator(estimator, threshold)
    task = HomographyTask(data, *parts, config.metric)
    result = run_sweep(task, config, grid, out)
    for unit, reason in result.skipped.items():
        click.echo(f"skipped     {unit}: {reason}", err=True)
    if not result.rows:
        raise click.UsageError(f"{data}: nothing could be evaluated")
    scores = summarise(result.rows, grid)
    click.echo(markdown([score for score in scores if score["split"] == "all"]))
    written = [result.folder / name for name in ("results.json", "table.md", "heatmap.png")]
    texts = (json.dumps({"scores": scores, "skipped": result.skipped}, indent=2), markdown(scores))
    for path, text in zip(written, texts, strict=False):
        with replacing(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    draw_heat_map(scores, grid, f"{descriptor} on {data.name}, {detector} keypoints", written[2])
    click.echo(
        f"computed    {result.computed} of {len(grid.timesteps) * len(task.units)} files, the rest was there"
    )
    for path in written:
        click.echo(f"wrote       {click.format_filename(path)}")
    return NOT_FOUND if result.skipped else FOUND


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
    from geomatch.benchmarks.hpatches.harness import run_hpatches
    from geomatch.benchmarks.hpatches.protocols import find_protocols
    from geomatch.benchmarks.hpatches.record import table
    from geomatch.benchmarks.hpatches.sequences import read_data

    protocols, methods = find_protocols(protocol), list(dict.fromkeys(method.split(",")))
    warning = read_data(data).warning
    if warning:
        click.echo(f"warning     {warning}", err=True)
    with chosen_engine() as engine:
        result = run_hpatches(data, protocols, methods, out, max_keypoints, engine, device, store)
    click.echo(table(result.summaries()))
    for name, reason in result.record["skipped"].items():
        click.echo(f"skipped     {name}: {reason}", err=True)
    click.echo(f"computed    {result.computed} evaluations of a sequence, the rest was there")
    click.echo(f"wrote       {click.format_filename(result.path)}")
    return NOT_FOUND if result.record["skipped"] else FOUND


@benchmark.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUNS...")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", default=Path("report"),
              show_default=True, help="Where report.md and report.html go.")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR",
              help="The folder of sequences, for pictures of the worst pairs.")  # fmt: skip
def report(runs: tuple[Path, ...], out: Path, data: Path | None) -> int:
    """Tables, curves and comparisons of RUNS, records of hpatches or folders with them."""
    from geomatch.benchmarks.hpatches.report import write_report

    for path in write_report(runs, out, data):
        click.echo(f"wrote       {click.format_filename(path)}")
    return FOUND
