"""150 kills and stops in four minutes, the supervisor included: each slide ends once, and nothing is left."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest
from calm import run_undisturbed
from chaos_slides import write_good
from harness import LETTERS, Stream, on_this_machine, scanned
from invariants import check
from storm import Storm
from waiting import until

SLIDES, BLOWS, STORM_S, DRAIN_S = 60, 150, 240.0, 1200.0
ENVIRONMENT = {
    "HISTGEN_MAX_ATTEMPTS": "100",  # one slide may be hit more often than its attempts would allow
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
def test_a_storm_over_the_whole_stack(broker, many, undisturbed_sixty, model_dir, tmp_path):
    (tmp_path / "home" / "inbox").mkdir(parents=True)
    options = ("--broker", broker, "--inference", "triton", "--tilers", "2")
    storm = Storm(tmp_path / "home", model_dir, options, ENVIRONMENT)
    try:
        rage(storm, many, random.Random(4711))
        remains = settled(storm)
        code = storm.stop()
    finally:
        storm.end()
    print(
        f"\n{broker}: {storm.struck.total()} blows {dict(storm.struck)}; {storm.starts} starts of histgen up"
    )
    assert (storm.given_up, code) == (0, 0), (tmp_path / "up.log").read_text()[-4000:]
    check(remains, map(scanned, many), undisturbed_sixty, orphans=storm.struck.total())
    assert left_in_shared_memory(storm.seen) == []
    assert storm.struck.total() >= BLOWS


def rage(storm: Storm, slides: list[Path], chance: random.Random) -> None:
    """Have slides arrive, and strike, evenly over the storm's time; on a slow machine it lasts longer."""
    began, arriving, blows = time.monotonic(), list(slides), 0
    while (passed := (time.monotonic() - began) / STORM_S) < 1 or (blows < BLOWS and passed < 3):
        storm.tend()
        while arriving and len(slides) - len(arriving) < passed * len(slides) + 1:
            arrive(arriving.pop(0), storm.home / "inbox")
        if blows < passed * BLOWS:
            blows += storm.strike(chance)
        time.sleep(0.05)  # the storm's own pace
    for path in arriving:
        arrive(path, storm.home / "inbox")
    storm.calm()


def arrive(slide: Path, inbox: Path) -> None:
    """Put a slide into the watched folder as a whole."""
    part = inbox / f"{slide.name}.part"
    shutil.copy(slide, part)
    part.rename(inbox / slide.name)


def settled(storm: Storm):
    """Wait until every slide has ended and nothing is left to do; return what there is then."""

    def done() -> bool:
        storm.tend()
        if not (storm.home / "stack.json").exists():
            return False
        stream = storm.stream()
        return len(stream.drafts()) + len(stream.keys(LETTERS)) >= SLIDES and stream.idle()

    until(done, DRAIN_S, "all slides to end", every_s=1.0)
    return storm.stream().remains()


def left_in_shared_memory(pids: set[int]) -> list[str]:
    """Name what processes of the stack left in /dev/shm: a name says which process made it."""
    names = [path.name for path in Path("/dev/shm").glob("histgen-*")]
    return [name for name in names if int(name.split("-")[3]) in pids]
