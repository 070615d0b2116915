"""Why a job did not end by itself, in words for the dead letter or the log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.runtime.stopping import Stopped
from histgen_lib.telemetry import get_logger
from histgen_lib.worker.child import Failed

_log = get_logger()
_REPLAY = "Once that is fixed, run `histgen replay`."

DIED = InvalidInputError(
    "worker-died",
    "The worker itself died while it processed this event, on every attempt allowed.",
    hint=f"Check the end of its log, what killed it (memory?) and the slide. {_REPLAY}",
)
CRASHED = InvalidInputError(
    "job-crashed",
    "The process that runs the job died on every attempt.",
    hint=f"Check the worker's log, its memory limit and the slide. {_REPLAY}",
)
LATE = InvalidInputError(
    "job-deadline",
    "The job missed its deadline on every attempt.",
    hint=f"Find out what is slow, or raise HISTGEN_DEADLINE_S. {_REPLAY}",
)
MEMORY = InvalidInputError(
    "job-memory",
    "The job needs more memory than it may use, or than the machine has.",
    hint=f"Check the slide: few need that much. If it is sound, raise HISTGEN_MEMORY_BYTES. {_REPLAY}",
)
OPENED_LATE = InvalidInputError(
    "slide-open-slow",
    "The slide was not fetched, checked and opened within the time allowed.",
    hint=f"Check the disk, the network and the slide, or raise HISTGEN_SLIDE_OPEN_S. {_REPLAY}",
)

SURE_TRIES = 2
"""Enough where the second try differs in all that chance may have caused: a new process, a warm disk."""


class JobFailedError(Exception):
    """A job crashed, hung, or failed unexpectedly: the attempt counts.

    `reason`: the error to report if it was the last attempt. `tries`: how many attempts are enough to be
    sure, if fewer than for other failures.
    """

    def __init__(self, reason: InvalidInputError, tries: int = sys.maxsize) -> None:
        super().__init__(reason)
        self.reason, self.tries = reason, tries


def over_memory() -> JobFailedError:
    """Return the error of a job that was ended for the memory it used, or was refused more."""
    return JobFailedError(MEMORY, SURE_TRIES)


def opened_late() -> JobFailedError:
    """Return the error of a job that was ended because it did not reach its slide's first tiles."""
    return JobFailedError(OPENED_LATE, SURE_TRIES)


def job_error(failed: Failed) -> HistgenError | JobFailedError:
    """Return the error that a job raised.

    A job whose set-up succeeded and which then calls the installation broken may be wrong: a store refuses an
    object for an odd key, too. The handler is made anew, which fails if the job was right; if it was not, the
    event is to blame.
    """
    error = failed.error
    if failed.unexpected == MemoryError.__name__:
        return over_memory()
    if isinstance(error, FatalError):
        return JobFailedError(InvalidInputError(error.code, error.message, hint=error.hint))
    return error or JobFailedError(unexpected_error(failed.unexpected))


@contextmanager
def unexpected_as_failure() -> Iterator[None]:
    """Turn an unexpected exception into a JobFailedError: it counts against the event, the worker goes on."""
    try:
        yield
    except (HistgenError, JobFailedError, Stopped):
        raise
    except Exception as error:
        _log.error("Unexpected exception.", exc_info=error)
        raise JobFailedError(unexpected_error(type(error).__name__)) from error


def unexpected_error(name: str) -> InvalidInputError:
    """Return the error for an unexpected exception. `name`: its type; its text may hold anything."""
    return InvalidInputError(
        "job-failed",
        f"The job failed with an unexpected error on every attempt ({name}).",
        hint=f"Please report it, with the worker's log. {_REPLAY}",
    )


def setup_error(failed: Failed) -> HistgenError:
    """Return the error that making the handler raised. Before the first slide, no slide is to blame."""
    error = failed.error
    if isinstance(error, TransientError):
        return error
    if error:
        return FatalError(error.code, error.message, hint=error.hint)
    return FatalError(
        "job-setup",
        f"The worker's job cannot be set up ({failed.unexpected}).",
        hint="Its log says where it failed; `histgen doctor` checks the installation.",
    )


def start_too_large() -> HistgenError:
    """Return the error of a child process that exceeded its memory limit before its handler was made."""
    return FatalError(
        "job-memory",
        "The process that runs the jobs needs more memory than it may use even before its first job.",
        hint="Raise HISTGEN_MEMORY_BYTES, or use a smaller model.",
    )


def not_started(*, for_good: bool) -> HistgenError:
    """Return the error of a child process that died or hung before its handler was made."""
    message = "The process that runs the jobs died or hung while it started."
    hint = "Check its log, and how much memory it may use."
    if for_good:
        return FatalError("job-process", message, hint=hint)
    return TransientError("job-process", message, hint=hint)


def frozen() -> TransientError:
    """Return the error of a child process that was stopped from outside: nobody's fault here."""
    return TransientError(
        "job-frozen",
        "The process that runs the job was stopped from outside, and has been ended.",
        hint="Another process does the job. HISTGEN_FROZEN_S limits how long one may stay stopped.",
    )
