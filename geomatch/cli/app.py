"""``geomatch app``."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from geomatch.cli.match import pipeline_options
from geomatch.cli.options import descriptor_options
from geomatch.errors import GeomatchError

if TYPE_CHECKING:
    from geomatch.pipeline import Pipeline


@click.command()
@pipeline_options
@descriptor_options()
def _options(pipeline: "Callable[[], Pipeline]") -> "Pipeline":
    """The options of `geomatch match` alone."""
    return pipeline()


def pipeline_of(options: "Sequence[str]") -> "Pipeline":
    """The pipeline that ``geomatch match`` makes of these options; GeomatchError for wrong ones."""
    try:
        made: Pipeline = _options.main(list(options), prog_name="geomatch match", standalone_mode=False)
    except click.ClickException as error:
        raise GeomatchError(error.format_message()) from error
    return made


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS",
              help="Where to listen; 0.0.0.0 lets others on the network use the page.")  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True)
def app(host: str, port: int) -> None:
    """Match and reconstruct in the browser: a page on this machine, until Ctrl-C.

    Needs the extra: pip install 'geomatch-dift[app]'
    """
    from geomatch.errors import require

    click.echo("starting the page ...", err=True)
    require("gradio", "app", "the page")
    from geomatch.app.serve import serve

    serve(pipeline_of, host, port, lambda address: click.echo(f"page        {address} (Ctrl-C ends it)"))
