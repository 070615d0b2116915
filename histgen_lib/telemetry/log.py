"""Log lines: JSON on stderr, with values only under known keys.

A value under a key that is not in KEYS is dropped, and the line names the key: a careless log call cannot
leak patient data. Exceptions are logged by type, code and place; the message of a foreign exception may
repeat any of its arguments and is left out. Warnings of network libraries are logged with secrets blanked;
of all other libraries only the place is logged.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, WrappedLogger

from histgen_lib.errors import HistgenError
from histgen_lib.names import harmless_json

KEYS = frozenset(
    {
        *("time", "level", "event", "service", "worker", "pid", "logger", "version", "dropped"),
        *("slide_id", "event_id", "trace_id", "case_id", "stage", "attempt", "attempts", "replay"),
        *("code", "message", "hint", "error", "where", "missing", "outcome", "exit_code", "signal", "reason"),
        *("topic", "group", "position", "partition", "offset", "lag", "via"),
        *("uri", "key", "folder", "prefix", "url", "host", "port", "model", "size_bytes"),
        *("content_id", "bag_digest", "report_digest"),
        *("seconds", "delay_s", "deadline_s", "grace_s", "count", "done", "total", "tiles"),
    }
)
"""The keys a log line may have. Before you add one, think of what its values can be."""

_LOGGED = (
    "histgen_lib",
    "services",
    "kafka",
    "botocore",
    "boto3",
    "urllib3",
    "uvicorn",
    "tritonclient",
)
"""Libraries whose messages are about networks and files, not about the content of a slide."""

_SECRETS = re.compile(
    r"(?i)((?:password|passwd|secret|token|signature|credential|authorization|api[_-]?key|access[_-]?key)[\w-]*"
    r"[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|(?:basic |bearer )?[^\s,;&)}\]]+)"
)
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_LONGEST = 2000


@dataclass(frozen=True)
class LogSettings:
    """How logging was configured; a child process configures its own in the same way."""

    service: str
    level: str = "INFO"


class Logger:
    """Logs `event`, a fixed sentence; all that varies goes under keys. Silent until logging is configured."""

    def debug(self, event: str, **values: Any) -> None:
        """Log what only a developer asks for."""
        _log("debug", event, values)

    def info(self, event: str, **values: Any) -> None:
        """Log what happened."""
        _log("info", event, values)

    def warning(self, event: str, **values: Any) -> None:
        """Log what went wrong and is being handled."""
        _log("warning", event, values)

    def error(self, event: str, **values: Any) -> None:
        """Log what a person has to deal with."""
        _log("error", event, values)


def _log(level: str, event: str, values: dict[str, Any]) -> None:
    if _in_force:
        getattr(structlog.get_logger(), level)(event, **values)


_in_force: list[LogSettings] = []


def configure_logging(service: str, level: str = "INFO", *, stream: TextIO | None = None) -> None:
    """Write log lines from `level` on to `stream` (default: stderr), other libraries' from WARNING on."""
    _in_force[:] = [LogSettings(service, level)]
    lines = _Lines(stream)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            _add_service,
            _add_error,
            _keep_known,
            _as_json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Foreign()]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def log_settings() -> LogSettings | None:
    """Return how logging was last configured in this process; None if it was not."""
    return _in_force[0] if _in_force else None


def get_logger() -> Logger:
    """Return the logger; it follows a later `configure_logging`."""
    return Logger()


def bound(**values: Any) -> AbstractContextManager[None]:
    """Put `values` on every line logged inside the block."""
    return cast(AbstractContextManager[None], structlog.contextvars.bound_contextvars(**values))


class _Lines:
    """Writes lines, and ignores failures: a full disk under the log must not stop a job."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        stream = self._stream or sys.stderr
        try:
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = error = critical = exception = msg


class _Foreign(logging.Handler):
    """Other libraries' log records."""

    def emit(self, record: logging.LogRecord) -> None:
        is_logged = record.name.split(".")[0] in _LOGGED
        error = record.exc_info[1] if record.exc_info else None
        get_logger().warning(
            "A library warns.",
            logger=record.name,
            where=[f"{record.module}:{record.lineno}"],
            **({"message": blank_secrets(_message(record))} if is_logged else {}),
            **({"exc_info": error} if error else {}),
        )


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        return str(record.msg)


def blank_secrets(text: str) -> str:
    """Blank the values of what looks like a password, key, token or signature."""
    return _USERINFO.sub("***@", _SECRETS.sub(r"\1***", text))


def _add_service(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    if _in_force:
        line.setdefault("service", _in_force[0].service)
    return line


def _add_error(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    """Describe an exception by type and place or, if it is one of ours, by type, code and message."""
    exc_info = line.pop("exc_info", None)
    error = sys.exc_info()[1] if exc_info is True else exc_info
    if isinstance(error, BaseException):
        line["error"] = type(error).__name__
        if isinstance(error, HistgenError):
            line.update(code=error.code, message=error.message, hint=error.hint)
        else:
            line["where"] = list(frames(error))
    return line


def frames(error: BaseException) -> Iterator[str]:
    """Yield the places that an exception passed, outermost first, without source lines or values."""
    for frame in traceback.extract_tb(error.__traceback__)[-12:]:
        parts = frame.filename.rsplit("/", 2)[-2:]
        yield f"{'/'.join(parts)}:{frame.lineno} {frame.name}"


def _keep_known(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    dropped = sorted(set(line) - KEYS)
    kept = {key: _plain(line[key]) for key in line if key in KEYS}
    return {**kept, "dropped": dropped} if dropped else kept


def _plain(value: Any) -> Any:
    """Reduce a value to JSON types; an object of any other type is replaced by the type's name."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value[:_LONGEST]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return f"<{type(value).__name__}>"


def _as_json(_: WrappedLogger, __: str, line: EventDict) -> str:
    first = {key: line.pop(key) for key in ("time", "level", "event") if key in line}
    return harmless_json(json.dumps({**first, **dict(sorted(line.items()))}, ensure_ascii=False))


def _uncaught(kind: type[BaseException], error: BaseException | None, _: TracebackType | None) -> None:
    if error is not None and not issubclass(kind, KeyboardInterrupt):
        get_logger().error("An exception was not caught.", exc_info=error)
