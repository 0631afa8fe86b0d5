"""Temporal correspondence: labels carried through the videos of DAVIS-2017 (J, F) and JHMDB (PCK).

``davis`` and ``jhmdb`` read the releases as they are published; ``measures`` and ``protocols`` say
what is measured, ``evaluation`` carries labels through a video, ``harness`` runs methods over all videos;
``suite`` tells records and reports about it.
"""
