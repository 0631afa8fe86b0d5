"""``geomatch benchmark sweep``: the paper's search of timestep and layer, and its study of ensembles."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geomatch.cli.exit_codes import FOUND, NOT_FOUND
from geomatch.cli.options import changed_config, descriptor_options, given_options, parse_layers

if TYPE_CHECKING:
    from geomatch.dift import DIFTConfig

TASKS = ("homography", "spair", "willow", "cub", "davis", "jhmdb")


def _numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    parts = value.split(",")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise click.BadParameter(f"{value!r}: give whole numbers separated by commas")
    return tuple(int(part) for part in parts)


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--timesteps", required=True, callback=_numbers, metavar="T,T,...", help="Noise levels, 0 to 999."
)
@click.option("--layers", required=True, metavar="A,B,...",
              help="The paper's indices or diffusers' names, each a descriptor of its own.")  # fmt: skip
@click.option("--ensemble-sizes", callback=_numbers, metavar="N,N,...",
              help="Numbers of noises to average. [default: the descriptor's]")  # fmt: skip
@click.option("--task", type=click.Choice(TASKS), default="homography", show_default=True,
              help="What is measured: homographies on HPatches, or another data set.")  # fmt: skip
@click.option("--protocol", metavar="NAME", help="Of the data set. [default: its own]")
@click.option("--split", metavar="NAME", help="Of spair, davis or jhmdb. [default: the reported one]")
@click.option("--descriptor", metavar="NAME", default="dift-tiny-dense", show_default=True,
              help="A dense preset (`geomatch models`), or a diffusers model: folder or hub id.")  # fmt: skip
@click.option("--detector", metavar="NAME", default="sift", show_default=True,
              help="For homographies: sift, mixed, superpoint-tiny, grid, ...")  # fmt: skip
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
    task: str,
    protocol: str | None,
    split: str | None,
    descriptor: str,
    detector: str,
    max_keypoints: int,
    estimator: str,
    threshold: float,
    out: Path,
) -> int:
    """Search timesteps, layers and ensemble sizes on DATA, a folder in HPatches layout or of another task.

    Writes results.json, table.md and heatmap.png. Exit code 1: images were
    skipped.
    """
    from geomatch.benchmarks.harness.heat_map import draw_heat_map, markdown, summarise
    from geomatch.benchmarks.harness.sweep import Grid, run_sweep
    from geomatch.benchmarks.tasks.homography.task import HomographyTask
    from geomatch.describers import dift_config
    from geomatch.errors import require
    from geomatch.estimators import create_estimator
    from geomatch.files import replacing
    from geomatch.keypoints import create_detector

    require("matplotlib", "plots", "drawing the heat map")  # better now than after the work
    config = changed_config(dift_config(descriptor))
    grid = Grid(timesteps, parse_layers(layers), ensemble_sizes or (config.ensemble_size,))
    chosen: Any
    if task == "homography":
        if protocol or split:
            raise click.UsageError("--protocol and --split are for other tasks than homography")
        parts = create_detector(detector, max_keypoints), create_estimator(estimator, threshold)
        chosen, where = HomographyTask(data, *parts, config.metric), f"{detector} keypoints"
    else:
        chosen, config = _other(task, data, protocol, split, config)
        where = chosen.protocol.name
    result = run_sweep(chosen, config, grid, out)
    for unit, reason in result.skipped.items():
        click.echo(f"skipped     {unit}: {reason}", err=True)
    if not result.rows:
        raise click.UsageError(f"{data}: nothing could be evaluated")
    scores = summarise(result.rows, grid, chosen.measures)
    click.echo(markdown([score for score in scores if score["split"] == "all"]))
    written = [result.folder / name for name in ("results.json", "table.md", "heatmap.png")]
    texts = (json.dumps({"scores": scores, "skipped": result.skipped}, indent=2), markdown(scores))
    for path, text in zip(written, texts, strict=False):
        with replacing(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    draw_heat_map(scores, grid, f"{descriptor} on {data.name}, {where}", written[2], chosen.headline)
    files = len(grid.timesteps) * len(chosen.units)
    click.echo(f"computed    {result.computed} of {files} files, the rest was there")
    for path in written:
        click.echo(f"wrote       {click.format_filename(path)}")
    return NOT_FOUND if result.skipped else FOUND


def _other(
    task: str, data: Path, protocol: str | None, split: str | None, config: "DIFTConfig"
) -> tuple[Any, "DIFTConfig"]:
    """The task on a data set of semantic or temporal correspondence, and the descriptor as it wants it."""
    from geomatch.benchmarks.tasks.semantic import protocols as semantic
    from geomatch.benchmarks.tasks.semantic.harness import SEMANTIC
    from geomatch.benchmarks.tasks.semantic.task import SemanticTask
    from geomatch.benchmarks.tasks.temporal import protocols as temporal
    from geomatch.benchmarks.tasks.temporal.task import TemporalTask

    given = given_options()
    idle = [name for name in ("detector", "max_keypoints", "estimator", "threshold") if _was_given(name)]
    idle += [name for name in ("image_size", "image_side", "metric", "prompt") if name in given]
    if task in SEMANTIC:
        idle = [name for name in idle if name not in ("image_size", "image_side", "metric", "prompt")]
    if idle:
        raise click.UsageError(f"--{idle[0].replace('_', '-')} has no meaning for --task {task}")
    name = protocol or task
    if "," in name or name == "all":
        raise click.UsageError("--protocol: give one")
    if task in SEMANTIC:
        (rules,) = semantic.find_protocols(task, name)
        if "prompt" in given:
            rules = semantic.with_prompt(rules, given["prompt"])
        return SemanticTask(task, data, rules, config.metric, split), config
    (others,) = temporal.find_protocols(task, name)
    chosen = TemporalTask(task, data, others, split)
    return chosen, chosen.config(config)


def _was_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is not click.core.ParameterSource.DEFAULT
