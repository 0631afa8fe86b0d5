"""HPatches: sequences and their download, the protocols by name, and what runs methods over them.

``sequences``, ``data`` and ``frames`` bring images and truth; ``measures``, ``solvers``,
``protocols`` and ``evaluation`` say what is measured of a pair; ``harness`` runs methods over
all pairs; ``suite`` tells records and reports about it.
"""
