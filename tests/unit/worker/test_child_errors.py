"""How a job's process reports an error: lack of resources is never a slide's fault, nor the worker's end."""

from __future__ import annotations

import errno
import os

import pytest

from histgen_lib.errors import FatalError, InvalidInputError, TransientError
from histgen_lib.worker.child import _failed


def refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_waited_out(number):
    error = _failed(refused(number)).error

    assert isinstance(error, TransientError)
    assert error.code == "disk-full"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EMFILE])
def test_a_fatal_error_caused_by_a_lack_of_room_keeps_its_code_and_is_transient(number):
    try:
        try:
            raise refused(number)
        except OSError as error:
            raise FatalError("scratch-unwritable", "No.", hint="Look.") from error
    except FatalError as fatal:
        sent = _failed(fatal).error

    assert type(sent) is TransientError
    assert (sent.code, sent.message, sent.hint) == ("scratch-unwritable", "No.", "Look.")


def test_other_errors_keep_their_class():
    assert _failed(refused(errno.EACCES)).error is None
    assert type(_failed(FatalError("storage-denied", "No.")).error) is FatalError
    assert type(_failed(InvalidInputError("slide-empty", "No.")).error) is InvalidInputError
