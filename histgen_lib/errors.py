"""The error tree. Every failure that a user can meet has a stable code and says what to do.

HistgenError
├── TransientError       try again later: a server is unreachable, a queue is full
├── InvalidInputError    the input cannot be processed as it is; retrying changes nothing
└── FatalError           this installation or configuration is broken; stop

Adapters translate foreign exceptions into this tree. The codes are listed in docs/errors.md.
"""

from __future__ import annotations

import unicodedata

_UNFIT = {"Cc", "Cs"}
"""Control characters, which a terminal would obey, and lone surrogates, which cannot be encoded."""


class HistgenError(Exception):
    """A failure with a stable `code`, a message, and a `hint` that says what to do.

    Pickling keeps all three (a job's child process passes its error to the parent). Messages and hints may
    contain file names as they are: characters that cannot be shown or stored are replaced by "�".
    """

    exit_code = 1

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        self.code, self.message, self.hint = code, _readable(message), _readable(hint)
        super().__init__(self.code, self.message, self.hint)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.code, self.message, self.hint))

    def to_json(self) -> dict[str, str]:
        """Return code, message and hint, as responses contain them."""
        return {"code": self.code, "message": self.message, "hint": self.hint}

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class TransientError(HistgenError):
    """A temporary failure: the same input may succeed later."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class InvalidInputError(HistgenError):
    """The input is at fault; a person has to correct it."""

    exit_code = 65  # EX_DATAERR of sysexits.h


class FatalError(HistgenError):
    """The installation or configuration is at fault; nothing works until it is repaired."""

    exit_code = 78  # EX_CONFIG of sysexits.h


def _readable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in _UNFIT else c for c in text)


def _rebuild(kind: type[HistgenError], code: str, message: str, hint: str) -> HistgenError:
    return kind(code, message, hint=hint)
