"""Methods to compare: strings that name them, and the peers of the field behind them."""

from geomatch.benchmarks.methods.method import Method, create_method

__all__ = ["Method", "create_method"]
