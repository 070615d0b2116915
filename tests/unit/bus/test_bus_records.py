"""A record is taken apart before anything can be counted against it: so none may take long or much memory."""

from __future__ import annotations

import json
import tracemalloc
from datetime import UTC, datetime

import pytest

from histgen_lib.bus._port import delivery
from histgen_lib.events import Event, SlideScanned

NOW = datetime(2026, 3, 1, tzinfo=UTC)
EVENT = Event.first(SlideScanned("S1", "file:///a.svs", "c" * 64, 1), source="/test", now=NOW, identity="S1")
MOST_BYTES = 900_000
NAMES = b",".join(b'"%x":0' % number for number in range(95_000))


def filled(unit: bytes) -> bytes:
    """Make a JSON list of as many `unit`s as an event may hold."""
    return b"[" + b",".join([unit] * ((MOST_BYTES - 2) // (len(unit) + 1))) + b"]"


@pytest.mark.timeout(60)  # comparing each name with each other took minutes
@pytest.mark.parametrize(
    "body",
    [
        b"{" + NAMES + b',"zz":1,"zz":2}',
        b"{" + NAMES + b"}",
        filled(b"[]"),
        filled(b'{"":0}'),
        filled(b'{"":0,"":0}'),
        filled(b"1e99"),
        b"[" * MOST_BYTES,
        b'{"":' * (MOST_BYTES // 4),
        b"1" * MOST_BYTES,
        b"1." + b"1" * (MOST_BYTES - 2),
        b'"' + b"\\ud800" * ((MOST_BYTES - 2) // 6) + b'"',
        b" " * MOST_BYTES,
        b"\xff" * MOST_BYTES,
        ("[" * (MOST_BYTES // 2 - 1)).encode("utf-16"),
    ],
    ids=lambda body: f"{body[:12]!r}-{len(body)}",
)
def test_no_body_takes_long_or_much_memory(body: bytes) -> None:
    tracemalloc.start()
    try:
        found = delivery("slide.scanned", 0, 0, EVENT.headers(), body)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.unreadable is not None
    assert found.unreadable.code == "event-unreadable"
    assert most < 100 << 20


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", EVENT.headers())
def test_no_header_takes_long(name: str) -> None:
    for value in ("0" * MOST_BYTES, "a-" * (MOST_BYTES // 2), "%" * MOST_BYTES):
        assert delivery("slide.scanned", 0, 0, EVENT.headers() | {name: value}, EVENT.body()).raw


def test_a_record_too_large_to_forward_is_not_parsed() -> None:
    body = json.dumps({"slide_id": "S1", "more": "x" * MOST_BYTES}).encode()
    found = delivery("slide.scanned", 0, 7, EVENT.headers(), body)
    assert found.unreadable is not None
    assert (found.unreadable.code, found.event, found.raw) == ("event-too-large", None, body)
