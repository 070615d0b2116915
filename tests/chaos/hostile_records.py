"""Records that no proper scanner writes, but that a broker open to everyone may hold."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kafka

from histgen_lib.bus import BusSettings
from histgen_lib.bus._embedded_log import Log, append
from histgen_lib.bus._kafka_client import ensure_topic
from histgen_lib.events import SLIDE_SCANNED, Event, SlideScanned

NOW = datetime(2026, 1, 2, tzinfo=UTC)
BATCH = 500
"""Records per transaction, to write them quickly."""

URIS = (
    *("", " ", "a", "file:", "file:///", "file:////", "FILE:///a.svs", "file://host/a.svs", "file:a.svs"),
    *("file:///etc/passwd", "file:///../../etc/shadow", "file:///%2e%2e/%2e%2e/etc/shadow", "file:///a%00b"),
    *("file:///dev/zero", "file:///dev/random", "file:///dev/full", "file:///dev/tty", "file:///dev/fd/0"),
    *("file:///proc/self/environ", "file:///proc/self/mem", "file:///proc/kmsg", "file:///proc/1/root/a"),
    *("file:///sys/kernel", "file:///proc/self/fd/1", "file:///" + "a" * 4000, "file:///" + "a/" * 1900),
    *(
        "http://169.254.169.254/latest",
        "https://a/b.svs",
        "ftp://a/b",
        "gopher://a",
        "data:,a",
        "javascript:1",
    ),
    *("s3:", "s3://", "s3://lab", "s3:///a", "s3://lab/../a", "S3://lab/a", "s3://lab/" + "k" * 2000),
    *(
        "s3://u:p@lab/a",
        "s3://169.254.169.254/a",
        "s3://l b/a",
        "s3://lab/%2e%2e/a",
        "s3://../a",
        "s3://lab//",
    ),
    *("file:\uff0f\uff0f\uff0fetc\uff0fpasswd", "file:///\u202egpj.svs", "\ufefffile:///a", "file:///\u200b"),
    *(
        "file:///e\u0301.svs",
        "file:///\U0001f4a9.svs",
        "file:///\ufffd",
        "file:///a\u2028b",
        "file:///%ff%fe",
    ),
    *("file:///a\x00b", "file:///a\nb", "file:///\x1b[31ma", "file:///\x9b31m", "file:///\ud800", "\x7f"),
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 10**30, 0.5, "", "a", "../../a", "a/b", ".", "..", "\x00", "n" * 201, "\ud800"),
    *([], {}, [[]], {"a": 1}, ["a"], [1], "9" * 4097, float("nan"), float("inf"), -(10**400)),
)
BODIES: tuple[bytes, ...] = (
    *(b"", b"null", b"[]", b"1", b'"a"', b"{}", b"{", b"\xff\xfe", b"\x00" * 99, b"<a/>", b"a: b"),
    *(b"[" * 60_000, b'{"a":' * 20_000, b"1" * 5000, '{"slide_id": "a"}'.encode("utf-16")),
    b"{" + b",".join(b'"%d":0' % n for n in range(9000)) + b',"a":1,"a":2}',
)
ODD_HEADERS = {
    "ce_id": ("", "../a", "a/b", ".a", "i" * 129, "\u00fc", "a\nb", "\x00"),
    "ce_type": ("", "slide.stolen", "bag.ready", "report.drafted", "dead-letter", "SLIDE.SCANNED"),
    "ce_source": ("", "a b", "s" * 300, "\x1b[31m", "\u202e"),
    "ce_time": (
        "",
        "yesterday",
        "2026-01-02",
        "0000-00-00T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
        "9" * 9999,
    ),
    "ce_schemaversion": ("2", "", "1.0", "\u0661"),
    "ce_scannedat": ("", "now", "2026-01-02T00:00:00", "1e9"),
    "ce_replay": ("-1", "1e3", "9" * 30, "", "\u0661"),
    "ce_traceparent": ("", "00-0-0-0", "z" * 55, "a" * 100_000),
}


@dataclass(frozen=True)
class Record:
    """A record as a broker holds it; `headers` are ordered and may repeat names."""

    key: str
    headers: Sequence[tuple[str, bytes]]
    body: bytes


def sound(event: Event) -> Record:
    """Return the record of an event as the product publishes it."""
    return Record(
        event.key, [(name, value.encode()) for name, value in event.headers().items()], event.body()
    )


def hostile(number: int, chance: random.Random) -> Record:
    """Make a random hostile record; one that is a valid event names a slide that does not exist."""
    return chance.choice(_KINDS)(number, chance)


def _event(number: int) -> tuple[dict[str, str], dict[str, Any]]:
    data = SlideScanned(f"hostile-{number}", "file:///no-such-folder/a.svs", "c" * 64, 10)
    event = Event.first(data, source="/hostile", now=NOW, identity=f"hostile-{number}")
    return event.headers(), json.loads(event.body())


def _record(number: int, headers: dict[str, str], body: bytes) -> Record:
    encoded = [(name, value.encode(errors="surrogatepass")) for name, value in headers.items()]
    return Record(f"hostile-{number}", encoded, body)


def _bad_uri(number: int, chance: random.Random) -> Record:
    headers, data = _event(number)
    return _record(number, headers, json.dumps(data | {"uri": chance.choice(URIS)}).encode())


def _bad_field(number: int, chance: random.Random) -> Record:
    headers, data = _event(number)
    name = chance.choice([*data, "mpp", "case_id", "case_slides", "turn"])
    return _record(number, headers, json.dumps(data | {name: chance.choice(ODD_VALUES)}).encode())


def _missing_field(number: int, chance: random.Random) -> Record:
    headers, data = _event(number)
    del data[chance.choice([name for name, value in data.items() if value is not None])]
    return _record(number, headers, json.dumps(data | {"turn": 0}).encode())


def _twice(number: int, chance: random.Random) -> Record:
    headers, data = _event(number)
    body = json.dumps(data)[:-1] + f', "{chance.choice(list(data))}": "{number}"}}'
    return _record(number, headers, body.encode())


def _bad_body(number: int, chance: random.Random) -> Record:
    return _record(number, _event(number)[0], chance.choice(BODIES))


def _bad_header(number: int, chance: random.Random) -> Record:
    headers, data = _event(number)
    name = chance.choice(list(ODD_HEADERS))
    changed = headers | {name: chance.choice(ODD_HEADERS[name])}
    return _record(number, changed, json.dumps(data).encode())


def _lacking_header(number: int, chance: random.Random) -> Record:
    headers, data = _event(number)
    for name in chance.sample(list(headers), 3):
        del headers[name]
    return _record(number, headers, json.dumps(data).encode())


def _bytes_for_headers(number: int, chance: random.Random) -> Record:
    headers, data = _event(number)
    record = _record(number, headers, json.dumps(data).encode())
    more = [(chance.choice(list(headers)), chance.randbytes(40)) for _ in range(5)]
    return Record(record.key, [*record.headers, *more], record.body)


_KINDS: tuple[Callable[[int, random.Random], Record], ...] = (
    *(_bad_uri, _bad_uri, _bad_uri, _bad_field, _bad_field, _missing_field, _twice, _bad_body),
    *(_bad_header, _bad_header, _lacking_header, _bytes_for_headers),
)


def write(bus: BusSettings, records: Sequence[Record]) -> None:
    """Write records to slide.scanned, bypassing our own checks."""
    if bus.url.startswith("embedded:"):
        _write_embedded(bus, records)
    else:
        _write_kafka(bus, records)


def _write_embedded(bus: BusSettings, records: Sequence[Record]) -> None:
    log = Log(Path(bus.url.removeprefix("embedded:")))
    for first in range(0, len(records), BATCH):
        with log.write() as connection:
            for record in records[first : first + BATCH]:
                headers = {name: value.decode(errors="replace") for name, value in record.headers}
                append(connection, SLIDE_SCANNED, record.key, headers, record.body, partitions=bus.partitions)
    log.close()


def _write_kafka(bus: BusSettings, records: Sequence[Record]) -> None:
    servers = bus.url.removeprefix("kafka://").split(",")
    ensure_topic(bus, servers, SLIDE_SCANNED)
    with kafka.KafkaProducer(bootstrap_servers=servers, acks="all") as producer:
        sent = [
            producer.send(
                SLIDE_SCANNED, key=record.key.encode(), value=record.body, headers=list(record.headers)
            )
            for record in records
        ]
        for one in sent:
            one.get(timeout=60)
