"""Where features and matches are cached: a local folder, a shared one, or object storage."""

from geomatch.store.manifest import Manifest as Manifest
from geomatch.store.store import Store as Store
