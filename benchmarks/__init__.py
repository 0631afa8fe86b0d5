"""Measurements, as ratios against a named alternative in one run.

``python -m geomatch.benchmarks`` measures speed and memory and writes one JSON
record under ``benchmarks/results``.
"""
