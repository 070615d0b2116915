"""150 kills, stops and freezes in four minutes, the supervisor included, and a full disk in the middle.

Each slide is drafted once, nothing is given up, and no process or shared memory is left.
"""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest
from baseline import run_undisturbed
from chaos_slides import write_good
from harness import Stream, on_this_machine, scanned
from history import LETTERS
from invariants import check
from small_disk import SmallDisk, small_disk
from storm import Storm
from waiting import until

SLIDES, FAULTS, STORM_S, DRAIN_S = 60, 150, 240.0, 1200.0
DISK_MB, FULL = 600, (0.4, 0.55)
"""The size of the home folder's disk, and the part of the storm during which it is full."""
FROZEN_S = 10
ENVIRONMENT = {
    "HISTGEN_MAX_ATTEMPTS": "100",  # one slide may be hit more often than the default
    "HISTGEN_BUS_SESSION_S": "4",
    "HISTGEN_SETTLE_S": "0.5",
    "HISTGEN_LOOK_S": "0.3",
}
pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_good(tmp_path_factory.mktemp("sixty"), SLIDES)


@pytest.fixture(scope="module")
def undisturbed_sixty(many, model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sixty-undisturbed")
    return run_undisturbed(Stream(on_this_machine(folder), folder, model_dir), many).results()


@pytest.mark.parametrize("broker", ["embedded", "kafka"])
def test_a_stack_survives_a_storm_of_faults(broker, many, undisturbed_sixty, model_dir, tmp_path):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    options = ("--broker", broker, "--inference", "triton", "--tilers", "2", "--watch", inbox, "--allow", "/")
    limits = ("--frozen-after", FROZEN_S)
    with small_disk(tmp_path / "disk", DISK_MB) as disk:
        storm = Storm(
            disk.folder / "home", model_dir, (*options, *limits), ENVIRONMENT, log=tmp_path / "up.log"
        )
        try:
            run_storm(storm, disk, many, inbox, random.Random(4711))
            remains = settled(storm)
            code = storm.stop()
        finally:
            storm.end()
    print(f"\n{broker}: {storm.injected.total()} faults {dict(storm.injected)}; {storm.starts} starts")
    assert (storm.given_up, code) == (0, 0), (tmp_path / "up.log").read_text()[-4000:]
    assert remains.letters == {}
    check(remains, map(scanned, many), undisturbed_sixty, orphans=storm.injected.total())
    assert left_in_shared_memory(storm.seen) == []
    assert storm.injected.total() >= FAULTS
    assert storm.spared() <= ({"kafka"} if broker == "embedded" else set())


def run_storm(storm: Storm, disk: SmallDisk, slides: list[Path], inbox: Path, chance: random.Random) -> None:
    """Let slides arrive and inject faults evenly over the storm; on a slow machine it lasts longer."""
    until(storm.is_whole, DRAIN_S, "all kinds of processes to run")
    began, arriving, faults = time.monotonic(), list(slides), 0
    while (passed := (time.monotonic() - began) / STORM_S) < 1 or (faults < FAULTS and passed < 3):
        storm.tend()
        if FULL[0] < passed < FULL[1]:
            disk.fill()
        elif disk.is_filled:
            disk.free()
        while arriving and len(slides) - len(arriving) < passed * len(slides) + 1:
            arrive(arriving.pop(0), inbox)
        if faults < passed * FAULTS:
            faults += storm.inject(chance)
        time.sleep(0.05)  # the storm's own pace
    for path in arriving:
        arrive(path, inbox)
    storm.calm()


def arrive(slide: Path, inbox: Path) -> None:
    """Put a slide into the watched folder in one step."""
    part = inbox / f"{slide.name}.part"
    shutil.copy(slide, part)
    part.rename(inbox / slide.name)


def settled(storm: Storm):
    """Wait until every slide has ended and nothing is left to do; return what the stream left."""

    def done() -> bool:
        storm.tend()
        if not (storm.home / "stack.json").exists():
            return False
        stream = storm.stream()
        return len(stream.drafts()) + len(stream.keys(LETTERS)) >= SLIDES and stream.idle()

    until(done, DRAIN_S, "all slides to end", every_s=1.0)
    return storm.stream().remains()


def left_in_shared_memory(processes: set[tuple[int, int]]) -> list[str]:
    """List what the stack's processes left in /dev/shm; names contain the process that made them."""
    names = [path.name for path in Path("/dev/shm").glob("histgen-*")]
    return [name for name in names if tuple(map(int, name.split("-")[3:5])) in processes]
