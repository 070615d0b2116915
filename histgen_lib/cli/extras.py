"""Saying plainly that a command needs an extra, instead of failing on an import deep below."""

from __future__ import annotations

from importlib.util import find_spec

from histgen_lib.errors import FatalError


def need_train_extra(command: str) -> None:
    """Raise FatalError("extra-train-missing") when torch is not installed."""
    if find_spec("torch") is None:
        raise FatalError(
            "extra-train-missing",
            f"{command} needs the extra `train` (torch and its friends), which is not installed.",
            hint="In a checkout run `make setup`; elsewhere: pip install 'histgen[train]'",
        )
