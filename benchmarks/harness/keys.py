"""Version of what is kept."""

SCHEMA = 3
"""Version of the record's layout; part of every key."""
