"""Every figure of an accelerator in one run of a few minutes, each beside its alternative.

``python -m geomatch.benchmarks.studies.accelerator`` measures extraction by full-size models with random
weights (Stable Diffusion 2-1 and ADM, the paper's settings), a pair, matching, and the features of 200
photographs. ``--device cpu --small`` tries all of it out, with narrow models.
"""

import tempfile
import time
import traceback
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from geomatch import DIFTExtractor
from geomatch.benchmarks.studies import extraction, matching_speed, speed
from geomatch.benchmarks.studies.engines import extract_timed, make_photographs
from geomatch.benchmarks.studies.networks import NETWORKS, make_model, prompt_of
from geomatch.benchmarks.studies.record import Row, rows_table, study_parser, timing_row, write_record
from geomatch.collection import find_images
from geomatch.dift import PRESETS
from geomatch.engine import LocalEngine, Work
from geomatch.errors import first_line
from geomatch.keypoints import MixedDetector
from geomatch.store import Store

SIZE = (800, 640)
KEYPOINTS = 1000


def main() -> None:
    """Run from the command line."""
    parser = study_parser("accelerator", __doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="narrow models and few images, to try it out")
    parser.add_argument("--size", type=int, default=768, help="side of the images that the models see")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=sorted(SECTIONS), default=list(SECTIONS))
    options = parser.parse_args()
    if options.small:
        options.size, options.repeats = 128, 1
    rows: list[Row] = []
    for name in options.only:
        start = time.perf_counter()
        try:
            found = SECTIONS[name](options)
        except Exception as error:  # the others are measured all the same
            traceback.print_exc()
            found = [{"name": f"{name} failed", "reason": first_line(error)}]
        rows += [{**row, "section": name} for row in found]
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        settings = {name: getattr(options, name) for name in ("device", "small", "size", "only")}
        # after each section, so that a run that is cut short leaves what it has
        tables = [rows_table(row for row in rows if "unit" in row)]
        study = "accelerator-small" if options.small else "accelerator"
        write_record(options.out, study, rows, settings, tables, options.device.partition(":")[0])


def _setup(network: str, options: Namespace) -> extraction.Setup:
    name = f"{network}-narrow" if options.small else network
    return extraction.Setup(name, options.size, options.device, options.repeats)


def _extraction(network: str, options: Namespace) -> list[Row]:
    found = extraction.measure(_setup(network, options))
    return [{**row, "name": f"{network}, {row['name']}"} for row in found]


def _pairs(options: Namespace) -> list[Row]:
    pairs = (((320, 240), 200),) if options.small else speed.PAIRS
    return speed.pair_rows(options.repeats, options.device, pairs)


def _matching(options: Namespace) -> list[Row]:
    counts = (300,) if options.small else matching_speed.COUNTS[1:]
    return matching_speed.device_rows(options.device, options.repeats, counts)


def _large(options: Namespace) -> list[Row]:
    """A pair and the photographs, by one Stable Diffusion, one pass per image."""
    setup, small, device = _setup("sd", options), options.small, options.device
    network, size = NETWORKS[setup.network], setup.size
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_model(network, folder, device)
        config = replace(PRESETS["dift-sd-fast"], model=place, device=device, image_size=(size, size))
        describer = DIFTExtractor(config, prompt_of(network))
        alone = extraction.parts_alone(setup, extraction.dtype_of(describer), folder)
        with speed.resized_pair((160, 128) if small else SIZE) as paths:
            label = f"full-size model, {size}x{size}, {device}"
            rows = speed.stage_rows(paths, label, 100 if small else 3000, describer, setup.repeats)
        return rows + _feature_rows(describer, 4 if small else 200, extraction.IMAGES / alone)


def _feature_rows(describer: DIFTExtractor, images: int, alone: float) -> list[Row]:
    """The feature stage of a collection beside ``alone``, images per second of the network alone."""
    parts = MixedDetector(max_keypoints=KEYPOINTS, device=describer.config.device), describer
    with tempfile.TemporaryDirectory() as name:
        make_photographs(Path(name) / "images", images, SIZE)
        found, store = find_images(Path(name) / "images"), Store.at(Path(name) / "store")
        work = Work(LocalEngine(1), progress=False)
        spent, _ = extract_timed(found, parts, store, work, images)  # what is compiled is so before
    row = timing_row(f"features of {images} photographs", images / spent, "images/s", "network alone", alone)
    rows = [row | {"ratio": round(images / spent / alone, 3)}]
    if told := work.stages.get("features"):  # where the stages overlap
        busy = timing_row("of this time the network is busy", 100 * told["busy"], "%")
        rows.append(busy | {"slowest": told["slowest"], "seconds": told["seconds"]})
    return rows


SECTIONS: dict[str, Callable[[Namespace], list[Row]]] = {
    "sd": partial(_extraction, "sd"),
    "adm": partial(_extraction, "adm"),
    "pairs": _pairs,
    "matching": _matching,
    "large": _large,
}


if __name__ == "__main__":
    main()
