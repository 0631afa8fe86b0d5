"""Looking into stores."""

from geomatch.errors import DamagedError
from geomatch.files import is_sound
from geomatch.store import Store
from geomatch.store.upkeep import KINDS


def damaged_objects(store: Store) -> list[str]:
    """Names of the objects whose checksum is wrong, or that are copies of others."""
    damaged = []
    for kind, key in [(one, key) for one in KINDS for key in sorted(store.sizes(one))]:
        try:
            sound = is_sound(store.read(kind, key))
        except DamagedError:
            sound = False
        if not sound:
            damaged.append(store.name(kind, key))
    return damaged
