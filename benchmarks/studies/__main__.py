"""``make bench``: pairs from a warm and a cold start, and the matcher, beside other libraries."""

from argparse import ArgumentParser
from pathlib import Path

from geomatch.benchmarks.studies.matching_speed import matching_rows, matching_table
from geomatch.benchmarks.studies.record import rows_table, write_record
from geomatch.benchmarks.studies.speed import pair_rows, process_rows

parser = ArgumentParser(prog="python -m geomatch.benchmarks.studies", description=__doc__)
parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="folder for the record")
parser.add_argument("--repeats", type=int, default=5, help="runs per figure, of which the median counts")
parser.add_argument("--device", default="cpu", help="of the warm pairs: cpu, cuda, mps")
options = parser.parse_args()
whole = pair_rows(options.repeats, options.device) + process_rows(options.repeats)
matching = matching_rows(options.repeats)
tables = [rows_table(whole), matching_table(matching)]
write_record(options.out, whole + matching, options.repeats, options.device, tables)
