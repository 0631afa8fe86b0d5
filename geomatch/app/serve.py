"""The page's server."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from geomatch.app.page import build
from geomatch.app.work import PipelineOf
from geomatch.errors import GeomatchError, require

LARGEST = "100mb"
"""Of an uploaded file."""


def serve(pipeline_of: PipelineOf, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page until a signal raises an exception; ``ready`` is told its address.

    Uploads and results are in a temporary folder, which is removed at the end. Raises
    MissingDependencyError without gradio, GeomatchError when it cannot listen there.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with TemporaryDirectory(prefix="geomatch-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder, "served"))
        gr = require("gradio", "app", "the page")
        page = build(pipeline_of, Path(folder))
        system = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
        try:
            try:
                _, address, _ = page.launch(
                    server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True,
                    inbrowser=False, max_file_size=LARGEST, footer_links=[], run_history=False,
                    enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False,
                    theme=gr.themes.Default(**system), css_paths=Path(__file__).with_name("page.css"),
                )  # fmt: skip
            except OSError as error:
                reason = "the port is taken, or that is no address of this machine"
                text = f"the page cannot be served at {host}, port {port}: {reason}"
                raise GeomatchError(f"{text}; give another --port or --host") from error
            ready(address)
            threading.Event().wait()
        finally:
            page.close(verbose=False)
