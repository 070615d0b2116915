"""The error tree keeps its promises: codes, hints, pickling."""

import os
import pickle

import pytest

from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError


@pytest.mark.parametrize("kind", [HistgenError, TransientError, InvalidInputError, FatalError])
def test_an_error_survives_pickling_with_its_kind_code_message_and_hint(kind: type[HistgenError]) -> None:
    error = pickle.loads(pickle.dumps(kind("slide-empty", "The file is empty.", hint="Scan it again.")))
    assert type(error) is kind
    assert (error.code, error.message, error.hint) == ("slide-empty", "The file is empty.", "Scan it again.")


def test_an_error_reads_as_message_then_hint() -> None:
    assert str(InvalidInputError("x", "It broke.", hint="Mend it.")) == "It broke. Mend it."
    assert str(InvalidInputError("x", "It broke.")) == "It broke."


def test_control_characters_and_lone_surrogates_are_replaced() -> None:
    """Names of files are bytes: they may hold escape sequences, lines, and what is no text at all."""
    name = os.fsdecode(b"pr\xe4\x1b[31m\n.svs")
    error = InvalidInputError("x", f"There is no {name}, \u00fc\u5207 \u00b5m.", hint=name)
    assert error.message == "There is no pr\ufffd\ufffd[31m\ufffd.svs, \u00fc\u5207 \u00b5m."
    assert pickle.loads(pickle.dumps(error)).message == error.message


def test_the_three_kinds_exit_differently() -> None:
    assert len({TransientError.exit_code, InvalidInputError.exit_code, FatalError.exit_code}) == 3
