"""A stage of work, the engines that do it, and what comes back."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

Need = Literal["processor", "network", "large network"]
"""``network``: a small one, which a GPU helps; ``large network``: gigabytes, a GPU or a machine to itself."""
Item = TypeVar("Item")
Result = TypeVar("Result")
_Item = TypeVar("_Item", contravariant=True)
_Result = TypeVar("_Result", covariant=True)


class Task(Protocol[_Item, _Result]):
    """A stage of work, pickled and sent. A block may be done twice; equal items must give equal bytes."""

    @property
    def need(self) -> Need:
        """What the worker should have."""

    def start(self) -> Callable[[Sequence[_Item]], Sequence["_Result | FailedItem"]]:
        """Load models, once per worker; return the function that does a block.

        Its results are in the order of the items; an item that cannot be done, such as a damaged image, is a
        `FailedItem`. Exceptions are for what another try may mend.
        """


@dataclass(frozen=True)
class BlockTask(Generic[Item, Result]):
    """A task without anything to load: a function of a module, or a `functools.partial` of one."""

    function: Callable[[Sequence[Item]], Sequence["Result | FailedItem"]]
    need: Need = "processor"

    def start(self) -> Callable[[Sequence[Item]], Sequence["Result | FailedItem"]]:
        """Return the function."""
        return self.function


@dataclass(frozen=True, slots=True)
class FailedItem:
    """An item that cannot be done; false in a condition."""

    reason: str  # for the user

    def __bool__(self) -> Literal[False]:
        return False


@dataclass(frozen=True, slots=True)
class FailedBlock:
    """A block that was not done in one try."""

    reason: str
    kind: Literal["task", "store", "start"] = "task"
    """``store``: it could not be written or read, which is no fault of the items; ``start``: the worker
    could not begin, and no other will."""


Answers = Generator[tuple[int, Sequence[Any] | FailedBlock], None, None]
"""Numbers of blocks and their results, in any order."""


class Engine(Protocol):
    """Schedules blocks. Used in a ``with`` statement, since workers outlive a stage."""

    @property
    def workers(self) -> int:
        """Number of blocks in work at a time, about."""

    def device(self, name: str) -> str:
        """The device of the workers' networks: ``auto`` becomes ``cuda``, ``mps`` or ``cpu``."""

    def map(self, task: Task[Any, Any], blocks: Sequence[Sequence[Any]]) -> Answers:
        """Try every block once."""

    def __enter__(self) -> "Engine": ...

    def __exit__(self, *error: object) -> None: ...
