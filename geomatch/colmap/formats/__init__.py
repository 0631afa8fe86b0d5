"""Correspondences in the formats of other programs."""
