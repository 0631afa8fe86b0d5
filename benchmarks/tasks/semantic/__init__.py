"""Semantic correspondence: SPair-71k, PF-WILLOW and CUB-200-2011, measured by PCK."""
