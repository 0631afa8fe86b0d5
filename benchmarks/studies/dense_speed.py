"""Point transfer and label propagation beside re-statements of the reference procedures.

``python -m geomatch.benchmarks.studies.dense_speed [--device cuda]``: random maps of the size that Stable
Diffusion gives in the paper's settings. The references enlarge both maps to their images (``eval_spair.py``),
and make the affinities of all cells with all cells of the context at once (DINO's
``eval_video_segmentation.py``).
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from geomatch.benchmarks.studies.record import (
    Row,
    markdown,
    median_seconds,
    study_parser,
    timing_row,
    write_record,
)
from geomatch.dift import FeatureMap
from geomatch.dift.maps.transfer import PixelFeatures
from geomatch.video.propagation import LabelPropagator, PropagationConfig

SEMANTIC, IMAGE = (1280, 48, 48), (500, 375)
"""Map of SPair-71k at 768 x 768, and a photograph there."""
POINTS = 8
TEMPORAL, OBJECTS = (640, 60, 104), 3
"""Map of DAVIS-2017 at a short side of 480."""
CONTEXTS = {"cpu": (7,), "cuda": (7, 28)}
"""Last frames; the reference with 28 takes more memory than small machines have."""
Calls = tuple[Callable[[], Tensor], Callable[[], Tensor]]
"""Ours and the reference."""


def dense_rows(device: str, repeats: int) -> list[Row]:
    """Seconds, peak memory on an accelerator, and how far the results are apart."""
    generator = torch.Generator().manual_seed(0)

    def random(shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=generator).to(device)

    calls = {"transfer of 8 points": (transfer_calls(random), "maps enlarged to the images")}
    for context in CONTEXTS["cpu" if device == "cpu" else "cuda"]:
        name = f"propagation, {context} frames of context"
        calls[name] = propagation_calls(random, context), "all affinities at once"
    return [_measured(name, pair, words, device, repeats) for name, (pair, words) in calls.items()]


def transfer_calls(random: Callable[[Sequence[int]], Tensor]) -> Calls:
    """Similarities of points with every pixel, by us and by the reference."""
    source, target = random(SEMANTIC), random(SEMANTIC)
    places = [(37 * k % IMAGE[0], 53 * k % IMAGE[1]) for k in range(1, POINTS + 1)]

    def ours() -> Tensor:
        map0, map1 = FeatureMap((source,), IMAGE), FeatureMap((target,), IMAGE)
        points = torch.tensor(places, dtype=torch.float64).numpy()
        return PixelFeatures(map1).similarities(map0.sample(points))

    def theirs() -> Tensor:
        first, second = (
            functional.interpolate(part[None], IMAGE[::-1], mode="bilinear", align_corners=False)[0]
            for part in (source, target)
        )
        found = []
        for x, y in places:
            rows = functional.normalize(second.reshape(SEMANTIC[0], -1).T, dim=1)
            found.append((rows @ functional.normalize(first[:, y, x], dim=0)).view(IMAGE[::-1]))
        return torch.stack(found)

    return ours, theirs


def propagation_calls(random: Callable[[Sequence[int]], Tensor], context: int) -> Calls:
    """Labels of one frame, by us and by the reference."""
    config = PropagationConfig(context=context)
    _, rows, columns = TEMPORAL
    frames = [functional.normalize(random(TEMPORAL), dim=0) for _ in range(context + 2)]
    labels = [random((OBJECTS, rows, columns)).softmax(0) for _ in range(context + 1)]

    def ours() -> Tensor:
        propagator = LabelPropagator(config, frames[0], labels[0])
        for frame, own in zip(frames[1:-1], labels[1:], strict=True):
            propagator.add(frame, own)
        return propagator.step(frames[-1])

    @torch.inference_mode()
    def theirs() -> Tensor:
        radius = config.radius or 0
        queries = frames[-1].flatten(1).T[None].expand(context + 1, -1, -1)
        affinity = torch.exp(queries @ torch.stack([f.flatten(1) for f in frames[:-1]]) / config.temperature)
        y, x = (
            axis.flatten().to(affinity.device)
            for axis in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        )
        affinity *= ((y[:, None] - y).abs() <= radius) & ((x[:, None] - x).abs() <= radius)
        affinity = affinity.transpose(1, 2).reshape(-1, rows * columns)
        affinity[affinity < affinity.topk(config.top_k, dim=0)[0].amin(0)] = 0
        affinity = affinity / affinity.sum(0)
        return (torch.cat([own.flatten(1) for own in labels], 1) @ affinity).view(-1, rows, columns)

    return ours, theirs


def _measured(name: str, calls: Calls, words: str, device: str, repeats: int) -> Row:
    difference = float((calls[0]() - calls[1]()).abs().max())
    cuda, seconds, peaks = device != "cpu", [], []
    for call in calls:
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if cuda else 0
        seconds.append(median_seconds(partial(_finished, call, cuda), repeats))
        peaks.append(round((torch.cuda.max_memory_allocated() - before) / 2**20) if cuda else 0)
    row = timing_row(name, seconds[0], "s", words, seconds[1]) | {"largest_difference": difference}
    return row | ({"peak_MiB": peaks[0], "alternative_peak_MiB": peaks[1]} if cuda else {})


def _finished(call: Callable[[], Tensor], cuda: bool) -> None:
    call()
    if cuda:
        torch.cuda.synchronize()


def table(rows: Sequence[Row]) -> str:
    """In Markdown."""
    cells = []
    for row in rows:
        ours, theirs = (
            f"{row[f'{side}value']:.3f} s" + (f", {row[peak]} MiB" if peak in row else "")
            for side, peak in (("", "peak_MiB"), ("alternative_", "alternative_peak_MiB"))
        )
        cells.append((row["name"], ours, theirs, f"{row['ratio']:.1f}"))
    return markdown(("", "geomatch", "reference procedure", "ratio"), cells)


if __name__ == "__main__":
    parser = study_parser("dense_speed", __doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5, help="runs per figure, of which the median counts")
    options = parser.parse_args()
    measured = dense_rows(options.device, options.repeats)
    print(table(measured))
    settings = {"device": options.device, "repeats": options.repeats}
    if options.device != "cpu":
        settings["accelerator"] = torch.cuda.get_device_name()
    write_record(options.out, "dense", measured, settings, options.device.partition(":")[0])
