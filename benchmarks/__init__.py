"""Benchmarks: speed now, protocols later."""
