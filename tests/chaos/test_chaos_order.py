"""Duplicate, shuffled and late events do not change the results."""

from __future__ import annotations

import random
import shutil

from chaos_slides import stained, write_tiff
from harness import scanned
from invariants import check, check_committed, check_nothing_else, check_whole


def test_shuffled_duplicates_change_no_result(new_stream, slides, undisturbed):
    """Each event comes three times."""
    stream = new_stream()
    events = [scanned(path) for path in slides]
    thrice = events * 3
    random.Random(3).shuffle(thrice)
    stream.start("tiler", "reporter")
    stream.publish(thrice)
    stream.settle(len(events), timeout_s=120)
    stream.stop()
    check(stream.remains(), events, undisturbed)


def test_late_events_of_an_earlier_scan_do_not_replace_the_new_draft(new_stream, slides, tmp_path):
    """The slide was scanned again before they came."""
    stream = new_stream()
    path = tmp_path / "again.tif"
    stream.start("tiler", "reporter")
    shutil.copy(slides[0], path)
    old = scanned(path)
    stream.publish([old])
    stream.settle(1, timeout_s=60)
    write_tiff(path, stained(640))
    new = scanned(path)
    stream.publish([new])
    stream.settle(2, timeout_s=60)
    pointer = stream.store.get("reports/again/latest.json")
    before = stream.everything()

    stream.publish([old, new, old])
    stream.settle(2, timeout_s=60)
    stream.stop()
    remains = stream.remains()
    assert stream.store.get("reports/again/latest.json") == pointer
    assert remains.objects == before
    check_whole(remains)
    check_nothing_else(remains, 0)
    check_committed(remains)
