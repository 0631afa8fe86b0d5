"""``geomatch store``."""

import rich_click as click

from geomatch.cli.logs import FOUND, NOT_FOUND, finish

SHOWN = 20  # names of what failed, or is damaged


@click.group()
def store() -> None:
    """Look into a store of features and matches: a folder, or a URL such as s3://bucket/folder."""


@store.command()
@click.argument("place")
def info(place: str) -> int:
    """List what PLACE holds, and how far its runs are.

    Exit code 1: something is missing from a run.
    """
    from geomatch.store import Store
    from geomatch.store.upkeep import inspect_store

    objects, runs, damaged = inspect_store(Store.at(place))
    for kind, (count, size) in objects.items():
        click.echo(f"{kind:<11} {count} objects, {size / 2**20:.1f} MiB")
    for state in runs:
        manifest = state.manifest
        parts = ", ".join(f"{done} of {of} {kind}" for kind, (done, of) in state.done.items())
        word = "complete" if state.whole else "ended, with failures" if manifest.complete else "not complete"
        again = f", {manifest.retries} blocks tried again" if manifest.retries else ""
        whence = f"{manifest.program} of {manifest.source}, {manifest.started}"
        click.echo(f"run {manifest.key[:12]} {word}: {parts}{again}; {whence}")
        for name, reason in list(manifest.failed.items())[:SHOWN]:
            click.echo(f"  failed    {name}: {reason}")
    for key in damaged:
        click.echo(f"run {key[:12]} its manifest is damaged", err=True)
    if not objects:
        click.echo("nothing is there")
    return FOUND if all(state.whole for state in runs) and not damaged else NOT_FOUND


@store.command()
@click.argument("place")
@click.option("--forget", multiple=True, metavar="RUN",
              help="Remove this run first; the beginning of its name.")  # fmt: skip
def prune(place: str, forget: tuple[str, ...]) -> None:
    """Remove from PLACE what no run needs, while no run is under way.

    Results of benchmarks stay.
    """
    from geomatch.store import Store
    from geomatch.store.upkeep import prune_store

    objects, size = prune_store(Store.at(place), forget)
    finish(f"removed {objects} objects, {size / 2**20:.1f} MiB,")
