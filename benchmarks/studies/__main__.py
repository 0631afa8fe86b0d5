"""``make bench``."""

import argparse
from pathlib import Path

from geomatch.benchmarks.harness.machine import write_record
from geomatch.benchmarks.studies.engines import engine_rows
from geomatch.benchmarks.studies.export_speed import export_rows
from geomatch.benchmarks.studies.speed import measure

parser = argparse.ArgumentParser(prog="python -m geomatch.benchmarks", description=measure.__doc__)
parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="folder for the record")
parser.add_argument("--repeats", type=int, default=5, help="runs per figure, of which the median counts")
options = parser.parse_args()
exported = export_rows()  # first: its peak memory is that of the process
for row in exported:
    beside = f"   beside {row['alternative']}: {row['ratio']:.2f} x"
    print(f"{row['name']:<70} {row['value']:>9.3f} {row['unit']}{beside}")
print(f"wrote {write_record(options.out, 'export', exported, {})}")
engines = engine_rows()
for row in engines:
    beside = f"   beside {row['alternative']}: {row['ratio']:.2f} x" if "ratio" in row else ""
    print(f"{row['name']:<70} {row['value']:>9.3f} {row['unit']}{beside}")
print(f"wrote {write_record(options.out, 'engines', engines, {})}")
rows = measure(options.repeats)
print(f"wrote {write_record(options.out, 'speed', rows, {'repeats': options.repeats})}")
