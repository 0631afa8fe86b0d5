"""``geomatch benchmark``: measure on data sets, report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from geomatch.cli.logs import finish
from geomatch.cli.options import DEVICE, OVERWRITE, bundled, make_out, run_options

if TYPE_CHECKING:
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
    "sfm": ("a folder with images/ and a COLMAP model of surveyed poses, or folders of such scenes",
            "sfm", "sfm-single, sfm-per-image, sfm-unrefined", None),
    "spair": ("the folder of SPair-71k", "spair", "spair-image, spair-soft",
              "test, val or trn; test is reported."),
    "willow": ("the folder of PF-WILLOW", "willow", "willow-image, willow-soft", None),
    "cub": ("the folder of CUB-200-2011", "cub", "cub-image, cub-soft", None),
    "davis": ("the folder of DAVIS-2017", "davis", "davis-adm, davis-dino", "val or train; val is reported."),
    "jhmdb": ("the folder of JHMDB", "jhmdb", "jhmdb-adm", "1, 2 or 3; 1 is reported."),
}  # fmt: skip
"""What DATA is, the default protocol, the others, and the splits."""
_DEFAULTS = {"sfm": "geomatch,colmap-sift"}  # methods; h5:FEATURES:MATCHES are another program's
_SEMANTIC = ("spair", "willow", "cub")
_SPARSE = "DETECTOR+DESCRIPTOR, or sift, aliked:WEIGHTS, ...; NAME=STRING"
_DENSE = "A dense preset, folder or hub id, dino, dinov2 or clip"
_SETTINGS = "; NAME[t=50,layer=2] changes settings, NAME[t={0,50}] tries several."


@click.group()
def benchmark() -> None:
    """Measure descriptors on data sets."""


def _add_data_set(name: str, title: str, default: str, others: str, splits: str | None) -> None:
    sparse = name not in (*_SEMANTIC, "davis", "jhmdb")
    words = "For models conditioned on text. [default: a photo of a {category}]"
    keypoints = click.option("--max-keypoints", type=click.IntRange(min=1), show_default=True,
                             default=3000 if name == "sfm" else 2000,
                             help="Per image, at most; protocols take the best.")  # fmt: skip

    @benchmark.command(
        name,
        help=f"Evaluate methods on DATA, {title}, under named protocols.\n\n"
        "Exit code 1: something was skipped.",
    )
    @click.argument("data", type=click.Path(path_type=Path))
    @bundled("protocols", dict,
        click.option("--protocol", metavar="NAME,...", default=default, show_default=True,
                     help=f"Or: {others}, all."),
        *([click.option("--prompt", metavar="TEXT", help=words)] if name in _SEMANTIC else []))  # fmt: skip
    @click.option("--method", metavar="STRING,...", show_default=True,
                  default=_DEFAULTS.get(name, "sift+dift-tiny,rootsift" if sparse else "dift-tiny-dense"),
                  help=(_SPARSE if sparse else _DENSE) + _SETTINGS)  # fmt: skip
    @click.option("--out", type=click.Path(path_type=Path), metavar="DIR", default=Path("runs"),
                  show_default=True, help="Records; the same run goes on there.")  # fmt: skip
    @bundled("settings", dict, *([keypoints] if sparse else []),
        *([click.option("--split", metavar="NAME", help=splits)] if splits else []))  # fmt: skip
    @run_options("OUT")
    @DEVICE
    def command(
        data: Path, protocols: dict[str, Any], method: str, out: Path, context: "RunContext",
        settings: dict[str, Any],
    ) -> int:  # fmt: skip
        from geomatch.benchmarks.harness.record import table
        from geomatch.benchmarks.harness.run import run_benchmark
        from geomatch.benchmarks.harness.task import Settings, find_task
        from geomatch.engine.run import grouped

        task = find_task(name)
        chosen = task.find_protocols(protocols["protocol"])
        if (text := protocols.get("prompt")) is not None:
            from geomatch.benchmarks.tasks.semantic.task import with_prompt

            chosen = [with_prompt(one, text) for one in chosen]
        result = run_benchmark(name, data, chosen, method, out, context, Settings(**settings))
        if result.warning:
            click.echo(f"warning     {result.warning}", err=True)
        skipped, rows = result.record["skipped"], result.record["rows"]
        for line in grouped({row["pair"]: row["warning"] for row in rows if row.get("warning")}):
            click.echo(f"warning     {line}", err=True)
        click.echo(table(task, result.summaries()))
        for line in grouped(skipped):
            click.echo(f"skipped     {line}", err=True)
        made = f"computed {result.computed} evaluations of a {task.unit[0]}, the rest was there,"
        return finish(made, result.path, whole=not skipped)


for _name, _words in _DATA_SETS.items():
    _add_data_set(_name, *_words)


@benchmark.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUNS...")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", default=Path("report"),
              show_default=True, help="Folder for report.html and leaderboard.csv.")  # fmt: skip
@OVERWRITE
@click.option("--keypoints", type=click.IntRange(min=1), metavar="N",
              help="Budget of the leaderboard. [default: that of most methods]")  # fmt: skip
def report(runs: tuple[Path, ...], out: Path, keypoints: int | None) -> int:
    """Tables, curves and comparisons of RUNS, records of benchmarks or folders with them.

    With a leaderboard over all of them, also as CSV.
    """
    from geomatch.benchmarks.harness.report import write_report

    make_out(out, ("report.html", "leaderboard.csv"))
    return finish("reported", *write_report(runs, out, keypoints))
