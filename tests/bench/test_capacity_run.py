"""The simulation beside a real stack: arrivals, waits, drafts (`make bench-capacity`).

Slides arrive at random times, at about 70 % of what the tiler can do, in blocks. Every other block is for
calibration: it says how long jobs take beside each other on this machine at that time. For each block between
two of those, the simulation gets the slides of the block at the same times, and service times drawn at random
from the two; what it says of waiting is compared with what happened. Once more it gets the service times of
the block itself: that leaves out the machine's changes of pace, and checks the queues alone. In a last block
all slides arrive at once: only there the throughput is the line's own, and not that of the arrivals.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from harness import Place, Stream, on_this_machine, scanned
from numpy.typing import NDArray

from histgen_lib.bus import BusSettings, open_publisher
from histgen_lib.bus._sharing import partition_of
from histgen_lib.capacity.simulation.day import Day, Work, simulate
from histgen_lib.capacity.simulation.fleet import Pods
from histgen_lib.capacity.simulation.station import Patience
from histgen_lib.events import Event, SlideScanned

SIDES_PX = (640, 1024, 1536, 2048)
SEED, PARTITIONS = 4711, 12
WARM_UP, CALIBRATION, BLOCKS, ARRIVALS = 4, 24, 3, 48
"""Slides before anything is measured, of a block for calibration; blocks to compare, slides of each."""
LOAD, FIRST_S = 0.7, 1.0
"""How busy the tiler is to be; the seconds between arrivals before anything is known."""
DRAWS, WITHIN = 20, 0.15
"""How often service times are drawn; how far from the real run the simulation may be."""
SERVICES = ("tiler", "reporter")


@dataclass(frozen=True)
class Seen:
    """A block: when slides were announced, and what each service took, in seconds since the first arrival."""

    kinds: Sequence[int]
    arrivals: NDArray[np.float64]
    began: Mapping[str, NDArray[np.float64]]
    ended: Mapping[str, NDArray[np.float64]]

    def came(self, service: str) -> NDArray[np.float64]:
        return self.arrivals if service == "tiler" else self.ended["tiler"]

    def waits(self, service: str) -> NDArray[np.float64]:
        return self.began[service] - self.came(service)

    def seconds(self, service: str) -> NDArray[np.float64]:
        """How long each record occupied its worker: until the next one, where that waited already."""
        order = np.argsort(self.began[service])
        began, ended = self.began[service][order], self.ended[service][order]
        came = self.came(service)[order]
        free = ended.copy()
        waited = came[1:] < ended[:-1]
        free[:-1][waited] = began[1:][waited]
        taken = np.empty(len(order))
        taken[order] = free - began
        return taken

    def look_s(self, service: str) -> float:
        """How long an idle worker takes to notice a record."""
        order = np.argsort(self.began[service])
        came, began = self.came(service)[order], self.began[service][order]
        ended = self.ended[service][order]
        idle = came[1:] > ended[:-1]
        return float(np.median((began - came)[1:][idle])) if idle.any() else 0.0


class Line:
    """A tiler and a reporter that run until `close`; `run` sends slides through."""

    def __init__(self, at: Place, folder: Path, model: Path, slides: Sequence[Path]) -> None:
        self._stream, self._folder = Stream(at, folder, model), folder
        self._events = [scanned(path) for path in slides]
        self._runs = 0
        self._stream.start(*SERVICES)

    def run(self, gaps_s: NDArray[np.float64], chance: np.random.Generator) -> Seen:
        """Announce a slide after each gap, of each size equally often; return once all are drafted."""
        self._runs += 1
        kinds = [int(kind) for kind in chance.permutation(len(gaps_s)) % len(self._events)]
        names = [f"run{self._runs}-{number:04d}" for number in range(len(kinds))]
        came = []
        with closing(open_publisher(self._stream.place.bus)) as publisher:
            due = time.time()
            for kind, name, gap_s in zip(kinds, names, gaps_s, strict=True):
                due += float(gap_s)
                time.sleep(max(0.0, due - time.time()))
                event = named(self._events[kind], name)
                publisher.publish(event.type, event.key, event)
                came.append(time.time())
        self._stream.until(lambda: len(self._log("reporter", names)) == len(names), 1200, "all drafts")
        logs = {service: self._log(service, names) for service in SERVICES}
        zero = came[0]
        return Seen(
            kinds=kinds,
            arrivals=np.array(came) - zero,
            began={s: np.array([logs[s][name][0] for name in names]) - zero for s in SERVICES},
            ended={s: np.array([logs[s][name][1] for name in names]) - zero for s in SERVICES},
        )

    def close(self) -> None:
        self._stream.stop()

    def _log(self, service: str, names: Sequence[str]) -> dict[str, tuple[float, float]]:
        """When a service began and finished with each record, by its log."""
        wanted, found = set(names), {}
        for line in (self._folder / f"{service}.log").read_text().splitlines():
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("event") == "The record is finished." and entry.get("slide_id") in wanted:
                assert entry["outcome"] == "done", entry
                ended = datetime.fromisoformat(entry["time"]).timestamp()
                found[entry["slide_id"]] = (ended - entry["seconds"], ended)
        return found


def named(event: Event, name: str) -> Event:
    assert isinstance(event.data, SlideScanned)
    data = replace(event.data, slide_id=name)
    return Event.first(data, source=event.source, now=event.time, identity=name)


@dataclass(frozen=True)
class Compared:
    """Blocks of one kind, each with the blocks for calibration before and after it."""

    what: str
    seen: Sequence[Seen]
    around: Sequence[Sequence[Seen]]
    promised: Sequence[str]


def measured(line: Line, chance: np.random.Generator) -> list[Compared]:
    """Run blocks for calibration and, between each two of them, a block to compare."""

    def of(count: int, like: Seen) -> Seen:
        return line.run(chance.exponential(like.seconds("tiler").mean() / LOAD, count), chance)

    line.run(np.full(WARM_UP, FIRST_S), chance)
    calibrations = [of(CALIBRATION, line.run(chance.exponential(FIRST_S, CALIBRATION // 2), chance))]
    seen = []
    for _ in range(BLOCKS):
        seen.append(of(ARRIVALS, calibrations[-1]))
        calibrations.append(of(CALIBRATION, calibrations[-1]))
    burst = line.run(np.zeros(ARRIVALS), chance)
    calibrations.append(of(CALIBRATION, calibrations[-1]))
    *around, last = pairwise(calibrations)
    waits = ("both waits, s", "scan to draft, mean, s")
    return [
        Compared(f"{BLOCKS} blocks of {ARRIVALS} slides at random times", seen, around, waits),
        Compared(f"{ARRIVALS} slides at once", [burst], [last], ("slides/h", *waits)),
    ]


def simulated(seen: Seen, seconds: Mapping[str, NDArray[np.float64]], looks: Mapping[str, float]) -> Seen:
    """Return the block as the simulation has it."""
    where = np.array([partition_of(f"slide-{n}", PARTITIONS) for n in range(len(seen.kinds))])
    works = {
        name: Work(seconds[name], where, PARTITIONS, Pods(1), Patience(look_s=looks[name]))
        for name in SERVICES
    }
    result = simulate(Day(seen.arrivals + 1.0, works))  # a second later: the workers are there by then
    stations = result.stations
    return replace(
        seen,
        began={name: stations[name].began_s - 1.0 for name in SERVICES},
        ended={name: stations[name].done_s - 1.0 for name in SERVICES},
    )


def simulated_with_its_own(seen: Seen) -> Seen:
    looks = {name: seen.look_s(name) for name in SERVICES}
    return simulated(seen, {name: seen.seconds(name) for name in SERVICES}, looks)


def simulated_from(around: Sequence[Seen], seen: Seen, chance: np.random.Generator) -> Seen:
    looks = {name: float(np.mean([block.look_s(name) for block in around])) for name in SERVICES}
    return simulated(seen, {name: drawn(seen, around, name, chance) for name in SERVICES}, looks)


def drawn(
    seen: Seen, around: Sequence[Seen], service: str, chance: np.random.Generator
) -> NDArray[np.float64]:
    """Draw service times of slides of the same size from the blocks for calibration around this one."""
    known: dict[int, list[float]] = {kind: [] for kind in range(len(SIDES_PX))}
    for block in around:
        for kind, seconds in zip(block.kinds, block.seconds(service), strict=True):
            known[kind].append(float(seconds))
    return np.array([chance.choice(known[kind]) for kind in seen.kinds])


def figures(seen: Sequence[Seen]) -> dict[str, float]:
    """Return throughput and waits over all these blocks."""
    drafts = np.concatenate([block.ended["reporter"] - block.arrivals for block in seen])
    took_s = sum(float(block.ended["reporter"].max()) for block in seen)
    waits = {name: float(np.mean([block.waits(name) for block in seen])) for name in SERVICES}
    return {
        "slides/h": 3600 * len(drafts) / took_s,
        "wait for the tiler, s": waits["tiler"],
        "wait for the reporter, s": waits["reporter"],
        "both waits, s": sum(waits.values()),
        "scan to draft, mean, s": float(drafts.mean()),
        "scan to draft, p95, s": float(np.percentile(drafts, 95)),
    }


def compare(broker: str, block: Compared, chance: np.random.Generator) -> None:
    """Print what happened beside what the simulation says. Raises AssertionError if that is too far off."""
    real = figures(block.seen)
    pairs = list(zip(block.seen, block.around, strict=True))
    from_others = figures([simulated_from(two, seen, chance) for seen, two in pairs for _ in range(DRAWS)])
    from_itself = figures([simulated_with_its_own(seen) for seen in block.seen])
    busy_s = sum(float(seen.seconds("tiler").sum()) for seen in block.seen)
    load = busy_s / sum(float(seen.ended["tiler"].max()) for seen in block.seen)
    print(f"\n{broker}: {block.what}, tiler busy {100 * load:.0f} %")
    for service in SERVICES:
        for seen, two in pairs:
            before, within, after = (one.seconds(service).mean() for one in (two[0], seen, two[1]))
            print(f"  a {service}'s job: {before:.3f} s before, {within:.3f} s, {after:.3f} s after")
    print(f"  {'':26}{'real':>10}{'simulated':>12}{'':>8}{'own times':>12}")
    for name, value in real.items():
        one, other = from_others[name], from_itself[name]
        print(
            f"  {name:26}{value:10.2f}{one:12.2f}{100 * (one / value - 1):+7.1f} %"
            f"{other:10.2f}{100 * (other / value - 1):+7.1f} %"
        )
    for name in block.promised:
        assert from_itself[name] == pytest.approx(real[name], rel=WITHIN), name
        assert from_others[name] == pytest.approx(real[name], rel=WITHIN), f"{name}: was the machine quiet?"


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("broker", ["embedded", "kafka"])
def test_the_simulation_says_what_a_real_stack_does(broker, model_dir, tmp_path, request):
    slides = [
        tiny_model.write_slide(tmp_path / f"{side_px}.tif", side_px=side_px, seed=side_px)
        for side_px in SIDES_PX
    ]
    at = on_this_machine(tmp_path / "stream", partitions=PARTITIONS, session_s=10.0)
    if broker == "kafka":
        at = replace(at, bus=BusSettings(request.getfixturevalue("kafka").url, PARTITIONS))
    chance = np.random.default_rng(SEED)
    with closing(Line(at, tmp_path / "stream", model_dir, slides)) as line:
        blocks = measured(line, chance)
    for block in blocks:
        compare(broker, block, chance)
