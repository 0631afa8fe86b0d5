"""What is handed out, to whom, and what comes back."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from geomatch.errors import StoreError, first_line

Need = Literal["processor", "network", "large network"]
"""``network``: a small one, which a GPU helps; ``large network``: gigabytes, a GPU or a machine to itself."""
Item = TypeVar("Item")
Result = TypeVar("Result")
_Item = TypeVar("_Item", contravariant=True)
_Result = TypeVar("_Result", covariant=True)


class Task(Protocol[_Item, _Result]):
    """A stage of work. It is pickled and travels; equal tasks on equal items write equal bytes.

    To do a block twice, or half and then whole, is no harm.
    """

    @property
    def need(self) -> Need:
        """What the worker should have."""
        ...

    def start(self) -> Callable[[Sequence[_Item]], Sequence["_Result | Lost"]]:
        """Called once by every worker, to load models; what it returns does one block.

        The results are in the order of the items; an item that cannot be done, such as a damaged image, is
        `Lost`. Exceptions are for what another try may mend.
        """
        ...


@dataclass(frozen=True, slots=True)
class Lost:
    """An item that cannot be done; false in a condition."""

    reason: str
    """In words for the user."""

    def __bool__(self) -> Literal[False]:
        return False


@dataclass(frozen=True, slots=True)
class Failure:
    """A block that was not done in one try."""

    reason: str
    kind: Literal["task", "store", "start"] = "task"
    """``store``: it could not be written or read, which is no fault of the items; ``start``: the worker
    could not begin, and no other will."""


class Engine(Protocol):
    """Whoever hands blocks out. Used in a ``with`` statement, since workers outlive a stage."""

    @property
    def workers(self) -> int:
        """How many blocks are under way at a time, about."""
        ...

    def device(self, name: str) -> str:
        """What ``auto`` means for networks of the workers: ``cuda``, ``mps`` or ``cpu``; others as they are.

        Raises:
            ValueError: when it is known that the device cannot be used.
        """
        ...

    def map(
        self, task: Task[Any, Any], blocks: Sequence[Sequence[Any]]
    ) -> Generator[tuple[int, Sequence[Any] | Failure], None, None]:
        """Every block tried once: its number and results, in any order."""
        ...

    def __enter__(self) -> "Engine": ...

    def __exit__(self, *error: object) -> None: ...


def attempt(work: Callable[[Sequence[Any]], Sequence[Any]], block: Sequence[Any]) -> Sequence[Any] | Failure:
    """One try of one block; no exception but those that end the process gets out."""
    try:
        return work(block)
    except StoreError as error:
        return Failure(first_line(error), "store")
    except MemoryError:
        return Failure("out of memory")
    except Exception as error:
        return Failure(first_line(error))


def started(task: Task[Any, Any]) -> Callable[[Sequence[Any]], Sequence[Any]] | Failure:
    """The task's function, or why it cannot begin."""
    try:
        return task.start()
    except Exception as error:
        return Failure(first_line(error), "start")
