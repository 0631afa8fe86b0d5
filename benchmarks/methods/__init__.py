"""Methods to compare: strings that name them, the user's own, and the baselines of the field."""

from geomatch.benchmarks.methods.method import Method
from geomatch.benchmarks.methods.strings import create_dense_method, create_method

__all__ = ["Method", "create_dense_method", "create_method"]
