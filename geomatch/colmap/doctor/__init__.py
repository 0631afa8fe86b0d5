"""Examines COLMAP databases for known mistakes."""
