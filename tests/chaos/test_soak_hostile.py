"""Twenty thousand records that no proper scanner writes, with twenty good slides among them."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from gateway_siege import megabytes_of
from harness import Place, Stream, scanned
from history import LETTERS
from hostile_records import hostile, sound, write
from invariants import check_committed, check_whole

from histgen_lib.events import DEAD_LETTER

RECORDS, PATIENCE_S = 20_000, 900.0
GROWTH_MB = 128
"""How much a process may grow after the first tenth of the records."""
pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]


@pytest.mark.parametrize("place", ["embedded", "kafka"], indirect=True)
def test_each_hostile_record_ends_in_one_letter_and_each_good_slide_in_a_draft(
    place: Place, new_stream, slides: list[Path], undisturbed
):
    stream, chance = new_stream(place), random.Random(1609)
    stream.start("tiler", "tiler-2", "reporter")
    records = [hostile(number, chance) for number in range(RECORDS)]
    good = [scanned(path) for path in slides]
    for place_among, event in zip(sorted(chance.sample(range(RECORDS), len(good))), good, strict=True):
        records.insert(place_among, sound(event))
    write(place.bus, records)
    written_at = time.monotonic()
    stream.until(lambda: len(stream.keys(LETTERS)) >= RECORDS / 10, PATIENCE_S, "a tenth")
    early = sizes(stream)
    stream.until(lambda: len(stream.drafts()) == len(good), PATIENCE_S, "all good slides to be drafted")
    drafted_s = time.monotonic() - written_at
    stream.until(stream.idle, PATIENCE_S, "nothing is left to do")
    late = sizes(stream)
    stream.stop()

    remains = stream.remains()
    check_whole(remains)
    check_committed(remains)
    assert {key: sha for key, sha in remains.results().items() if key in undisturbed} == dict(undisturbed)
    assert len(stream.drafts()) == len(good)
    assert outcomes(remains.letters.values()) == RECORDS
    assert len({event.data.key for event in remains.history.events(DEAD_LETTER)}) == RECORDS
    assert {name: late[name] - size for name, size in early.items() if late[name] - size > GROWTH_MB} == {}
    codes = Counter(letter["code"] for letter in remains.letters.values())
    assert {"job-failed", "job-crashed", "job-deadline", "worker-died"} & codes.keys() == set()
    print(
        f"\n{place.bus.url.split(':')[0]}: drafted after {drafted_s:.0f} s; {dict(codes)}; {early} → {late}"
    )


def outcomes(letters) -> int:
    """Count the records and events that have a letter; check that none has two."""
    letters_by_record = Counter(
        letter.get("position") or json.dumps(letter["event"]["headers"], sort_keys=True) for letter in letters
    )
    assert set(letters_by_record.values()) == {1}
    return len(letters_by_record)


def sizes(stream: Stream) -> dict[str, float]:
    """Return the memory of each service and its child in MiB."""
    pids = {label: service.pid for label, service in stream.services.items()}
    pids |= {f"{label}'s jobs": service.child() for label, service in stream.services.items()}
    return {name: megabytes_of(pid) for name, pid in pids.items()}
