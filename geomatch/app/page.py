"""The page: what is where, what happens on a click, and its server."""

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from geomatch.app.work import Run, find_point, match_photographs, reconstruct_photographs
from geomatch.cameras import pycolmap
from geomatch.demo import bundled_pair
from geomatch.dift import PRESETS
from geomatch.errors import GeomatchError, require
from geomatch.estimators import estimators
from geomatch.images import IMAGE_SUFFIXES
from geomatch.keypoints import detectors

_WORK: dict[str, Any] = {"concurrency_id": "work", "concurrency_limit": 1, "api_visibility": "private"}


def serve(run: Run, commands: Mapping[str, Any], host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page, whose URL ``ready`` is told, until a signal raises an exception.

    The page offers options of click's ``commands``. Raises GeomatchError when it cannot listen there."""
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise GeomatchError(f"{host}:{port}: {error.strerror}; give another --port or --host") from error
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    others = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    os.environ["no_proxy"] = f"{others},{host},localhost"  # gradio asks the page whether it is there
    # all that anybody puts into temporary files goes there
    with TemporaryDirectory(prefix="geomatch-app-", ignore_cleanup_errors=True) as tempfile.tempdir:
        try:
            gr: Any = require("gradio", "app", "the page")
            with gr.Blocks(title="geomatch", analytics_enabled=False, delete_cache=(600, 3600)) as page:
                gr.Markdown("# geomatch\nMatch two photographs, or reconstruct a place from many.")
                with gr.Tab("Match"):
                    _match_tab(gr, run, commands["match"])
                with gr.Tab("Reconstruct"):
                    _reconstruct_tab(gr, run, commands["reconstruct"])
            page.queue(max_size=20, default_concurrency_limit=1, api_open=False)
            _, url, _ = page.launch(
                server_name=host, server_port=port, share=False, quiet=True,
                prevent_thread_lock=True, max_file_size="100mb", footer_links=[], run_history=False,
                enable_monitoring=False, ssr_mode=False, css_paths=Path(__file__).with_name("page.css"),
                theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
                allowed_paths=[str(bundled_pair().image0.parent)],
            )  # fmt: skip
            ready(url)
            pycolmap()  # here, in the main thread, where its handler of signals can be undone
            threading.Event().wait()
        finally:
            tempfile.tempdir = None


def _match_tab(gr: Any, run: Run, command: Any) -> None:
    bundled = bundled_pair()
    with gr.Row():
        uploads = [gr.Image(label=f"Image {n}", height=300, elem_id=f"image{n}") for n in (0, 1)]
    for upload in uploads:  # as it is: gradio would decode it by Pillow, which knows fewer formats
        upload.sources, upload.preprocess = ["upload", "clipboard"], lambda sent: sent and Path(sent.path)
    example = gr.Button("Take the bundled pair")
    similar = gr.Markdown("Click in image 0 to see what is similar.", min_height=40)
    plain = {"buttons": ["download", "fullscreen"], "format": "png"}  # no sharing with other hosts
    heat = gr.Image(label="Similarity", alt_text="Similarity", visible=False, elem_id="heat", **plain)
    fields = _fields(gr, command, "detector", "descriptor", "effort")
    own = {"--descriptor": fields["--descriptor"]}  # what `geomatch show` has, too
    with gr.Accordion("More settings", open=False):
        fields |= _fields(gr, command, "geometry", "estimator", "threshold", "max_keypoints", "max_ratio")
        own |= _fields(gr, command, "dift_model", "dift_timestep", "dift_layers", "dift_ensemble_size")
    fields |= own
    start, status = gr.Button("Match", variant="primary"), gr.Markdown(elem_id="status")
    with gr.Column(visible=False) as results:
        matches = gr.Image(label="Matches", alt_text="Both images, and lines between matches", **plain)
        slider = gr.ImageSlider(label="Image 0, and image 1 warped onto it", max_height=700)
        files = gr.File(label="Files", file_count="multiple", interactive=False)

    def match(*given: Any) -> Iterator[dict[Any, Any]]:
        with TemporaryDirectory() as place:
            told, written, pair = match_photographs(run, given[:2], _options(fields, given[2:]), Path(place))
            yield {
                status: told, results: gr.update(visible=bool(written)),
                matches: f"{place}/matched/matches.png" if written else None,
                slider: gr.update(value=pair, visible=bool(pair)), files: [*map(str, written)],
            }  # fmt: skip

    def find(event: Any, *given: Any) -> Iterator[dict[Any, Any]]:
        with TemporaryDirectory() as place:
            options = ["--point={},{}".format(*event.index), *_options(own, given[2:])]
            told, picture = find_point(run, given[:2], options, Path(place))
            yield {similar: told, heat: gr.update(value=picture, visible=bool(picture))}

    find.__annotations__["event"] = gr.SelectData  # by which gradio knows what to pass
    example.click(lambda: (bundled.image0, bundled.image1), None, uploads, api_visibility="private")
    shown = [status, results, matches, slider, files]
    start.click(match, [*uploads, *fields.values()], shown, **_WORK)
    uploads[0].select(find, [*uploads, *own.values()], [similar, heat], **_WORK)


def _reconstruct_tab(gr: Any, run: Run, command: Any) -> None:
    tracked = gr.Progress(track_tqdm=True)
    uploads = gr.File(label="Photographs", file_count="multiple", file_types=[*IMAGE_SUFFIXES], height=200)
    fields = _fields(gr, command, "detector", "descriptor", "max_keypoints")
    start = gr.Button("Reconstruct", variant="primary")
    status, view = gr.Markdown(elem_id="model-status"), gr.HTML(elem_id="view")
    archive = gr.File(label="Model", visible=False, interactive=False)

    def work(progress: Any = tracked, sent: Any = None, *given: Any) -> Iterator[dict[Any, Any]]:
        with TemporaryDirectory() as place:
            paths, options = [Path(path) for path in sent or ()], _options(fields, given)
            told, packed, shown = reconstruct_photographs(run, paths, options, Path(place))
            value = gr.update(value=packed and str(packed), visible=bool(packed))
            yield {status: told, view: shown, archive: value}

    start.click(work, [uploads, *fields.values()], [status, view, archive], **_WORK)


def _fields(gr: Any, command: Any, *names: str) -> dict[str, Any]:
    """A row of fields for these options of a command, by their flags."""
    listed = {"detector": detectors(), "descriptor": [*PRESETS, "own"], "estimator": estimators()}
    options = {option.name: option for option in command.params}
    made = {}
    with gr.Row():
        for name in names:
            usual, flag = options[name].default, options[name].opts[0]
            usual = str(usual) if isinstance(usual, int | float | str) else None
            told = {"label": flag[2:], "info": options[name].help, "value": usual, "min_width": 200}
            if choices := listed.get(name) or getattr(options[name].type, "choices", None):
                made[flag] = gr.Dropdown([*choices], allow_custom_value=name == "descriptor", **told)
            else:
                made[flag] = gr.Textbox(**told)
    return made


def _options(fields: dict[str, Any], values: Sequence[Any]) -> list[str]:
    """The options of a command for what was filled in and changed."""
    given = zip(fields.items(), values, strict=True)
    return [f"{flag}={value}" for (flag, field), value in given if value not in (None, "", field.value)]
