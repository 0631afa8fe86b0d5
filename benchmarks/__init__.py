"""Evaluation on benchmarks, studies of our own code, and the recipe of what is embedded.

``python -m geomatch.benchmarks.studies`` measures speed and memory and writes JSON records under
``runs/benchmarks``; those behind the README are stored in ``benchmarks/results``.
"""
