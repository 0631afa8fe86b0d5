"""Tasks whose workers die, fail and count; worker processes import them from here."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from geomatch.engine import FailedItem
from geomatch.engine.task import Need
from geomatch.errors import StoreError, WeightsError


def once(folder: Path, word: str) -> bool:
    """True for the first who asks, in whatever process."""
    try:
        (folder / word).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@dataclass(frozen=True)
class Toy:
    """Doubles numbers. Negative ones cannot be done."""

    folder: Path
    kills: int | None = None
    """Ends the process, always."""
    kills_once: int | None = None
    raises_once: int | None = None
    store_fails: bool = False
    no_start: bool = False
    seconds: float = 0.0
    need: Need = "processor"

    def start(self) -> Callable[[Sequence[int]], list[int | FailedItem]]:
        if self.no_start:
            raise WeightsError("the weights are missing")
        (self.folder / f"started-{os.getpid()}-{time.monotonic_ns()}").touch()
        return lambda block: [self._double(item) for item in block]

    def _double(self, item: int) -> int | FailedItem:
        time.sleep(self.seconds)
        (self.folder / f"tried-{item}-{time.monotonic_ns()}").touch()
        if self.store_fails:
            raise StoreError("the disk is full")
        if item == self.kills or (item == self.kills_once and once(self.folder, "killed")):
            os.kill(os.getpid(), signal.SIGKILL)
        if item == self.raises_once and once(self.folder, "raised"):
            raise ValueError("bad luck")
        return FailedItem("negative") if item < 0 else 2 * item
