"""Point transfer and label propagation beside re-statements of the reference procedures.

``python -m geomatch.benchmarks.studies.dense_speed [--device cuda]``: random maps of the size that Stable
Diffusion
gives in the paper's settings. The references enlarge both maps to their images (``eval_spair.py``), and make
the affinities of all cells with all cells of the context at once (DINO's ``eval_video_segmentation.py``).
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from geomatch.benchmarks.harness.machine import write_record
from geomatch.benchmarks.studies.timing import Row, median_seconds, timing_row
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


def dense_rows(device: str, repeats: int) -> list[Row]:
    """Seconds, peak memory on an accelerator, and how far the results are apart."""
    generator = torch.Generator().manual_seed(0)

    def random(shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=generator).to(device)

    ours, theirs = transfer_calls(random)
    rows = [_beside("transfer of 8 points", ours, theirs, "maps enlarged to the images", device, repeats)]
    for context in CONTEXTS["cpu" if device == "cpu" else "cuda"]:
        ours, theirs = propagation_calls(random, context)
        name = f"propagation, {context} frames of context"
        rows.append(_beside(name, ours, theirs, "all affinities at once", device, repeats))
    return rows


def transfer_calls(
    random: Callable[[Sequence[int]], Tensor],
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Similarities of points with every pixel, by us and by the reference."""
    source, target = random(SEMANTIC), random(SEMANTIC)
    places = [(37 * k % IMAGE[0], 53 * k % IMAGE[1]) for k in range(1, POINTS + 1)]

    def ours() -> Tensor:
        map0, map1 = FeatureMap((source,), IMAGE), FeatureMap((target,), IMAGE)
        points = torch.tensor(places, dtype=torch.float64).numpy()
        return PixelFeatures(map1).similarities(map0.sample(points))

    def theirs() -> Tensor:
        large = [
            functional.interpolate(m[None], IMAGE[::-1], mode="bilinear", align_corners=False)[0]
            for m in (source, target)
        ]
        found = []
        for x, y in places:
            vector = functional.normalize(large[0][:, y, x], dim=0)
            rows = functional.normalize(large[1].reshape(SEMANTIC[0], -1).T, dim=1)
            found.append((rows @ vector).view(IMAGE[::-1]))
        return torch.stack(found)

    return ours, theirs


def propagation_calls(
    random: Callable[[Sequence[int]], Tensor], context: int
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Labels of one frame, by us and by the reference."""
    config = PropagationConfig(context=context)
    _, rows, columns = TEMPORAL
    frames = [functional.normalize(random(TEMPORAL), dim=0) for _ in range(context + 2)]
    labels = [random((OBJECTS, rows, columns)).softmax(0) for _ in range(context + 1)]

    def ours() -> Tensor:
        carrier = LabelPropagator(config, frames[0], labels[0])
        for frame, own in zip(frames[1:-1], labels[1:], strict=True):
            carrier.keep(frame, own)
        return carrier.step(frames[-1])

    @torch.inference_mode()
    def theirs() -> Tensor:
        radius = config.radius or 0
        queries = frames[-1].flatten(1).T[None].expand(context + 1, -1, -1)
        affinity = torch.exp(queries @ torch.stack([f.flatten(1) for f in frames[:-1]]) / config.temperature)
        y, x = (
            axis.flatten().to(affinity.device)
            for axis in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        )
        near = ((y[:, None] - y).abs() <= radius) & ((x[:, None] - x).abs() <= radius)
        affinity *= near
        affinity = affinity.transpose(1, 2).reshape(-1, rows * columns)
        least = affinity.topk(config.top_k, dim=0)[0].amin(0)
        affinity[affinity < least] = 0
        affinity = affinity / affinity.sum(0)
        return (torch.cat([own.flatten(1) for own in labels], 1) @ affinity).view(-1, rows, columns)

    return ours, theirs


def _beside(
    name: str,
    ours: Callable[[], Tensor],
    theirs: Callable[[], Tensor],
    words: str,
    device: str,
    repeats: int,
) -> Row:
    difference = float((ours() - theirs()).abs().max())
    seconds, peaks = [], []
    for call in (ours, theirs):
        if device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        before = 0 if device == "cpu" else torch.cuda.memory_allocated()
        seconds.append(median_seconds(partial(_finished, call, device), repeats))
        peaks.append(0 if device == "cpu" else torch.cuda.max_memory_allocated() - before)
    row = timing_row(name, seconds[0], "s", words, seconds[1])
    row["largest_difference"] = difference
    if device != "cpu":
        row |= {"peak_MiB": round(peaks[0] / 2**20), "alternative_peak_MiB": round(peaks[1] / 2**20)}
    return row


def _finished(call: Callable[[], Tensor], device: str) -> None:
    call()
    if device != "cpu":
        torch.cuda.synchronize()


def table(rows: Sequence[Row]) -> str:
    """In Markdown."""
    lines = ["| | geomatch | reference procedure | ratio |", "| --- | --- | --- | --- |"]
    for row in rows:
        ours, theirs = f"{row['value']:.3f} s", f"{row['alternative_value']:.3f} s"
        if "peak_MiB" in row:
            ours += f", {row['peak_MiB']} MiB"
            theirs += f", {row['alternative_peak_MiB']} MiB"
        lines.append(f"| {row['name']} | {ours} | {theirs} | {row['ratio']:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m geomatch.benchmarks.studies.dense_speed", description=__doc__
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5, help="runs per figure, of which the median counts")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="folder for the record")
    options = parser.parse_args()
    measured = dense_rows(options.device, options.repeats)
    print(table(measured))
    settings = {"device": options.device, "repeats": options.repeats}
    if options.device != "cpu":
        settings["accelerator"] = torch.cuda.get_device_name()
    kind = options.device.partition(":")[0]
    print(f"wrote {write_record(options.out, 'dense', measured, settings, kind)}")
