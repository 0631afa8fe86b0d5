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
    """Create an engine, to be used in a ``with`` statement.

    Args:
        name: ``local`` or ``ray``.
        workers: how many; None takes one per core, of a cluster as many as it has room for.
        ray_address: address of the Ray cluster; None takes ``RAY_ADDRESS``, and without it starts Ray here.
        cpus_per_worker: cores that a Ray worker reserves; large networks compute on all of them, everything
            else on one. None takes 1.
        gpus_per_worker: GPUs, or a part of one, of a Ray worker with a network; None takes 1 where the
            cluster has any.

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
