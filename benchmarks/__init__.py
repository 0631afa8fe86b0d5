"""Measurements, as ratios against a named alternative in one run.

``python -m geomatch.benchmarks`` measures speed and memory and writes one JSON
record under ``runs/benchmarks``; those behind the README are kept in
``benchmarks/results``.
"""
