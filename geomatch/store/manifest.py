"""What a run consists of, stored beside what it made."""

import json
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Self, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import DamagedError, reading
from geomatch.files import digest_of, pack_arrays, unpack_arrays
from geomatch.provenance import versions
from geomatch.store.store import Store

KIND = "runs"
SCHEMA = 4


@dataclass(frozen=True, eq=False, slots=True)
class Manifest:
    """One run, the same when its command is given again on the same images; the store says what is done."""

    program: str  # ``collection``, or the name of an evaluation
    source: str  # the folder of the data
    settings: dict[str, Any]  # as JSON can hold them
    content: str  # checksum of the data
    started: str  # ISO 8601, UTC
    names: tuple[str, ...] = ()  # names of the images, or of an evaluation's parts
    objects: dict[str, tuple[str, ...]] = field(default_factory=dict)  # keys of objects by kind
    pair_keys: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 32), np.uint8))
    """(P, 32) keys of the matched pairs in the packs of ``matches``."""
    failed: dict[str, str] = field(default_factory=dict)  # images and pairs that could not be done, and why
    retries: int = 0  # blocks of work that were tried again
    complete: bool = False  # true if the run came to its end; if nothing failed all is there

    @classmethod
    def start(cls, store: Store, program: str, source: str, settings: dict[str, Any], content: str) -> Self:
        """The manifest of a run that begins, or goes on: what it needs stays, so that it is not pruned."""
        new = cls(program, source, settings, content, datetime.now(UTC).isoformat(timespec="seconds"))
        try:
            return replace(cls.load(store, new.key), complete=False, failed={}, retries=0)
        except (KeyError, DamagedError):
            return new

    @property
    def key(self) -> str:
        """Key of the run."""
        return digest_of([self.program, self.source, self.settings, self.content])

    def saved(self, store: Store, **changes: Any) -> "Manifest":
        """The manifest with changes, after it was written."""
        new = replace(self, **changes)
        summary = {f.name: getattr(new, f.name) for f in fields(new) if f.name != "pair_keys"}
        text = json.dumps({**summary, "schema": SCHEMA, "versions": versions()})
        store.write(KIND, new.key, pack_arrays("Manifest", {"summary": text, "pair_keys": new.pair_keys}))
        return new

    @classmethod
    def load(cls, store: Store, key: str) -> Self:
        """Read a run's manifest; raises `KeyError`, or `DamagedError`, also for one of another version."""
        label = store.label(KIND, key)
        arrays = unpack_arrays(store.read(KIND, key), label, "Manifest", ("summary", "pair_keys"))
        with reading(label, "manifest", DamagedError):
            summary = json.loads(str(arrays["summary"]))
            if summary.pop("schema") != SCHEMA:
                raise DamagedError(f"{label}: a manifest of another version of geomatch")
            del summary["versions"]
            names = tuple(summary.pop("names"))
            objects = {kind: tuple(keys) for kind, keys in summary.pop("objects").items()}
            made = cls(**summary, names=names, objects=objects, pair_keys=arrays["pair_keys"].reshape(-1, 32))
            for name, kind in get_type_hints(cls).items():
                if not isinstance(getattr(made, name), get_origin(kind) or kind):
                    raise TypeError(f"{name} must be {kind}")
            if made.key != key:
                raise ValueError("it is of another run")
        return made
