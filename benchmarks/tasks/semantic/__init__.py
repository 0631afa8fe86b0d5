"""Semantic correspondence: SPair-71k, PF-WILLOW and CUB-200-2011, measured by PCK.

``data`` and the loaders ``spair``, ``willow`` and ``cub`` read the releases as they are published;
``protocols`` says what is measured, ``evaluation`` measures, ``harness`` runs methods over all
categories; ``suite`` tells records and reports about it.
"""
