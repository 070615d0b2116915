"""What can become of a job that did not end by itself, in words for the dead letter or the log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.runtime.stopping import Stopped
from histgen_lib.telemetry import get_logger
from histgen_lib.worker.messages import Failed

_log = get_logger()
_REPLAY = "Once that is mended, `histgen replay` has it tried again."

DIED = InvalidInputError(
    "worker-died",
    "The worker itself died with this event in hand, as often as it may be tried.",
    hint=f"Look at its log's end, at who killed it (memory?) and at the slide. {_REPLAY}",
)
CRASHED = InvalidInputError(
    "job-crashed",
    "The process that runs the job died, each time it was tried.",
    hint=f"Look at the worker's log, its memory limit and the slide. {_REPLAY}",
)
LATE = InvalidInputError(
    "job-deadline",
    "The job was not done within the time it may take, each time it was tried.",
    hint=f"Look at what is slow, or raise HISTGEN_DEADLINE_S. {_REPLAY}",
)
MEMORY = InvalidInputError(
    "job-memory",
    "The job needs more memory than it may take, or than there is.",
    hint=f"Look at the slide: few need so much. If it is sound, raise HISTGEN_MEMORY_BYTES. {_REPLAY}",
)
OPENED_LATE = InvalidInputError(
    "slide-open-slow",
    "The slide could not be fetched, read through and opened within the time that may take.",
    hint=f"Look at the disk, the network and the slide, or raise HISTGEN_SLIDE_OPEN_S. {_REPLAY}",
)

SURE_TRIES = 2
"""Enough where the second try differs in all that chance can have been: a new process, a warm disk."""


class JobFailedError(Exception):
    """A job crashed, hung, or failed in a way that a slide should not: that counts.

    `reason`: what to say if it was the last time. `tries`: how many are enough to be sure, if fewer than of
    other failures.
    """

    def __init__(self, reason: InvalidInputError, tries: int = sys.maxsize) -> None:
        super().__init__(reason)
        self.reason, self.tries = reason, tries


def over_memory() -> JobFailedError:
    """Say that a job was ended for the memory it took, or did not get what it asked for."""
    return JobFailedError(MEMORY, SURE_TRIES)


def opened_late() -> JobFailedError:
    """Say that a job was ended because it did not come to its slide's first tiles."""
    return JobFailedError(OPENED_LATE, SURE_TRIES)


def job_error(failed: Failed) -> HistgenError | JobFailedError:
    """Return what a job raised.

    A job that was set up and then calls the installation broken may be wrong: an odd key makes a store refuse
    an object, too. It is set up anew, which fails if that is true; if not, it is the event's trouble.
    """
    error = failed.error
    if failed.unforeseen == MemoryError.__name__:
        return over_memory()
    if isinstance(error, FatalError):
        return JobFailedError(InvalidInputError(error.code, error.message, hint=error.hint))
    return error or JobFailedError(unforeseen(failed.unforeseen))


@contextmanager
def foreseen() -> Iterator[None]:
    """Have an exception that nobody had foreseen count against the event in hand, not end the worker."""
    try:
        yield
    except (HistgenError, JobFailedError, Stopped):
        raise
    except Exception as error:
        _log.error("Nobody had foreseen this exception.", exc_info=error)
        raise JobFailedError(unforeseen(type(error).__name__)) from error


def unforeseen(name: str) -> InvalidInputError:
    """Say that an exception ended the work on an event; `name`: its type, as its text may hold anything."""
    return InvalidInputError(
        "job-failed",
        f"The job failed as nobody had foreseen, each time it was tried ({name}).",
        hint=f"Please report it, with the worker's log. {_REPLAY}",
    )


def setup_error(failed: Failed) -> HistgenError:
    """Return what making the handler raised. What is wrong before the first slide is not a slide's fault."""
    error = failed.error
    if isinstance(error, TransientError):
        return error
    if error:
        return FatalError(error.code, error.message, hint=error.hint)
    return FatalError(
        "job-setup",
        f"The worker's job cannot be set up ({failed.unforeseen}).",
        hint="Its log says where; `histgen doctor` checks the installation.",
    )


def start_too_large() -> HistgenError:
    """Say that a child process was over its memory before its handler was made."""
    return FatalError(
        "job-memory",
        "The process that runs the jobs needs more memory than it may take before its first job.",
        hint="Raise HISTGEN_MEMORY_BYTES, or take a smaller model.",
    )


def not_started(*, for_good: bool) -> HistgenError:
    """Say that a child process died or hung before its handler was made."""
    message = "The process that runs the jobs died or hung while it was being prepared."
    hint = "Look at its log, and at the memory it may use."
    if for_good:
        return FatalError("job-process", message, hint=hint)
    return TransientError("job-process", message, hint=hint)


def frozen() -> TransientError:
    """Say that a child process was stopped where it stood: neither its own fault nor its slide's."""
    return TransientError(
        "job-frozen",
        "The process that runs the job was stopped from outside, and was ended.",
        hint="Another one does the job. HISTGEN_FROZEN_S is how long one may be stopped.",
    )
