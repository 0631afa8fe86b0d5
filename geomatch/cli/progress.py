"""What a command says on standard error while it works."""

import logging

import click


class _Told(logging.Handler):
    """Prints what the package logs that it is doing: ``loading dift-tiny ...``."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"{record.getMessage()} ...", err=True)


def show_progress() -> None:
    """Print on standard error what the package is doing, until the present command ends.

    Any module of the package can say so with ``logging.getLogger(__name__).info("loading %s", name)``.
    """
    logger, told = logging.getLogger("geomatch"), _Told()
    before = logger.level
    logger.addHandler(told)
    logger.setLevel(logging.INFO)

    def quiet() -> None:
        logger.removeHandler(told)
        logger.setLevel(before)

    click.get_current_context().call_on_close(quiet)
