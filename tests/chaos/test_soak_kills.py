"""Everything is killed again and again, on both buses (`make chaos`)."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from baseline import run_undisturbed
from chaos_slides import write_good
from faults import Fault, inject_all, on_workers
from harness import Stream, on_this_machine, scanned
from invariants import check, done_again
from stream_servers import Servers, on_server, on_stub, supervised

SLIDES, SEEDS = 100, 3
UNTIL = SLIDES * 3 // 5
"""Faults are spread over this many results, so that there is still work when the last one is due."""
ATTEMPTS = {"HISTGEN_MAX_ATTEMPTS": "20"}
"""One slide may be hit more often than the default number of attempts."""
pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Many:
    """Slides, and what an undisturbed run makes of them."""

    slides: Sequence[Path]
    undisturbed: Mapping[str, str]


@pytest.fixture(scope="module")
def many(model_dir, tmp_path_factory) -> Many:
    slides = write_good(tmp_path_factory.mktemp("many"), SLIDES)
    folder = tmp_path_factory.mktemp("many-undisturbed")
    return Many(slides, run_undisturbed(Stream(on_this_machine(folder), folder, model_dir), slides).results())


@pytest.mark.parametrize("place", ["embedded", "kafka"], indirect=True)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_two_of_each_worker_survive_kills_of_them_and_their_children(new_stream, many, place, seed):
    """Members are killed while others take over their work."""
    stream, chance = new_stream(place, **ATTEMPTS), random.Random(seed)
    stream.start("tiler", "tiler-2", "reporter", "reporter-2")
    run(stream, many, on_workers(stream, chance, until=UNTIL, each=3))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_stream_survives_kills_of_its_workers_children_and_servers(new_stream, many, servers, seed):
    """Kafka, S3Proxy, tritonserver and its stubs are killed three times each, the workers meanwhile."""
    stream, chance = new_stream(servers.place(), **ATTEMPTS), random.Random(100 + seed)
    with supervised(servers.triton):
        stream.start("tiler", "reporter")
        rows = [on_servers(stream, servers, chance), *on_workers(stream, chance, until=UNTIL, each=2)]
        run(stream, many, rows)


def on_servers(stream: Stream, servers: Servers, chance: random.Random) -> list[Fault]:
    """Draw three faults for each server and each stub."""
    targets = [servers.kafka, servers.s3, servers.triton, "tiler", "reporter"] * 3
    chance.shuffle(targets)
    return [
        on_stub(stream, servers, target, after=after)
        if isinstance(target, str)
        else on_server(stream, target, "tiler", after=after, retries=chance.randint(1, 5))
        for target, after in zip(targets, sorted(chance.sample(range(UNTIL), len(targets))), strict=True)
    ]


def run(stream: Stream, many: Many, rows: Sequence[Sequence[Fault]]) -> None:
    """Publish slides, inject faults, wait, check, and print a summary."""
    events = [scanned(path) for path in many.slides]
    planned, began_at = sum(map(len, rows)), time.monotonic()
    with stream.watch.watching():
        stream.publish(events)
        injected = inject_all(stream, len(events), *rows, timeout_s=1200)
        stream.settle(len(events), timeout_s=600)
    seconds, first = time.monotonic() - began_at, len(stream.services)
    stream.stop()
    remains = stream.remains()
    check(remains, events, many.undisturbed, orphans=injected["tiler"] + injected["reporter"])
    assert injected.total() >= planned * 3 // 4, injected
    print(
        f"\n{len(events)} slides, {injected.total()}/{planned} faults in {seconds:.0f} s {dict(injected)}; "
        f"{stream.starts.total() - first} restarts of workers, {done_again(remains)} repeated events"
    )
