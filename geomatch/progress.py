"""Bars on standard error."""

import logging
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(
    items: Iterable[Any] | None,
    what: str,
    unit: str,
    total: int | None = None,
    shown: bool = True,
    done: int = 0,
) -> Any:
    """A bar of ``tqdm``, with rate and time left, over ``items`` or updated by hand.

    It counts by the word ``unit`` and begins at ``done``. There is none where standard error is no terminal
    or the logger ``geomatch`` takes no warnings.
    """
    hidden = not (shown and logging.getLogger("geomatch").isEnabledFor(logging.WARNING))
    return tqdm(items, what, total, initial=done, unit=unit, unit_scale=unit == "B", disable=hidden or None)
