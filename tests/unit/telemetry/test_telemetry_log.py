"""What reaches a log line, and what must not."""

from __future__ import annotations

import ast
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from histgen_lib.errors import TransientError
from histgen_lib.telemetry import bound, configure_logging, get_logger
from histgen_lib.telemetry.log import KEYS, blank_secrets

PATIENT = "DOE^JANE"
LEVELS = {"debug", "info", "warning", "error"}


def test_a_line_holds_bound_and_logged_values(lines):
    with bound(slide_id="S1", event_id="e1", trace_id="t1", attempt=2):
        get_logger().info("Done.", seconds=1.5)
    (line,) = lines()
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "event": "Done.",
        "service": "tiler",
        "slide_id": "S1",
        "event_id": "e1",
        "trace_id": "t1",
        "attempt": 2,
        "seconds": 1.5,
    }


def test_an_unlisted_key_is_named_without_its_value(lines):
    with bound(patient=PATIENT):
        get_logger().info("Done.", label=PATIENT, uri=object())
    (line,) = lines()
    assert line["dropped"] == ["label", "patient"]
    assert PATIENT not in str(line)
    assert line["uri"] == "<object>"


def test_our_errors_are_logged_in_full_and_foreign_ones_by_type_and_place(lines):
    get_logger().warning(
        "Again.", exc_info=TransientError("bus-unavailable", "It is away.", hint="Start it.")
    )
    try:
        int(PATIENT)
    except ValueError:
        get_logger().error("Bug.", exc_info=True)
    ours, foreign = lines()
    assert (ours["code"], ours["message"], ours["hint"]) == ("bus-unavailable", "It is away.", "Start it.")
    assert foreign["error"] == "ValueError"
    assert "test_telemetry_log.py" in foreign["where"][0]
    assert PATIENT not in str(foreign)


def test_an_uncaught_exception_is_one_line_without_values(lines, capsys):
    def fail() -> None:
        raise KeyError(PATIENT)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    try:
        fail()
    except KeyError as error:
        sys.excepthook(KeyError, error, error.__traceback__)
    assert [line["error"] for line in lines()] == ["KeyError", "KeyError"]
    assert PATIENT not in str(lines()) + "".join(capsys.readouterr())


def test_network_libraries_are_logged_without_secrets(lines):
    logging.getLogger("urllib3.pool").warning("%s: password=%r", "store-1:9000", "hunter2 x")
    logging.getLogger("urllib3.pool").info("chatter")
    (line,) = lines()
    assert line["message"] == "store-1:9000: password=***"
    assert line["logger"] == "urllib3.pool"


def test_of_other_libraries_only_the_place_is_logged(lines):
    logging.getLogger("tifffile").warning("tag 270: %s", PATIENT)
    warnings.warn(PATIENT, stacklevel=1)
    assert [line["logger"] for line in lines()] == ["tifffile", "py.warnings"]
    assert PATIENT not in str(lines())


@pytest.mark.parametrize(
    ("text", "blanked"),
    [
        ("https://bucket/k?X-Amz-Signature=abc123&x=1", "https://bucket/k?X-Amz-Signature=***&x=1"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("https://me:pw@host/", "https://***@host/"),
        ('{"secret_key": "a b"}', '{"secret_key": ***}'),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_secrets_are_blanked(text, blanked):
    assert blank_secrets(text) == blanked


def test_a_log_that_cannot_be_written_is_ignored(lines):
    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

    configure_logging("tiler", stream=Full())
    get_logger().error("Lost.")


def test_without_configuration_nothing_is_printed(capsys):
    get_logger().error("Unheard.")
    assert "".join(capsys.readouterr()) == ""


def test_every_key_that_our_code_logs_is_on_the_list():
    """Else what someone meant to tell would be dropped."""
    unlisted = {f"{path.name}: {key}" for path in _sources() for key in _logged_keys(path) if key not in KEYS}
    assert unlisted == set()


def _sources() -> Iterator[Path]:
    root = Path(__file__).resolve().parents[3]
    yield from (root / "histgen_lib").rglob("*.py")
    yield from (root / "services").rglob("*.py")


def _logged_keys(path: Path) -> Iterator[str]:
    """Find the keywords of calls like `_log.warning("…", key=…)` and `bound(key=…)`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            function = node.func
            is_log = isinstance(function, ast.Attribute) and function.attr in LEVELS
            if is_log or (isinstance(function, ast.Name) and function.id == "bound"):
                yield from (word.arg for word in node.keywords if word.arg and word.arg != "exc_info")
