"""Matchers that run in a process of another environment, such as those of vismatch."""

import atexit
import json
import os
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import torch

from geomatch.benchmarks.methods.functions import matched_features
from geomatch.benchmarks.methods.scripts.serve import receive, send
from geomatch.errors import FeaturesError, MissingDependencyError, WeightsError
from geomatch.images import Image
from geomatch.places import user_path
from geomatch.provenance import settings_key
from geomatch.types import Features

_SCRIPTS = Path(__file__).parent / "scripts"
_PATIENCE = 5.0  # seconds that a process has to end
_LONGEST = 3600.0  # and to load, or to match a pair


@dataclass(frozen=True)
class WorkerMatcher:
    """A matcher that ``scripts/serve.py``, which says how it is asked, runs with another Python."""

    name: str  # what the script loads
    python: str  # the interpreter; variables of the environment are replaced where it starts
    script: str
    max_matches: int = 2000
    device: str = "cpu"

    def cache_key(self) -> Any:
        """The settings, and the worker's identity; it may raise `MissingDependencyError`, `WeightsError`."""
        answer = _asked(self)
        if "error" in answer:
            raise WeightsError(f"{self.name}: {answer['error']}")
        return [settings_key(self, leave_out=("python", "script")), json.loads(str(answer["identity"]))]

    def match_images(self, image0: Image, image1: Image) -> tuple[Features, Features]:
        """See `PairMatcher`; raises `FeaturesError` when the matcher fails, or gives something else."""
        answer = _asked(self, image0=image0.pixels, image1=image1.pixels)
        try:
            if "error" in answer:
                raise FeaturesError(answer["error"])
            both = matched_features(list(answer.values()), image0, image1)
        except FeaturesError as error:
            raise FeaturesError(f"{self.name} failed ({error})") from error
        return both[0][: self.max_matches], both[1][: self.max_matches]


def worker_matcher(text: str, max_matches: int, device: str) -> WorkerMatcher:
    """By its string, ``vismatch:NAME`` or ``worker:PYTHON:SCRIPT``; raises ValueError for any other."""
    kind, _, rest = text.partition(":")
    if kind == "vismatch" and rest:
        script = str(_SCRIPTS / "any_of_vismatch.py")
        return WorkerMatcher(text, "$GEOMATCH_VISMATCH_PYTHON", script, max_matches, device)
    python, _, script = rest.partition(":")
    if not python or not script:
        raise ValueError(f"{text}: write vismatch:NAME or worker:PYTHON:SCRIPT")
    return WorkerMatcher(Path(script).stem, python, script, max_matches, device)


class _Worker:
    """A process that has loaded a matcher."""

    def __init__(self, matcher: WorkerMatcher) -> None:
        python, script = (str(user_path(os.path.expandvars(p))) for p in (matcher.python, matcher.script))
        self._pipe, theirs = Pipe()
        given: list[Any] = [theirs.fileno(), script, matcher.name, matcher.max_matches, matcher.device]
        defaults = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process runs)
        try:
            self._process = subprocess.Popen(
                [python, str(_SCRIPTS / "serve.py"), *map(str, given)], stdin=subprocess.DEVNULL,
                stdout=self._said, stderr=self._said, pass_fds=given[:1], env={**defaults, **os.environ},
            )  # fmt: skip
        except OSError as error:
            self._said.close()
            raise MissingDependencyError(
                f"{matcher.name} runs in an environment of its own, and {python} is no Python that starts "
                f"({error.strerror}); let it name one"
            ) from error
        finally:
            theirs.close()
        loaded = self.ask()
        if loaded is None or "error" in loaded:
            ended = self.end()
            reason = ended if loaded is None else str(loaded["error"])
            missing = reason.startswith(("ModuleNotFoundError", "ImportError", "FileNotFoundError"))
            kind = MissingDependencyError if missing else WeightsError
            raise kind(f"{matcher.name} cannot be loaded in its environment ({reason})")

    def ask(self, arrays: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The answer, after ``arrays`` were sent, if any; None when the process has ended."""
        try:
            if arrays is not None:
                send(self._pipe, **arrays)
            if not self._pipe.poll(_LONGEST):
                self._process.kill()
                return {"error": f"no answer in {_LONGEST:g} seconds"}
            return receive(self._pipe)
        except (EOFError, OSError):
            return None

    def end(self) -> str:
        """How the process ended, as it does when it is asked no more, and what it said last."""
        self._pipe.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
        code = self._process.wait()
        with self._said as said:
            said.seek(max(0, said.seek(0, os.SEEK_END) - 4096))
            words = said.read().decode(errors="replace").strip().rpartition("\n")[2]
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        return f"{how}, last words: {words[:200] or '-'}"


_lock = threading.RLock()
_running: dict[tuple[int, WorkerMatcher], _Worker] = {}  # one of each process, since it holds a network


@atexit.register
def _end_all() -> None:
    for key in [key for key in _running if key[0] == os.getpid()]:
        _running.pop(key).end()


def _asked(matcher: WorkerMatcher, **arrays: Any) -> dict[str, Any]:
    """What the matcher's process answers; it is started again once, since something may have killed it."""
    key, ended = (os.getpid(), matcher), ""
    with _lock:
        if not arrays:  # files may have changed since it read them
            _end_all()
        for _ in range(2):
            if (worker := _running.pop(key, None)) is None:
                _end_all()
                worker = _Worker(matcher)
            try:
                answer = worker.ask(arrays)
            except BaseException:  # an answer that comes later would be taken for that to the next pair
                worker.end()
                raise
            if answer is not None:
                _running[key] = worker
                return answer
            ended = worker.end()
    return {"error": f"its process ended, and again when it was started again: {ended}"}
