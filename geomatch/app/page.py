"""The page itself: what stands where, and what happens on a click."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from geomatch.app.work import (
    Job,
    Photograph,
    PipelineOf,
    find_point,
    match_photographs,
    reconstruct_photographs,
)
from geomatch.collection import CollectionOptions, Extraction
from geomatch.demo import bundled_pair
from geomatch.dift import PRESETS
from geomatch.errors import GeomatchError, is_out_of_memory
from geomatch.estimators import estimators
from geomatch.estimators.models import MODELS
from geomatch.images import IMAGE_SUFFIXES
from geomatch.keypoints import detectors
from geomatch.reconstruction import Mapping
from geomatch.views.search import STAGES

QUEUE = 20
"""Most jobs that wait; one runs at a time."""
AGE = 3600  # seconds after which uploaded files are removed
_WORK: dict[str, Any] = {"concurrency_id": "work", "concurrency_limit": 1, "api_visibility": "private"}
_NO_MEMORY = "out of memory: try fewer keypoints, a smaller ensemble, or smaller images"


def build(pipeline_of: PipelineOf, folder: Path) -> Any:
    """The page as ``gradio.Blocks``; its jobs write to ``folder``, and clear up after themselves."""
    import gradio as gr

    with gr.Blocks(title="geomatch", analytics_enabled=False, delete_cache=(AGE // 6, AGE)) as page:
        gr.Markdown("# geomatch\nMatch two photographs, or reconstruct a place from many.")
        with gr.Tab("Match"):
            _match_tab(pipeline_of, folder)
        with gr.Tab("Reconstruct"):
            _reconstruct_tab(folder)
    return page.queue(max_size=QUEUE, default_concurrency_limit=1, api_open=False)


def _match_tab(pipeline_of: PipelineOf, folder: Path) -> None:
    import gradio as gr

    with gr.Row():
        inputs = [_upload(number) for number in (0, 1)]
    with gr.Row():
        example = gr.Button("Take the bundled pair")
        start = gr.Button("Match", variant="primary")
    settings = _settings()
    usual = {flag: one.value for flag, one in settings.items()}
    status, job = gr.Markdown(elem_id="status"), gr.State()
    with gr.Column(visible=False) as results:
        matches = gr.Image(label="Matches", alt_text="Both images, with lines between matches", format="png")
        slider = gr.ImageSlider(label="Image 0, and image 1 warped onto it", max_height=700)
        gr.Markdown("### Similarity\nClick in image 0, or type a point, to see what is alike in image 1.")
        with gr.Row():
            labels = ("Image 0: click", "Image 1: similarity")
            points = [
                gr.Image(label=label, alt_text=label, interactive=False, elem_id=f"point{number}", buttons=[])
                for number, label in enumerate(labels)
            ]
        with gr.Row():
            place = gr.Textbox(label="Point of the picture of image 0: x,y", placeholder="120,80")
            told = gr.Textbox(label="Most similar", interactive=False, elem_id="similar")
        summary = gr.Code(label="Summary", language=None, wrap_lines=True, interactive=False)
        command = gr.Code(
            label="The same on the command line", language="shell", wrap_lines=True, interactive=False,
            elem_id="command",
        )  # fmt: skip
        files = gr.File(label="Files", file_count="multiple", interactive=False)
    shown = [status, results, job, matches, slider, *points, told, summary, command, files]

    def match(image0: Any, image1: Any, *values: Any) -> Iterator[dict[Any, Any]]:
        if not (image0 and image1):
            yield {status: "Choose two images first.", results: gr.update(visible=False)}
            return
        given = zip(settings, values, strict=True)
        options = (f"{flag}={value}" for flag, value in given if value not in (None, "", usual[flag]))
        chosen = Job(image0, image1, tuple(options))
        with TemporaryDirectory(dir=folder) as place:
            found = _tried(lambda: match_photographs(chosen, pipeline_of, Path(place)))
            if isinstance(found, str):
                yield {status: f"**Error**: {found}", results: gr.update(visible=False)}
                return
            yield {
                status: f"**{found.status}**", results: gr.update(visible=True), job: chosen,
                matches: found.matches, slider: gr.update(value=found.slider, visible=bool(found.slider)),
                points[0]: found.previews[0], points[1]: found.previews[1], told: "",
                summary: found.summary, command: chosen.command(), files: list(map(str, found.files)),
            }  # fmt: skip

    def similar(chosen: Job | None, x: float, y: float) -> dict[Any, Any]:
        if chosen is None:
            return {told: "Match two images first."}
        found = _tried(lambda: find_point(chosen, pipeline_of, (x, y)))
        return {told: found} if isinstance(found, str) else dict(zip((*points, told), found, strict=True))

    def typed(chosen: Job | None, text: str) -> dict[Any, Any]:
        try:
            x, y = map(float, text.split(","))
        except ValueError:
            return {told: f"{text!r} is no point: give x,y such as 120,80"}
        return similar(chosen, x, y)

    def clicked(chosen: Job | None, event: gr.SelectData) -> dict[Any, Any]:
        return similar(chosen, *event.index)

    pair = bundled_pair()
    example.click(lambda: (pair.image0, pair.image1), None, inputs, api_visibility="private")
    start.click(match, [*inputs, *settings.values()], shown, **_WORK)
    points[0].select(clicked, job, [*points, told], **_WORK)
    place.submit(typed, [job, place], [*points, told], **_WORK)


def _settings() -> dict[str, Any]:
    """What can be chosen, by options of ``geomatch match``; a value left as it is adds no option."""
    import gradio as gr

    def choice(label: str, names: Any, usual: str, info: str = "", free: bool = False) -> Any:
        return gr.Dropdown(
            list(names), value=usual, label=label, info=info or None, allow_custom_value=free, min_width=200
        )

    def number(label: str, info: str, value: float | None = None, whole: bool = True) -> Any:
        return gr.Number(value, label=label, info=info, precision=0 if whole else None, min_width=200)

    with gr.Row():
        found = {
            "--detector": choice("Detector", detectors(), "mixed", "Finds keypoints"),
            "--descriptor": choice(
                "Descriptor", [("embedded", ""), *PRESETS, "own"], "",
                "A preset, a diffusers model (folder or hub id), or own: the detector's", True,
            ),
            "--effort": choice("Effort", STAGES, "normal", "Tilted views, where plain matching fails"),
        }  # fmt: skip
    with gr.Accordion("More settings", open=False):
        with gr.Row():
            found |= {
                "--geometry": choice("Geometry", MODELS, "homography", "What relates the images"),
                "--estimator": choice("Estimator", estimators(), "usac_magsac", "Of planes"),
                "--threshold": number("Threshold", "Largest error of an inlier, pixels", 3.0, False),
                "--max-keypoints": number("Keypoints", "Most per image", 3000),
                "--max-ratio": number("Ratio", "Lowe's test, up to 1; empty: none", None, False),
            }
        gr.Markdown("Of the descriptor; empty fields take what the preset has. A model needs a descriptor.")
        with gr.Row():
            found |= {
                "--model": gr.Textbox(label="Model", info="Weights: folder, file or hub id", min_width=200),
                "--timestep": number("Timestep", "Noise level of the forward pass"),
                "--layers": gr.Textbox(label="Layers", info="Where the network is read: A,B", min_width=200),
                "--ensemble-size": number("Ensemble", "Noises to average over"),
            }
    return found


def _reconstruct_tab(folder: Path) -> None:
    import gradio as gr

    uploads = gr.File(
        label="Photographs", file_count="multiple", file_types=sorted(IMAGE_SUFFIXES), height=200
    )
    with gr.Row():
        keypoints = gr.Number(3000, label="Keypoints", info="Most per photograph", precision=0)
        mapper = gr.Dropdown(["incremental", "global"], label="Mapper", info="COLMAP's")
    start = gr.Button("Reconstruct", variant="primary")
    status, view = gr.Markdown(elem_id="model-status"), gr.HTML(elem_id="view")
    command = gr.Code(
        label="The same on the command line", language="shell", interactive=False, visible=False
    )
    archive = gr.File(label="Model", interactive=False, visible=False)

    def run(
        paths: list[str] | None, most: int, kind: Any, progress: Any = tracked
    ) -> Iterator[dict[Any, Any]]:
        if not paths:
            yield {status: "Choose photographs first."}
            return
        photographs = [Photograph(Path(path), Path(path).name) for path in paths]
        options = CollectionOptions(Extraction(max_keypoints=most))
        with TemporaryDirectory(dir=folder) as place:
            found = _tried(lambda: reconstruct_photographs(photographs, options, Mapping(kind), Path(place)))
            if isinstance(found, str):
                yield {status: f"**Error**: {found}", view: "", archive: gr.update(visible=False)}
                return
            words = f"geomatch reconstruct PHOTOGRAPHS model --max-keypoints={most} --mapper={kind}"
            yield {
                status: f"**{found.status}**", view: found.view,
                command: gr.update(value=words, visible=True),
                archive: gr.update(value=found.archive and str(found.archive), visible=bool(found.archive)),
            }  # fmt: skip

    start.click(run, [uploads, keypoints, mapper], [status, view, command, archive], **_WORK)


def _upload(number: int) -> Any:
    """An image that is given on as it was uploaded; Pillow, which gradio asks, knows fewer formats."""
    import gradio as gr

    made = gr.Image(label=f"Image {number}", sources=["upload", "clipboard"], height=320, type="filepath")

    def photograph(payload: Any) -> Photograph | None:
        name = payload and Path(payload.orig_name or payload.path).name
        return Photograph(Path(payload.path), name) if name else None

    made.preprocess = photograph
    return made


def _tried(work: Callable[[], Any]) -> Any:
    """What the work gives, or, as text, the error of a user."""
    try:
        return work()
    except (GeomatchError, ValueError, OSError) as error:
        return str(error) or type(error).__name__
    except Exception as error:
        if is_out_of_memory(error):
            return _NO_MEMORY
        raise  # a defect, whose traceback is wanted on the screen of the server
