"""What can become of a job that did not end by itself, in words for the dead letter or the log."""

from __future__ import annotations

from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.worker.messages import Failed

_REPLAY = "Once that is mended, `histgen replay` has it tried again."

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


class JobFailedError(Exception):
    """A job crashed, hung or failed unforeseen: that counts. `reason`: if it was the last time."""

    def __init__(self, reason: InvalidInputError) -> None:
        super().__init__(reason)
        self.reason = reason


def job_error(failed: Failed) -> HistgenError | JobFailedError:
    """Return what a job raised."""
    return failed.error or JobFailedError(
        InvalidInputError(
            "job-failed",
            f"The job failed as nobody had foreseen, each time it was tried ({failed.unforeseen}).",
            hint=f"Please report it, with the worker's log. {_REPLAY}",
        )
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
