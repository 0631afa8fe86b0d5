"""``make bench``: export, engines and speed."""

from geomatch.benchmarks.studies.engines import engine_rows
from geomatch.benchmarks.studies.export_speed import export_rows
from geomatch.benchmarks.studies.record import print_rows, study_parser, write_record
from geomatch.benchmarks.studies.speed import measure

parser = study_parser("", measure.__doc__)
parser.add_argument("--repeats", type=int, default=5, help="runs per figure, of which the median counts")
options = parser.parse_args()
for study, make in (("export", export_rows), ("engines", engine_rows)):  # a peak memory is the process's
    rows = make()
    print_rows(rows)
    write_record(options.out, study, rows, {})
write_record(options.out, "speed", measure(options.repeats), {"repeats": options.repeats})
