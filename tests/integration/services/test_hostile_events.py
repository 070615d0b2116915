"""A broker that anybody can write to: whatever an event names ends in one letter, and good slides pass."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_model
from held_files import leased
from hostile_uris import UNREADABLE, kernel_files, no_uris, odd_files, with_companions, with_sidecars
from job_kit import NOW, event_of, scanned
from running_services import MINUTES_S, Services
from waiting import until

from histgen_lib.catalogue.dead_letter import DeadLetter, dead_letters
from histgen_lib.events import Event, SlideScanned
from histgen_lib.names import slide_id_of

GOOD = 5
GAP = 60 << 30
LONGEST = 255 - len(".tif")
"""What the file system takes; a name to which nothing can be added."""


@pytest.fixture
def tiler(tmp_path: Path, model_dir: Path) -> Iterator[Services]:
    roots = f"{tmp_path}/scans,/dev,/proc,/sys,s3://lab"
    running = Services(tmp_path, model_dir, ["tiler"], roots=roots)
    yield running
    running.kill()


def test_a_hostile_uri_ends_in_one_letter_at_the_first_try_while_good_slides_pass(tiler, tmp_path):
    scans, outside = tmp_path / "scans", tmp_path / "elsewhere"
    scans.mkdir()
    outside.mkdir()
    hostile = {
        **no_uris(),
        **kernel_files(scans),
        **odd_files(scans, outside),
        **with_companions(scans, outside),
        **with_sidecars(scans),
        "gap": ((scans / "gap.svs").as_uri(), UNREADABLE),
        "leased": ((scans / "leased.svs").as_uri(), UNREADABLE),
    }
    assert len(hostile) > 80
    names = [f"good-{number}" for number in range(1, GOOD)] + ["n" * LONGEST]
    (scans / "gap.svs").write_bytes(b"II*\0")
    os.truncate(scans / "gap.svs", GAP)
    good = [tiny_model.write_slide(scans / f"{name}.tif", side_px=512) for name in names]
    with leased(scans / "leased.svs"):
        tiler.publish(*_mixed([_hostile(name, uri) for name, (uri, _) in hostile.items()], good))
        until(lambda: _bags(tiler) == GOOD and len(_letters(tiler)) >= len(hostile), MINUTES_S, "all to end")
    letters = _letters(tiler)

    assert Counter(letter.event.key for letter in letters) == Counter(list(hostile))
    assert {letter.event.key: letter.code for letter in letters} == {
        n: code for n, (_, code) in hostile.items()
    }
    assert {letter.attempts for letter in letters} == {1}
    assert not any("root:" in letter.message or "secret" in letter.message for letter in letters)


def _hostile(name: str, uri: str) -> Event:
    size_bytes = GAP if name == "gap" else 1
    data = SlideScanned(slide_id=name, uri=uri, content_id="0" * 64, size_bytes=size_bytes)
    return Event.first(data, source="/histgen/test", now=NOW, identity=name)


def _mixed(hostile: list[Event], good: list[Path]) -> list[Event]:
    """Put the good slides among the others, the last of them at the end."""
    every = len(hostile) // len(good) + 1
    parts = [hostile[first : first + every] for first in range(0, len(hostile), every)]
    sound = [event_of(scanned(path, slide_id=slide_id_of(path))) for path in good]
    return [event for part, last in zip(parts, sound, strict=True) for event in (*part, last)]


def _bags(tiler: Services) -> int:
    return sum(info.key.endswith(".parquet") for info in tiler.store.list("bags/"))


def _letters(tiler: Services) -> list[DeadLetter]:
    return list(dead_letters(tiler.store))
