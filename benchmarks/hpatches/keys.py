"""Names of kept files: the SHA-256 of all that decides their content."""

import hashlib
import json
from typing import Any

SCHEMA = 2
"""Version of the record's layout; part of every key."""


def digest(content: Any) -> str:
    """Of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
