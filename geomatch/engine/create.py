"""An engine by name."""

from typing import Literal

from geomatch.engine.local import LocalEngine
from geomatch.engine.task import Engine

EngineName = Literal["local", "ray"]


def create_engine(
    name: EngineName = "local",
    workers: int | None = None,
    ray_address: str | None = None,
    cpus_per_worker: float | None = None,
    gpus_per_worker: float | None = None,
) -> Engine:
    """The engine of that name.

    Args:
        name: ``local`` or ``ray``.
        workers: how many; None takes what the machine or the cluster has room for.
        ray_address: of the cluster, for ``ray``; None takes ``RAY_ADDRESS``, and without it starts Ray here.
        cpus_per_worker: for ``ray``, cores that a worker reserves; large networks compute on all of them,
            everything else on one. None takes 1.
        gpus_per_worker: for ``ray``, GPUs, or a part of one, of a worker with a network; None takes 1 where
            the cluster has any.

    Raises:
        MissingDependencyError: when Ray is not installed.
        ValueError: for options of another engine, or an unknown one.
    """
    if name == "ray":
        from geomatch.engine.ray import RayEngine

        return RayEngine(ray_address, workers, cpus_per_worker or 1, gpus_per_worker)
    if name != "local":
        raise ValueError(f"unknown engine {name!r}; choose local or ray")
    if ray_address or cpus_per_worker or gpus_per_worker is not None:
        raise ValueError("an address, or cores and GPUs per worker, are for the engine 'ray'")
    return LocalEngine(workers)
