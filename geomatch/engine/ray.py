"""A Ray cluster. Ray places processes, moves blocks and notices deaths; what is made goes to the store."""

import logging
import math
import os
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from geomatch.engine.pool import WorkerPool
from geomatch.engine.task import Answers, FailedBlock, Task
from geomatch.engine.worker import WarmTask, set_threads
from geomatch.errors import GeomatchError, first_line, require
from geomatch.provenance import versions

_DIED = "the worker or the node that worked on it died (of too little memory, perhaps)"


def _ray() -> ModuleType:
    return require("ray", "cluster", "the engine 'ray'")


@dataclass
class RayEngine:
    """Actors on a Ray cluster, each with its model loaded once; fields as in `create_engine`."""

    address: str | None = None
    count: int | None = None
    cpus: float = 1
    gpus: float | None = None
    _pools: dict[float, WorkerPool] = field(default_factory=dict, init=False, repr=False)  # by GPUs
    _joined: bool = field(default=False, init=False, repr=False)

    def __enter__(self) -> "RayEngine":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported anywhere
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # who asks for no GPU sees none
        ray = _ray()
        if not ray.is_initialized():
            address = self.address or os.environ.get("RAY_ADDRESS")
            options: dict[str, Any] = {} if address else {"include_dashboard": False}
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
            except Exception as error:
                place = address or "this machine"
                raise GeomatchError(f"no Ray cluster at {place} ({first_line(error)})") from error
            self._joined = True
        return self

    def __exit__(self, *error: object) -> None:
        for pool in self._pools.values():
            pool.stop()
        self._pools.clear()
        if self._joined:
            _ray().shutdown()
            self._joined = False

    @property
    def workers(self) -> int:
        """Number of workers that the cluster has room for."""
        return self._places(0.0)

    def device(self, name: str) -> str:
        """The device that ``auto`` means on the cluster."""
        if name != "auto":
            return name
        return "cuda" if self._has_gpu() and self.gpus != 0 else "cpu"

    def map(self, task: Task[Any, Any], blocks: Sequence[Sequence[Any]]) -> Answers:
        """Try every block once, see `geomatch.engine.Engine.map`."""
        gpus = 0.0
        if task.need != "processor":
            gpus = self.gpus if self.gpus is not None else float(self._has_gpu())
        for other, pool in self._pools.items():
            if other != gpus:  # what they hold is needed
                pool.stop()
        death = _ray().exceptions.RayActorError
        pool = self._pools.setdefault(gpus, WorkerPool(lambda: _Actor(self.cpus, gpus), death, _DIED))
        yield from pool.map(task, blocks, self._places(gpus))

    def _places(self, gpus: float) -> int:
        if self.count:
            return self.count
        places = 0
        for node in _ray().nodes():
            if node["Alive"]:
                most = node["Resources"].get("CPU", 0) / self.cpus
                if gpus:
                    most = min(most, node["Resources"].get("GPU", 0) / gpus)
                places += math.floor(most)
        if not places:
            size = f"{self.cpus:g} cores" + (f" and {gpus:g} GPUs" if gpus else "")
            text = f"no node of the Ray cluster has room for a worker of {size}"
            raise GeomatchError(f"{text}; for a cluster that grows, say how many (--workers)")
        return places

    @staticmethod
    def _has_gpu() -> bool:
        return bool(_ray().cluster_resources().get("GPU", 0) >= 1)


class _Actor:
    def __init__(self, cpus: float, gpus: float) -> None:
        ray = _ray()
        # no restarts by Ray: a worker that died is replaced where there are free cores, its block tried again
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
        own = versions()
        different = [name for name in own if own[name] != driver.get(name)]
        self._other = [f"{name} {own[name]} in place of {driver.get(name)}" for name in different]
        set_threads(1)
        self._warm = WarmTask(cores)

    def ready(self) -> bool:
        """Return once it has begun."""
        return True

    def work(self, pickled: bytes, block: Sequence[Any]) -> Sequence[Any] | FailedBlock:
        """Do a block, unless the node's versions differ from the driver's."""
        if self._other:
            return FailedBlock(
                f"the node {os.uname().nodename} has {', '.join(self._other)}; all nodes need the versions "
                "of the driver, since results are cached under them",
                "start",
            )
        return self._warm.run(pickled, block)
