"""Version of what is kept."""

SCHEMA = 2
"""Version of the record's layout; part of every key."""
