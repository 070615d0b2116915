"""Every failure of LanceDB becomes one of the case index's errors, and says nothing that it should not."""

from __future__ import annotations

import concurrent.futures

import pytest

from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.retrieval._lance_errors import ClashError, MovedError, storage_translated, translated

AWAY, DAMAGED = (TransientError, "case-index-unavailable"), (FatalError, "case-index-unusable")

SEEN = [
    (ValueError("Table 'cases-1' was not found"), MovedError),
    (RuntimeError("lance error: Not found: i/cases.lance/data/0110.lance, local.rs:273"), MovedError),
    (RuntimeError("External error: Not found: i/cases.lance/_versions, commit.rs:653"), MovedError),
    (ValueError("Table 'cases' already exists"), ClashError),
    (RuntimeError("lance error: Retryable commit conflict for version 7"), ClashError),
    (RuntimeError("lance error: Commit conflict for version 12: concurrent transaction"), ClashError),
    (RuntimeError("LanceError(IO): Generic S3 error: Error performing GET: error sending request"), AWAY),
    (RuntimeError("Generic S3 error: Server returned non-2xx status code: 503 Service Unavailable"), AWAY),
    (RuntimeError("Generic S3 error: operation timed out"), AWAY),
    (OSError("Connection reset by peer"), AWAY),
    (OSError(28, "No space left on device"), AWAY),
    (TimeoutError(), AWAY),
    (concurrent.futures.CancelledError(), AWAY),
    (RuntimeError("Generic S3 error: status code: 403 Forbidden AccessDenied SECRET"), DAMAGED),
    (RuntimeError("NoSuchBucket: The specified bucket does not exist"), DAMAGED),
    (PermissionError(13, "Permission denied"), DAMAGED),
    (RuntimeError("lance error: LanceError(IO): file size is too small, utils.rs:172:20"), DAMAGED),
    (RuntimeError("Generic LocalFileSystem error: failed to fill whole buffer"), DAMAGED),
    (ValueError("Invalid input, Schema error: No field named nope."), DAMAGED),
    (TypeError("unexpected"), DAMAGED),
    (KeyError("missing"), DAMAGED),
    (RuntimeError(""), DAMAGED),
]  # fmt: skip


@pytest.mark.parametrize(("foreign", "expected"), SEEN, ids=lambda value: str(value)[:60])
def test_each_failure_of_lancedb_is_mapped(foreign: Exception, expected: object) -> None:
    with pytest.raises(Exception) as caught, translated("s3://bucket/index"):  # noqa: PT011
        raise foreign
    error = caught.value
    if isinstance(error, HistgenError):
        assert (type(error), error.code) == expected
        assert "s3://bucket/index" in error.message
        assert "SECRET" not in str(error)
    else:
        assert type(error) is expected


def test_a_panic_is_damage_and_an_interrupt_is_passed_on() -> None:
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(FatalError), translated("file:/index"):
        raise panic("index out of bounds")
    with pytest.raises(KeyboardInterrupt), translated("file:/index"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (TransientError("storage-unavailable", "away"), AWAY),
        (FatalError("storage-denied", "no"), DAMAGED),
        (FatalError("storage-url", "no"), DAMAGED),
        (InvalidInputError("object-missing", "no"), DAMAGED),
    ],
    ids=lambda value: str(value)[:40],
)
def test_errors_of_the_storage_become_those_of_the_index(ours: HistgenError, expected: object) -> None:
    with pytest.raises(HistgenError) as caught, storage_translated("file:/index"):
        raise ours
    assert (type(caught.value), caught.value.code) == expected
