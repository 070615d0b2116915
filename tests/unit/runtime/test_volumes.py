"""How much room is left is known at each scrape, and a disk that hangs does not hang the scrape."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path

import pytest
from waiting import until

from histgen_lib.runtime.volumes import LOOK_S, Volume, room_at, show_volumes
from histgen_lib.telemetry import exposition, metrics


def shown(name: str, volume: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(f"histgen_disk_{name}_bytes", {"volume": volume})


def test_the_room_is_that_of_the_file_system(tmp_path: Path) -> None:
    show_volumes({"a": tmp_path})
    found = os.statvfs(tmp_path)

    assert shown("size", "a") == found.f_blocks * found.f_frsize
    assert shown("free", "a") == pytest.approx(found.f_bavail * found.f_frsize, rel=0.2)


def test_a_folder_that_is_yet_to_be_made_has_the_room_of_the_one_above(tmp_path: Path) -> None:
    assert room_at(tmp_path / "not" / "yet")[1] == room_at(tmp_path)[1] > 0


class Hanging:
    """A disk that does not answer until it is let go."""

    def __init__(self) -> None:
        self.looks, self.answers = 0, threading.Event()

    def look(self, path: Path) -> tuple[float, float]:
        self.looks += 1
        self.answers.wait(60)
        return 1.0, 2.0


def test_a_disk_that_hangs_is_unknown_and_is_neither_asked_nor_waited_for_again(tmp_path: Path) -> None:
    disk, now = Hanging(), [0.0]
    volume = Volume(tmp_path, look=disk.look, clock=lambda: now[0])
    assert all(map(math.isnan, volume.room()))
    now[0] = LOOK_S + 100  # the time for this look is over: whoever asks now waits for nothing
    for _ in range(50):
        assert all(map(math.isnan, volume.room()))
    assert disk.looks == 1

    disk.answers.set()
    until(lambda: volume.room() == (1.0, 2.0), 60, "the answer")


def test_a_disk_that_refuses_is_unknown_and_the_page_still_comes(tmp_path: Path) -> None:
    def refuses(path: Path) -> tuple[float, float]:
        raise PermissionError(13, "Permission denied")

    volume = Volume(tmp_path, look=refuses)
    metrics.DISK_FREE.labels("refusing").set_function(lambda: volume.room()[0])

    assert 'histgen_disk_free_bytes{volume="refusing"} NaN' in exposition()[0].decode()
