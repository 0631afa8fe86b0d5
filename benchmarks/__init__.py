"""Evaluation on benchmarks, and studies of our own code.

``python -m geomatch.benchmarks.studies`` measures speed and memory and writes JSON records under
``runs/benchmarks``; those behind the README are stored in ``benchmarks/results``.
"""
