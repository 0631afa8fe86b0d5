"""``make bench``: engines, the whole path and the matcher, on the CPU; with --device the path on another."""

from argparse import ArgumentParser
from pathlib import Path

from geomatch.benchmarks.studies import matching_speed
from geomatch.benchmarks.studies.engines import engine_rows
from geomatch.benchmarks.studies.record import rows_table, write_record
from geomatch.benchmarks.studies.speed import pair_rows, process_rows

parser = ArgumentParser(prog="python -m geomatch.benchmarks.studies", description=__doc__)
parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="folder for the record")
parser.add_argument("--repeats", type=int, default=5, help="runs per figure, of which the median counts")
parser.add_argument("--device", default="cpu", help="of the pairs: cpu, cuda, mps")
options = parser.parse_args()
rows = engine_rows()  # before the others, since a peak memory is the process's
write_record(options.out, "engines", rows, {}, [rows_table(rows)], "cpu")
whole = pair_rows(options.repeats, options.device) + process_rows(options.repeats)
matching = matching_speed.matching_rows(options.repeats)
tables = [rows_table(whole), matching_speed.table(matching)]
settings = {"repeats": options.repeats, "device": options.device}
write_record(options.out, "speed", whole + matching, settings, tables, options.device.partition(":")[0])
