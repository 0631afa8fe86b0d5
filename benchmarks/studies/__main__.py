"""``make bench``: engines, the whole path and the matcher, on the CPU."""

from geomatch.benchmarks.studies import matching_speed, sizing
from geomatch.benchmarks.studies.engines import engine_rows
from geomatch.benchmarks.studies.record import rows_table, study_parser, write_record
from geomatch.benchmarks.studies.speed import pair_rows, process_rows

parser = study_parser("", __doc__)
parser.add_argument("--repeats", type=int, default=5, help="runs per figure, of which the median counts")
options = parser.parse_args()
rows = engine_rows()  # before the others, since a peak memory is the process's
write_record(options.out, "engines", rows, {}, [rows_table(rows), sizing.table(sizing.rates_of(rows))])
whole = pair_rows(options.repeats) + process_rows(options.repeats)
matching = matching_speed.matching_rows(options.repeats)
tables = [rows_table(whole), matching_speed.table(matching)]
write_record(options.out, "speed", whole + matching, {"repeats": options.repeats}, tables)
