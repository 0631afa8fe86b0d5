"""Every figure of an accelerator in one run of a few minutes, each beside its alternative.

``python -m geomatch.benchmarks.studies.accelerator`` measures extraction by full-size models with random
weights (Stable Diffusion 2-1 and ADM, the paper's settings), a pair, matching, a benchmark of 580 made pairs,
and the features of 200 photographs. ``--device cpu --small`` tries all of it out, with narrow models.
"""

import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from geomatch import DIFTExtractor
from geomatch.benchmarks.studies import extraction, matching_speed, speed, streams
from geomatch.benchmarks.studies.networks import NETWORKS, make_model, prompt_of
from geomatch.benchmarks.studies.record import Row, rows_table, study_parser, write_record
from geomatch.dift import PRESETS
from geomatch.errors import first_line


def main() -> None:
    """Run from the command line."""
    parser = study_parser("accelerator", __doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="narrow models and few images, to try it out")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=sorted(SECTIONS), default=list(SECTIONS))
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.only:
        start = time.perf_counter()
        try:
            found = SECTIONS[name](options.device, options.small, 1 if options.small else options.repeats)
        except Exception as error:  # the others are measured all the same
            traceback.print_exc()
            found = [{"name": f"{name} failed", "reason": first_line(error)}]
        rows += [{**row, "section": name} for row in found]
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
        settings = {"device": options.device, "small": options.small, "sections": options.only}
        # after each section, so that a run that is cut short leaves what it has
        tables = [rows_table(row for row in rows if "unit" in row)]
        study = "accelerator-small" if options.small else "accelerator"
        write_record(options.out, study, rows, settings, tables, options.device.partition(":")[0])


def _extraction(network: str) -> Callable[[str, bool, int], list[Row]]:
    def rows(device: str, small: bool, repeats: int) -> list[Row]:
        name, size = (f"{network}-narrow", 128) if small else (network, 768)
        found = extraction.measure(extraction.Setup(name, size, device, repeats), ["auto", "bfloat16"])
        return [{**row, "name": f"{network}, {row['name']}"} for row in found]

    return rows


def _pairs(device: str, small: bool, repeats: int) -> list[Row]:
    return speed.pair_rows(repeats, device, (((320, 240), 200),) if small else speed.PAIRS)


def _matching(device: str, small: bool, repeats: int) -> list[Row]:
    return matching_speed.device_rows(device, repeats, (300,) if small else matching_speed.COUNTS[1:])


def _large(device: str, small: bool, repeats: int) -> list[Row]:
    """A pair, the made set and the photographs, by one Stable Diffusion, one pass per image."""
    name, size = ("sd-narrow", 128) if small else ("sd", 768)
    network = NETWORKS[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_model(network, folder, device)
        config = replace(PRESETS["dift-sd-fast"], model=place, device=device, image_size=(size, size))
        describer = DIFTExtractor(config, prompt_of(network))
        setup = extraction.Setup(name, size, device, repeats)
        alone = extraction.parts_alone(setup, extraction.dtype_of(describer), folder)
        with speed.resized_pair((160, 128) if small else (800, 640)) as paths:
            label = f"full-size model, {size}x{size}, {device}"
            rows = speed.stage_rows(paths, label, 100 if small else 3000, describer, repeats)
        images, warm, photographs = (4, 4, 1) if small else (200, 200, 58)  # what is compiled is so before
        rows += streams.feature_rows(describer, images, extraction.IMAGES / alone, warm)
        return rows + streams.made_set_rows(describer, photographs)


SECTIONS: dict[str, Callable[[str, bool, int], list[Row]]] = {
    "sd": _extraction("sd"),
    "adm": _extraction("adm"),
    "pairs": _pairs,
    "matching": _matching,
    "large": _large,
}


if __name__ == "__main__":
    main()
