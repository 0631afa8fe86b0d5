"""HPatches: sequences and their download, the protocols by name, the harness that runs them, its reports.

``sequences``, ``data`` and ``frames`` bring images and truth; ``measures``, ``solvers``,
``protocols`` and ``evaluation`` say what is measured of a pair; ``harness`` runs methods over
all pairs and writes a ``record``; ``runs``, ``comparison``, ``charts`` and ``report`` read records.
"""
