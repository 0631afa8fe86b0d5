"""Options that the commands of an evaluation share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geomatch.cli.exit_codes import FOUND, NOT_FOUND
from geomatch.cli.options import bundled

if TYPE_CHECKING:
    from geomatch.benchmarks.harness.run import RunResult
    from geomatch.benchmarks.harness.task import Settings, Task

PROTOCOLS = {
    "hpatches": ("geomatch", "dift, dift-adm, mma, auc480, auc480-poselib, superpoint, roma, sweep"),
    "spair": ("spair", "spair-image, spair-soft"),
    "willow": ("willow", "willow-image, willow-soft"),
    "cub": ("cub", "cub-image, cub-soft"),
    "davis": ("davis", "davis-adm, davis-dino"),
    "jhmdb": ("jhmdb", "jhmdb-adm"),
}
"""The default of each task, and the others."""
SEMANTIC = ("spair", "willow", "cub")
Option = Callable[[Any], Any]

out_option = click.option("--out", type=click.Path(path_type=Path), metavar="DIR", default=Path("runs"),
                          show_default=True, help="Records; the same run goes on there.")  # fmt: skip
keypoints_option = click.option("--max-keypoints", type=click.IntRange(min=1), default=2000,
                                show_default=True, help="Per image, at most; protocols take the best.",
                                )  # fmt: skip
prompt_option = click.option("--prompt", metavar="TEXT",
                             help="For models conditioned on text. [default: a photo of a {category}]",
                             )  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """Protocols as the command line names them."""

    protocol: str | None
    prompt: str | None = None
    """Instead of the protocols' text."""

    def of(self, task: "Task", default: str) -> list[Any]:
        """The protocols of a task."""
        protocols = task.find_protocols(self.protocol or default)
        if self.prompt is None:
            return protocols
        if task.name not in SEMANTIC:
            raise click.UsageError(f"--prompt has no meaning for {task.name}")
        from geomatch.benchmarks.tasks.semantic.protocols import with_prompt

        return [with_prompt(protocol, self.prompt) for protocol in protocols]


def settings_options(*options: Option, cache_features: bool = True) -> Option:
    """Options whose values a command gets as ``settings``."""

    def make(**given: Any) -> "Settings":
        from geomatch.benchmarks.harness.task import Settings

        return Settings(**given, cache_features=cache_features)

    return bundled("settings", make, *options)


def split_option(words: str) -> Option:
    """``--split``."""
    return click.option("--split", metavar="NAME", help=words)


def ended(task: "Task", result: "RunResult", written: list[Path]) -> int:
    """Print what a run did, and return the exit code."""
    for name, reason in result.record["skipped"].items():
        click.echo(f"skipped     {name}: {reason}", err=True)
    click.echo(f"computed    {result.computed} evaluations of a {task.unit[0]}, the rest was there")
    for path in written:
        click.echo(f"wrote       {click.format_filename(path)}")
    return NOT_FOUND if result.record["skipped"] else FOUND
