"""`streamcls bench`: how many streams this machine carries, measured on the real daemon."""

from streamcls.bench.levels import Level, measure_levels
from streamcls.bench.process import cpu_time_s, resident_bytes

__all__ = ["Level", "cpu_time_s", "measure_levels", "resident_bytes"]
