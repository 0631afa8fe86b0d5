"""Temporal correspondence: labels carried through videos of DAVIS-2017 (J, F) and JHMDB (PCK)."""
