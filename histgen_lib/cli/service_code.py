"""The services' own code, for the few commands that need it.

Services stand beside the library, not below it; the command line is where both meet. So they are imported
by name, and only when such a command runs.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from histgen_lib.errors import FatalError


def service_code(module: str) -> ModuleType:
    """Import a module of `services`. FatalError("services-missing") where they are not installed."""
    try:
        return import_module(f"services.{module}")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("services"):
            raise
        raise FatalError(
            "services-missing",
            "The services are not installed beside the library.",
            hint="In a checkout run make setup; elsewhere: pip install --force-reinstall histgen",
        ) from error
