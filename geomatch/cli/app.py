"""``geomatch app``."""

import os
from typing import Any

import rich_click as click


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS",
              help="Where to listen; with 0.0.0.0 the whole network can use the page.")  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True, help="Its port.")
@click.pass_context
def app(context: click.Context, host: str, port: int) -> None:
    """Match and reconstruct in the browser, until Ctrl-C; needs the extra app."""
    root: Any = context.find_root()  # whose obj runs other commands
    click.echo("starting the page ...", err=True)
    from geomatch.app.page import serve

    try:
        serve(root.obj, root.command.commands, host, port, lambda url: click.echo(f"page        {url}"))
    except (KeyboardInterrupt, SystemExit) as ended:
        os._exit(getattr(ended, "code", 130))  # without waiting for a job that is at work in a thread
