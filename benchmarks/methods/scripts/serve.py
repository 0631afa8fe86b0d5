"""Lets geomatch use a matcher of another environment, in which this file needs NumPy and nothing of geomatch.

It is run as ``PYTHON serve.py IN OUT SCRIPT NAME MAX_KEYPOINTS DEVICE`` with file descriptors of two pipes.
SCRIPT defines ``load(name, max_keypoints, device)``, which returns ``match(image0, image1)``: of (H, W, 3)
uint8 RGB images the matched points of both, (N, 2), with the centre of the first pixel at (0, 0), and
confidences (N,) or None.

A message is its length, 8 bytes with the highest first, and an ``.npz`` file. The first answer is empty: the
matcher is loaded. Then ``image0`` and ``image1`` are answered by ``points0``, ``points1`` and perhaps
``confidences``, and an empty message by ``identity``, JSON of what decides the matches; or any by ``error``.
"""

import hashlib
import io
import json
import os
import platform
import random
import runpy
import signal
import sys
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from typing import Any, BinaryIO

import numpy as np

_WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors", ".tar", ".bin", ".npz", ".npy", ".onnx", ".h5", ".pkl")


def send(stream: BinaryIO, **arrays: Any) -> None:
    """Write a message."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    stream.write(len(buffer.getbuffer()).to_bytes(8, "big"))
    stream.write(buffer.getbuffer())
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, Any] | None:
    """Read a message; None when the other side has ended."""
    length = int.from_bytes(stream.read(8), "big")
    data = stream.read(length)
    if not length or len(data) < length:
        return None
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)


def _matched(match: Callable[..., Any], image0: Any, image1: Any) -> dict[str, Any]:
    """The answer to a pair; all that draws at random begins anew, so that earlier pairs do not matter."""
    random.seed(0)
    np.random.seed(0)
    for name, seed in (("torch", "manual_seed"), ("cv2", "setRNGSeed")):
        if name in sys.modules:
            getattr(sys.modules[name], seed)(0)
    points0, points1, confidences = match(image0, image1)
    found = {"points0": points0, "points1": points1}
    if confidences is not None:
        found["confidences"] = confidences
    return {name: np.asarray(value, np.float64) for name, value in found.items()}


def _identity(match: Callable[..., Any], files: set[str]) -> dict[str, Any]:
    """Python, packages in use, and checksums of own modules, weights, and notes of the hub's revisions."""
    with suppress(Exception):  # weights may be loaded at the first pair; it need not have matches
        _matched(match, *np.random.default_rng(0).integers(0, 256, (2, 192, 256, 3), np.uint8))
    files, packages = files | set(getattr(match, "files", ())), {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if "-packages" not in file and not file.startswith(sysconfig.get_paths()["stdlib"]):
            files.add(file)
        elif "-packages" in file and "." not in name:
            with suppress(metadata.PackageNotFoundError):
                packages[name] = str(vars(module).get("__version__") or metadata.version(name))
    sums = set()
    for file in filter(os.path.isfile, files):
        with open(file, "rb") as stream:
            sums.add(hashlib.sha256(stream.read()).hexdigest())
    return {"python": platform.python_version(), "packages": packages, "files": sorted(sums)}


def main() -> None:
    """Load, and answer until the other side ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # geomatch ends, and with it the pipe
    requests, answers = os.fdopen(int(sys.argv[1]), "rb"), os.fdopen(int(sys.argv[2]), "wb")
    script, name, count, device = sys.argv[3:]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    files = {script}

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        file = arguments[0] if event == "open" else None
        if isinstance(file, str) and (file.endswith(_WEIGHTS) or os.path.dirname(file).endswith("refs")):
            files.add(file)

    sys.addaudithook(note)
    request: dict[str, Any] | None = None
    match = None
    while match is None or (request := receive(requests)) is not None:
        try:
            if match is None:
                match = runpy.run_path(script)["load"](name, int(count), device)
                send(answers)
            elif request:
                send(answers, **_matched(match, request["image0"], request["image1"]))
            else:
                send(answers, identity=json.dumps(_identity(match, files), sort_keys=True))
        except Exception as error:
            send(answers, error=f"{type(error).__name__}: {error}".splitlines()[0][:300])
            if match is None:
                return


if __name__ == "__main__":
    main()
