"""What a run consists of, kept in the store beside what it made."""

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import DamagedError
from geomatch.files import digest_of, pack_arrays, unpack_arrays
from geomatch.provenance import versions
from geomatch.store.store import Store

KIND = "runs"
SCHEMA = 1


@dataclass(frozen=True, eq=False, slots=True)
class Manifest:
    """One run: the same command on the same images has the same manifest, whenever it is given.

    What is done is not written here: it is what the store holds of the keys.
    """

    program: str
    """``collection`` or ``hpatches``."""
    source: str
    """The folder of images or sequences."""
    settings: dict[str, Any]
    """As JSON can hold them."""
    content: str
    """A checksum of the images or sequences."""
    started: str
    """ISO 8601, UTC."""
    names: tuple[str, ...] = ()
    """Of the images; of an evaluation its parts."""
    objects: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Keys of objects by kind."""
    pairs: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 2), np.int32))
    """(P, 2) places in ``names``."""
    pair_keys: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 32), np.uint8))
    """(P, 32) under which the packs of ``matches`` hold the pairs."""
    lost: dict[str, str] = field(default_factory=dict)
    """Images and pairs that could not be done, and why."""
    retries: int = 0
    """Blocks of work that were given out again."""
    complete: bool = False
    """Whether the run came to its end; with nothing lost all is there."""

    @classmethod
    def start(
        cls, store: Store, program: str, source: str, settings: dict[str, Any], content: str
    ) -> "Manifest":
        """Of a run that begins, or goes on: what it is known to need stays, so that nobody prunes it."""
        new = cls(program, source, settings, content, datetime.now(UTC).isoformat(timespec="seconds"))
        try:
            return replace(cls.load(store, new.key), complete=False, lost={}, retries=0)
        except (KeyError, DamagedError):
            return new

    @property
    def key(self) -> str:
        """Of the run."""
        return digest_of([self.program, self.source, self.settings, self.content])

    def saved(self, store: Store, **changes: Any) -> "Manifest":
        """The manifest with changes, after it was written."""
        new = replace(self, **changes)
        summary = {
            "schema": SCHEMA,
            "program": new.program,
            "source": new.source,
            "settings": new.settings,
            "versions": versions(),
            "content": new.content,
            "started": new.started,
            "names": new.names,
            "kinds": sorted(new.objects),
            "lost": new.lost,
            "retries": new.retries,
            "complete": new.complete,
        }
        arrays: dict[str, Any] = {f"keys_{kind}": _packed(keys) for kind, keys in new.objects.items()}
        arrays |= {"pairs": new.pairs, "pair_keys": new.pair_keys}
        data = pack_arrays("Manifest", {"summary": json.dumps(summary), **arrays})
        store.write(KIND, new.key, data)
        return new

    @classmethod
    def load(cls, store: Store, key: str) -> "Manifest":
        """Of the run with that key.

        Raises:
            DamagedError: when it is damaged, or of another version.
            KeyError: when it is not there.
        """
        label = f"{store.url}: {store.name(KIND, key)}"
        kinds = ("features", "global", "chunks", "refined", "rows")
        arrays = unpack_arrays(
            store.read(KIND, key),
            label,
            "Manifest",
            ("summary", "pairs", "pair_keys"),
            [f"keys_{kind}" for kind in kinds],
        )
        summary = json.loads(str(arrays["summary"]))
        if summary["schema"] != SCHEMA:
            raise DamagedError(f"{label}: a manifest of another version of geomatch")
        return cls(
            summary["program"],
            summary["source"],
            summary["settings"],
            summary["content"],
            summary["started"],
            tuple(summary["names"]),
            {kind: tuple(row.tobytes().hex() for row in arrays[f"keys_{kind}"]) for kind in summary["kinds"]},
            arrays["pairs"],
            arrays["pair_keys"],
            summary["lost"],
            summary["retries"],
            summary["complete"],
        )


def _packed(keys: tuple[str, ...]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(bytes.fromhex(key) for key in keys), np.uint8).reshape(-1, 32)
