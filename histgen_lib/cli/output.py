"""Output of the commands: results to stdout (text, or one JSON document), everything else to stderr."""

from __future__ import annotations

import errno
import json
import sys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histgen_lib.errors import FatalError, HistgenError, TransientError
from histgen_lib.names import harmless_json, printable

if TYPE_CHECKING:
    from rich.console import Console

JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to stdout; progress stays on stderr.")
]

INTERNAL_EXIT = 70  # EX_SOFTWARE of sysexits.h


@dataclass(frozen=True)
class Failure:
    """An error as it is shown to people and programs."""

    code: str
    message: str
    hint: str
    exit_code: int

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Describe any exception; internal-error if neither histgen nor the file system raised it."""
        if isinstance(error, HistgenError):
            return cls(error.code, error.message, error.hint, error.exit_code)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _DISK_FULL
        if isinstance(error, OSError) and error.filename is not None:
            return _refused(error)
        return cls(
            "internal-error",
            f"Something went wrong inside histgen ({type(error).__name__}{_place_of(error)}).",
            "Please report this: run the command again with HISTGEN_DEBUG=1 and send what it prints.",
            INTERNAL_EXIT,
        )

    def to_dict(self) -> dict[str, str]:
        """Return it JSON-ready."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


_DISK_FULL = Failure(
    "output-disk-full",
    "The disk is full.",
    "Free some space, then run the command again.",
    TransientError.exit_code,
)


def _refused(error: OSError) -> Failure:
    return Failure(
        "file-refused",
        f"The system refuses access to {error.filename} ({error.strerror}).",
        "Check the path, its permissions and the free space, then run the command again.",
        FatalError.exit_code,
    )


@cache
def out() -> Console:
    """Return the console on stdout."""
    return _console(stderr=False)


@cache
def err() -> Console:
    """Return the console on stderr."""
    return _console(stderr=True)


def emit_json(value: Any) -> None:
    """Print one JSON document to stdout."""
    sys.stdout.write(json_text(value) + "\n")


def json_text(value: Any) -> str:
    """Format JSON for people, without characters that a terminal would interpret or cannot print."""
    return harmless_json(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def emit_error(failure: Failure, *, as_json: bool = False) -> None:
    """Print what went wrong and what to do on stderr; with `as_json` also as a document on stdout."""
    if as_json:
        emit_json({"error": failure.to_dict()})
    say_error(failure)


def say_heading(name: object) -> None:
    """Print, above its error, the name of what failed."""
    err().print(f"{printable(str(name))}:", style="bold", soft_wrap=True)


def say_error(failure: Failure) -> None:
    """Print a line `error[code]: sentence` and, below it, the hint."""
    console = err()
    console.print(f"error[{failure.code}]:", style="bold red", end=" ", soft_wrap=True)
    console.print(failure.message, soft_wrap=True)
    if failure.hint:
        console.print(f"→ {failure.hint}", soft_wrap=True)


def number_of(count: int, thing: str) -> str:
    """Write how many there are of a thing: "1 bag", "2,000 bags"."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def confidence_word(confidence: float | None) -> str:
    """Format a draft's confidence for a line or table; None: the model is not calibrated."""
    return "not calibrated" if confidence is None else f"{confidence:.2f}"


def _console(*, stderr: bool) -> Console:
    from histgen_lib.cli.terminal import PlainConsole

    return PlainConsole(stderr=stderr, highlight=False, markup=False, emoji=False)


def _place_of(error: Exception) -> str:
    """Return where it was raised, but not its message, which may quote a slide or a report."""
    from histgen_lib.telemetry.log import frames

    return "".join(f" at {place}" for place in list(frames(error))[-1:])
