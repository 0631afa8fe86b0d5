"""What does the work of a run, where its results are cached, and what is shown meanwhile."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from geomatch.engine.local import LocalEngine
from geomatch.engine.run import Work
from geomatch.engine.task import Engine
from geomatch.store import Store

EngineName = Literal["local", "ray"]


@dataclass(frozen=True, slots=True)
class RunContext:
    """Everything about a run that does not decide its results."""

    store: Store | str | os.PathLike[str] | None = None
    """Where features, matches and rows are cached: a folder, made when missing, or a URL of fsspec
    (``s3://bucket/folder``). None takes a folder beside the results."""
    engine: Engine | None = None
    """Does the work, within its ``with`` statement. None takes the cores of this machine for this call,
    which a script must do under ``if __name__ == "__main__":``, as all that starts processes."""
    device: str = "auto"
    """Where networks that are given by name run: ``cpu``, ``cuda``, ``mps``; ``auto`` takes the workers'."""
    progress: bool = True
    """Show bars with rate and time left."""

    @contextmanager
    def started(self) -> Iterator["RunContext"]:
        """The same with an engine, which is started and ended here where none was given."""
        if self.engine is not None:
            yield self
            return
        with LocalEngine() as own:
            yield replace(self, engine=own)

    def work(self) -> Work:
        """The bookkeeping of a run's stages; within `started`."""
        if self.engine is None:
            raise ValueError("a run has no engine yet: use it within RunContext.started()")
        return Work(self.engine, self.progress)

    def store_at(self, default: Path) -> Store:
        """The store; in the folder ``default`` where none was given."""
        return self.store if isinstance(self.store, Store) else Store.at(self.store or default)


CONTEXT = RunContext()  # what functions take when nothing is said


def create_engine(
    name: EngineName = "local",
    workers: int | None = None,
    ray_address: str | None = None,
    cpus_per_worker: float | None = None,
    gpus_per_worker: float | None = None,
) -> Engine:
    """Create an engine, to be used in a ``with`` statement.

    Args:
        name: ``local`` or ``ray``.
        workers: how many; None takes one per core, of a cluster as many as it has room for.
        ray_address: address of the Ray cluster; None takes ``RAY_ADDRESS``, and without it starts Ray here.
        cpus_per_worker: cores that a Ray worker reserves, by default 1; only large networks use several.
        gpus_per_worker: GPUs, or a part of one, of a Ray worker with a network; None: 1, if there is one.

    Raises MissingDependencyError without Ray, ValueError for an unknown engine, or options of another one.
    """
    if name == "ray":
        from geomatch.engine.ray import RayEngine

        return RayEngine(ray_address, workers, cpus_per_worker or 1, gpus_per_worker)
    if name != "local":
        raise ValueError(f"unknown engine {name!r}; choose local or ray")
    if ray_address or cpus_per_worker or gpus_per_worker is not None:
        raise ValueError("an address, or cores and GPUs per worker, are for the engine 'ray'")
    return LocalEngine(workers)
