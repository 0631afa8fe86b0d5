"""What commands tell of their work: by ``logging`` and bars on standard error, and by their exit code."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

FOUND, NOT_FOUND, BAD_INPUT, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141
"""Exit codes."""
_LOGGER = logging.getLogger("geomatch")
_STAGES = logging.getLogger("geomatch.pipeline")  # tells of each pair, which is too much for many
_BEGUN = "geomatch.begun"  # in the context's meta data
_FORMATS = {logging.DEBUG: "debug       {}", logging.INFO: "{} ...", logging.WARNING: "warning     {}"}


def _choose(context: click.Context, parameter: click.Parameter, quiet: bool | None) -> None:
    context.meta.setdefault(_BEGUN, time.monotonic())
    if quiet is not None:
        _LOGGER.setLevel(logging.ERROR if quiet else logging.DEBUG)
        _STAGES.setLevel(logging.NOTSET)
    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # read when the library is loaded


QUIET = click.Option(
    ["-q/-v", "--quiet/--verbose"], default=None, expose_value=False, callback=_choose,
    help="Print only errors on standard error; or all that is loaded and how long it takes.",
)  # fmt: skip


def show_progress() -> None:
    """Tell of the stages of a pair, too; for commands that match one."""
    _STAGES.setLevel(logging.NOTSET)


def finish(what: str, *written: Path, whole: bool = True) -> int:
    """Print what was written, and in one line what was done in which time; the exit code says if all was."""
    for path in written:
        click.echo(f"wrote       {click.format_filename(path)}")
    spent = time.monotonic() - click.get_current_context().meta[_BEGUN]
    click.echo(f"done        {what} in {spent:.1f} s")
    return FOUND if whole else NOT_FOUND


@contextmanager
def logged() -> Iterator[None]:
    """Print within the block what the package logs; the options `QUIET` decide how much."""
    handler, before = logging.Handler(), _LOGGER.level

    def emit(record: logging.LogRecord) -> None:
        from tqdm import tqdm  # whose bars stay whole

        tqdm.write(_FORMATS.get(record.levelno, "{}").format(record.getMessage()), file=sys.stderr)

    handler.emit = emit  # type: ignore[method-assign]
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    _STAGES.setLevel(logging.WARNING)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(before)
        _STAGES.setLevel(logging.NOTSET)
