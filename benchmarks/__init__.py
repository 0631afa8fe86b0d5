"""Evaluation on benchmarks; ``python -m geomatch.benchmarks.studies`` measures our own speed and memory."""
