"""Databases, and work that ends, with pycolmap."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from geomatch.cameras import pycolmap
from geomatch.errors import GeomatchError, first_line


@contextmanager
def database(path: str) -> Iterator[Any]:
    """Open a database with pycolmap, and close it at the end; raises `GeomatchError` when SQLite refuses."""
    try:
        opened = pycolmap().Database.open(path)
    except (RuntimeError, ValueError) as error:
        raise GeomatchError(f"{path}: cannot be opened as a COLMAP database ({first_line(error)})") from error
    try:
        yield opened
    finally:
        opened.close()


def interruptible(call: Callable[[Any], Any], meanwhile: Callable[[], None] | None = None) -> Any:
    """Run a ``call`` of pycolmap with a token by which Ctrl-C ends it; ``meanwhile`` shows progress."""
    token, running = pycolmap().CancellationToken(), list[Future[Any]]()
    with ThreadPoolExecutor(1) as pool:
        try:
            running.append(pool.submit(call, token))
            while not wait(running, 0.2).done:
                if meanwhile is not None:
                    meanwhile()
        except BaseException:
            token.cancel()
            wait(running)  # not join: a thread whose join was interrupted passes for ended, though it runs
            raise
    return running[0].result()
