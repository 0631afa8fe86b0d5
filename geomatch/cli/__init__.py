"""The command ``geomatch``: parses, calls the functions of the package, prints."""

import logging
import os
import signal
import sqlite3
import sys
import threading
import warnings
from collections.abc import Sequence

import click
import rich_click

from geomatch.cli.app import app as page
from geomatch.cli.benchmark import benchmark
from geomatch.cli.colmap import colmap
from geomatch.cli.data import data
from geomatch.cli.demo import demo
from geomatch.cli.head import head
from geomatch.cli.help import add_help, commands_of
from geomatch.cli.localize import localize
from geomatch.cli.logs import BAD_INPUT, FOUND, INTERRUPTED, PIPE_CLOSED, QUIET, logged
from geomatch.cli.match import match
from geomatch.cli.models import models
from geomatch.cli.panorama import panorama
from geomatch.cli.propagate import propagate
from geomatch.cli.reconstruct import reconstruct, triangulate
from geomatch.cli.register import register
from geomatch.cli.show import show
from geomatch.cli.store import store
from geomatch.cli.track import track
from geomatch.errors import GeomatchError, is_out_of_memory

_OUT_OF_MEMORY = (
    "out of memory; try a smaller --image-size, fewer --max-keypoints, --batch-size 1 or --dtype bfloat16"
)


@rich_click.group(
    commands=[match, register, panorama, show, page, propagate, track, demo, models, colmap, reconstruct,
              triangulate, localize, store, benchmark, data, head],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)  # fmt: skip
@click.version_option(package_name="geomatch-dift", prog_name="geomatch")
def app() -> None:
    """Register two photographs with diffusion features."""


for _one in (app, *(command for _, command in commands_of(app))):
    _one.params.append(QUIET)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; every error is one line on standard error."""
    # before torch is loaded: threads that spin while they wait make a busy machine five times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.warnoptions:
        # of damage that becomes an error, or does no harm
        warnings.filterwarnings("ignore", module=r"(PIL|torch)\.")
    for library in ("tifffile", "diffusers.configuration_utils", "diffusers.pipelines"):  # likewise
        logging.getLogger(library).setLevel(logging.CRITICAL)
    received, words = _end_cleanly(), sys.argv[1:] if arguments is None else list(arguments)
    # what only help needs is read for help alone, which a group shows without a command
    settings = add_help(app) if len(words) < 2 or {"-h", "--help"} & {*words} else None
    try:
        with logged():
            code = app.main(words, "geomatch", standalone_mode=False, rich_help_config=settings, obj=main)
    except BaseException as error:
        # what a signal raises within a library may come out as another error, or not at all
        code = None if received else _code_of(error)
    if received:
        return _code_of(received[0])
    return code if isinstance(code, int) else FOUND


def _code_of(error: BaseException) -> int:
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case click.ClickException():
            return _complain(error.format_message())
        case click.Abort() | KeyboardInterrupt():
            click.echo("geomatch: interrupted", err=True)
            return INTERRUPTED
        case SystemExit():  # of a signal, of help or completion, or click's way out of a closed pipe
            return error.code if isinstance(error.code, int) and error.code != 1 else PIPE_CLOSED
        case GeomatchError() | ValueError() | OSError() | sqlite3.Error():
            return _complain(str(error) or type(error).__name__)
    if isinstance(error, Exception) and is_out_of_memory(error):
        return _complain(_OUT_OF_MEMORY)
    raise error  # a defect, whose traceback is wanted


def _end_cleanly() -> list[BaseException]:
    """Let signals that nobody ignores or handles raise exceptions, so that nothing is left; lists these."""
    received: list[BaseException] = []

    def end(number: int, frame: object) -> None:
        received.append(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number))
        raise received[-1]

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, end)
    return received


def _complain(message: str) -> int:
    line = " ".join(message.split())
    click.echo("geomatch: " + line.encode(errors="replace").decode(), err=True)
    return BAD_INPUT
