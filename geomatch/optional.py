"""Optional packages: imported where they are needed, with a way out when missing."""

import importlib
from types import ModuleType

from geomatch.errors import MissingDependencyError


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Raises:
        MissingDependencyError: naming the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{purpose} needs the package '{module}'; install it with: pip install 'geomatch-dift[{extra}]'"
        ) from error
