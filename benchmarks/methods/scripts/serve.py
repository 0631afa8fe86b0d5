"""Lets geomatch use a matcher of another environment, in which this file needs NumPy and nothing of geomatch.

It is run as ``PYTHON serve.py SOCKET SCRIPT NAME MAX_KEYPOINTS DEVICE``. SCRIPT defines ``load(name,
max_keypoints, device)``, which returns ``match(image0, image1)``: of (H, W, 3) uint8 RGB images the matched
points of both, (M, 2), the centre of the first pixel at (0, 0), and perhaps confidences (M,), or None.

SOCKET is a file descriptor. A message is its length, 4 bytes with the highest first, and an ``.npz`` file, as
Python's ``multiprocessing.connection`` sends bytes. The first answer is empty: the matcher is loaded. Then
``image0`` and ``image1`` are answered by ``part0``, ``part1`` and perhaps ``part2``, what ``match`` returned,
an empty message by ``identity``, JSON of what decides it, or any by ``error``. When the other side ends, so
does this process, whatever it does.
"""

import hashlib
import io
import json
import os
import random
import runpy
import select
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

_WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors", ".tar", ".bin", ".npz", ".npy", ".onnx", ".h5", ".pkl")


def send(pipe: Connection, **arrays: Any) -> None:
    """Send a message."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    pipe.send_bytes(buffer.getbuffer())


def receive(pipe: Connection) -> dict[str, Any]:
    """Wait for a message; raises EOFError when the other side has ended."""
    with np.load(io.BytesIO(pipe.recv_bytes()), allow_pickle=False) as arrays:
        return dict(arrays)


def _matched(match: Callable[..., Any], image0: Any, image1: Any) -> dict[str, Any]:
    """The answer to a pair; all that draws at random begins anew, so that earlier pairs do not matter."""
    random.seed(0)
    np.random.seed(0)
    for name, seed in (("torch", "manual_seed"), ("cv2", "setRNGSeed")):
        if name in sys.modules:
            getattr(sys.modules[name], seed)(0)
    parts = [part for part in match(image0, image1) if part is not None]
    return {f"part{k}": np.asarray(part, np.float64) for k, part in enumerate(parts)}


def _identity(match: Callable[..., Any], files: set[str]) -> dict[str, str]:
    """A checksum of all modules in use, files of weights, and the hub's notes of revisions."""
    with suppress(Exception):  # weights may be loaded at the first pair; it need not have matches
        _matched(match, *np.random.default_rng(0).integers(0, 256, (2, 192, 256, 3), np.uint8))
    modules = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    found = filter(os.path.isfile, files | modules | set(getattr(match, "files", ())))
    sums = sorted(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in found)
    files_sum = hashlib.sha256("".join(sums).encode()).hexdigest()
    return {"identity": json.dumps({"version": getattr(match, "version", ""), "files": files_sum})}


def _end_with(socket: int) -> None:
    """End this process when the other side has ended."""
    ended = select.poll()
    ended.register(socket, 0)  # that it hung up is always told
    ended.poll()
    os._exit(0)


def main() -> None:
    """Load, and answer until the other side ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # geomatch ends, and with it the pipe
    socket, script, name, count, device = sys.argv[1:]
    threading.Thread(target=_end_with, args=[int(socket)], daemon=True).start()
    pipe, files, match = Connection(int(socket)), {script}, None
    sys.path[0] = os.path.dirname(os.path.abspath(script))

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        file = arguments[0] if event == "open" else None
        if isinstance(file, str) and (file.endswith(_WEIGHTS) or os.path.dirname(file).endswith("refs")):
            files.add(file)
        if event == "socket.getaddrinfo" and os.environ.get("HF_HUB_OFFLINE") == "1":
            raise OSError("downloads are off, HF_HUB_OFFLINE=0 allows them")

    sys.addaudithook(note)
    try:
        match = runpy.run_path(script)["load"](name, int(count), device)
        send(pipe)
    except Exception as error:
        send(pipe, error=_line(error))
    with suppress(EOFError):  # the other side has ended
        while match is not None:
            request = receive(pipe)
            try:
                answer = _matched(match, **request) if request else _identity(match, files)
            except Exception as error:
                answer = {"error": _line(error)}
            send(pipe, **answer)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


if __name__ == "__main__":
    main()
