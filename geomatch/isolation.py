"""What the caller has set torch to does not reach the networks, nor are they run where they would hang."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from geomatch.errors import GeomatchError

_process: int | None = None  # that in which networks ran on several threads


@contextmanager
def isolated(gradients: bool = False) -> Iterator[None]:
    """Autocast, default device, inference mode and gradients of the calling thread do not count within.

    Unless there are to be ``gradients``, they are off, and tensors made here are those of inference mode.
    The default dtype belongs to all threads and stays: tensors are made with a dtype, networks loaded into
    empty ones. A decorator, too, but not of generators. Raises `GeomatchError` in a forked process that would
    wait for ever for threads of its parent.
    """
    _check_fork()
    with ExitStack() as stack:
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # always entered, it would slow every call of torch
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.inference_mode(not gradients))
        stack.enter_context(torch.set_grad_enabled(gradients))
        yield


def _check_fork() -> None:
    global _process
    if torch.get_num_threads() == 1:
        return
    if _process not in (None, os.getpid()):
        raise GeomatchError(
            "this process was forked from one that had used several threads, where torch waits for ever: "
            "start it by multiprocessing.get_context('spawn'), or call torch.set_num_threads(1) in it first"
        )
    _process = os.getpid()
