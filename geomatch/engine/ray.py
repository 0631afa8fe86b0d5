"""A Ray cluster. Ray places processes, moves blocks and notices deaths; what is made goes to the store."""

import logging
import math
import os
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from geomatch.engine.local import begun, set_threads
from geomatch.engine.pool import Crew
from geomatch.engine.task import Failure, Task, attempt
from geomatch.errors import GeomatchError, first_line, require
from geomatch.provenance import versions

DIED = "the worker or the node that worked on it died (of too little memory, perhaps)"


@dataclass
class RayEngine:
    """Actors on a Ray cluster, each with its model loaded once."""

    address: str | None = None
    """See `create_engine`, as for the others."""
    count: int | None = None
    cpus: float = 1
    gpus: float | None = None
    _crews: dict[float, Crew] = field(default_factory=dict, init=False, repr=False)
    _joined: bool = field(default=False, init=False, repr=False)

    def __enter__(self) -> "RayEngine":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported anywhere
        # workers that ask for no GPU see none
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
        ray = require("ray", "ray", "the engine 'ray'")
        if not ray.is_initialized():
            address = self.address or os.environ.get("RAY_ADDRESS")
            options: dict[str, Any] = {} if address else {"include_dashboard": False}
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
            except Exception as error:
                raise GeomatchError(
                    f"no Ray cluster at {address or 'this machine'} ({first_line(error)})"
                ) from error
            self._joined = True
        return self

    def __exit__(self, *error: object) -> None:
        for crew in self._crews.values():
            crew.dismiss()
        self._crews.clear()
        if self._joined:
            require("ray", "ray", "the engine 'ray'").shutdown()
            self._joined = False

    @property
    def workers(self) -> int:
        """See `Engine.workers`."""
        return self._room(0.0)

    def device(self, name: str) -> str:
        """See `Engine.device`."""
        if name != "auto":
            return name
        return "cuda" if self._has("GPU") and self.gpus != 0 else "cpu"

    def map(
        self, task: Task[Any, Any], blocks: Sequence[Sequence[Any]]
    ) -> Generator[tuple[int, Sequence[Any] | Failure], None, None]:
        """See `Engine.map`."""
        gpus = self._gpus(task)
        for other, crew in self._crews.items():
            if other != gpus:  # what they hold is needed
                crew.dismiss()
        deaths = (require("ray", "ray", "the engine 'ray'").exceptions.RayActorError,)
        crew = self._crews.setdefault(gpus, Crew(lambda: _Actor(self.cpus, gpus), deaths, DIED))
        yield from crew.map(task, blocks, self._room(gpus))

    def _gpus(self, task: Task[Any, Any]) -> float:
        if task.need == "processor":
            return 0.0
        return self.gpus if self.gpus is not None else float(self._has("GPU") >= 1)

    def _room(self, gpus: float) -> int:
        if self.count:
            return self.count
        places = 0
        for node in require("ray", "ray", "the engine 'ray'").nodes():
            if node["Alive"]:
                room = node["Resources"].get("CPU", 0) / self.cpus
                if gpus:
                    room = min(room, node["Resources"].get("GPU", 0) / gpus)
                places += math.floor(room)
        if not places:
            raise GeomatchError(
                f"no node of the Ray cluster has room for a worker of {self.cpus:g} cores"
                + (f" and {gpus:g} GPUs" if gpus else "")
                + "; for a cluster that grows, say how many (--workers)"
            )
        return places

    @staticmethod
    def _has(resource: str) -> float:
        ray = require("ray", "ray", "the engine 'ray'")
        return float(ray.cluster_resources().get(resource, 0))


class _Actor:
    """A worker of the cluster."""

    def __init__(self, cpus: float, gpus: float) -> None:
        ray = require("ray", "ray", "the engine 'ray'")
        # no restarts by Ray: a worker that died is replaced where there is room, and its block tried again
        made = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0)(Remote)
        self._actor = made.remote(max(1, int(cpus)), versions(), os.getcwd())
        self._pickle = ray.cloudpickle.dumps  # classes of a script travel whole
        self._kill = ray.kill
        self._task: tuple[Task[Any, Any], Any] | None = None

    def ready(self) -> "Future[Any]":
        future: Future[Any] = self._actor.ready.remote().future()
        return future

    def submit(self, task: Task[Any, Any], block: Sequence[Any]) -> "Future[Any]":
        if self._task is None or self._task[0] is not task:
            self._task = task, self._pickle(task)
        future: Future[Any] = self._actor.work.remote(self._task[1], block).future()
        return future

    def stop(self) -> None:
        self._kill(self._actor)


class Remote:
    """What runs on a node."""

    def __init__(self, cores: int, driver: dict[str, str], folder: str) -> None:
        with suppress(OSError):
            os.chdir(folder)  # relative paths mean the same, where the folder is shared
        self._trouble = ""
        if versions() != driver:
            own = versions()
            other = [
                f"{name} {own[name]} in place of {driver.get(name)}"
                for name in own
                if own[name] != driver.get(name)
            ]
            self._trouble = (
                f"the node {os.uname().nodename} has {', '.join(other)}; all nodes need the versions of the "
                "machine that gives the command, since results are kept under them"
            )
        self._cores = cores
        set_threads(1)
        self._last: tuple[bytes, Any] | None = None

    def ready(self) -> bool:
        """Whether it has begun."""
        return True

    def work(self, pickled: bytes, block: Sequence[Any]) -> Sequence[Any] | Failure:
        """One block; the last task's models stay loaded."""
        if self._trouble:
            return Failure(self._trouble, "start")
        if self._last is None or self._last[0] != pickled:
            self._last = None
            self._last = pickled, begun(pickled, self._cores)
        ready = self._last[1]
        return ready if isinstance(ready, Failure) else attempt(ready, block)
