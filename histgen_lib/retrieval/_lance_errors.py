"""Translating every failure of LanceDB and its storage into the errors of the case index.

LanceDB raises RuntimeError, ValueError and others for everything, with the cause in the text only. Messages
of the storage may hold keys of objects and signed requests, so none of their text is passed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager

from histgen_lib.errors import FatalError, HistgenError, TransientError

_PANIC = "PanicException"
"""What a bug in a library written in Rust raises. It is no Exception, but must not end a service."""


class MovedError(Exception):
    """What was being read or written is no longer the index: another process has switched versions."""


class ClashError(Exception):
    """Another writer was first; nothing was written, and a further try may succeed."""


_KINDS = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        ("clash", r"commit conflict|already exists|retryable|conflict.{0,40}(concurrent|transaction)"),
        ("denied", r"access ?denied|forbidden|unauthorized|permission denied|status.{0,12}40[13]|"
                   r"InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|ExpiredToken|read-only file"),
        ("bucket", r"NoSuchBucket|bucket.{0,40}(not exist|not found)"),
        ("away", r"error sending request|connect|timed? ?out|timeout|dns error|reset by peer|broken pipe|"
                 r"status.{0,12}(5\d\d|429|408)|server error|SlowDown|no space|disk quota|hyper|reqwest|"
                 r"too many open files|cannot allocate|incomplete message|retries"),
        ("moved", r"not found|does not exist|no such file|not a directory"),
        ("damaged", r"."),
    )
)  # fmt: skip


def kind_of(error: BaseException) -> str:
    """Return what an exception of LanceDB means: "clash", "denied", "bucket", "away", "moved", "damaged"."""
    if isinstance(error, TimeoutError | CancelledError):
        return "away"
    text = " ".join(str(error).split()) or "?"
    return next(name for name, pattern in _KINDS if pattern.search(text))


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Raise the port's errors, ClashError or MovedError for what LanceDB raises. `where`: for people."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        kind = kind_of(error)
        if kind == "clash":
            raise ClashError from error
        if kind == "moved":
            raise MovedError from error
        raise _error(kind, where, type(error).__name__) from error


@contextmanager
def storage_translated(where: str) -> Iterator[None]:
    """Turn the errors of the object store into those of the case index."""
    try:
        yield
    except TransientError as error:
        raise unavailable(where, error.code) from error
    except HistgenError as error:
        raise unusable(where, error.code, hint=error.hint) from error


def unavailable(where: str, why: str) -> TransientError:
    """Make the error for an index that cannot be used now."""
    return TransientError(
        "case-index-unavailable",
        f"The case index cannot be used now: {where} ({why}).",
        hint="Check that its storage is up, reachable and has room; then try again.",
    )


def unusable(where: str, why: str, *, hint: str = "") -> FatalError:
    """Make the error for an index that cannot be read or written as it is."""
    return FatalError(
        "case-index-unusable",
        f"The case index cannot be used: {where} ({why}).",
        hint=hint or "Remove its folder or prefix and rebuild it: it holds nothing that the store does not.",
    )


def _error(kind: str, where: str, name: str) -> HistgenError:
    if kind == "away":
        return unavailable(where, name)
    if kind == "denied":
        return unusable(where, "access denied", hint="Check credentials, region and rights.")
    if kind == "bucket":
        return unusable(where, "no such bucket", hint="Create it, or correct the index's URL and endpoint.")
    return unusable(where, f"damaged: {name}")
