"""A whole stream for a day: slides arrive, services work, things go wrong, and all is measured."""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from histgen_lib.capacity.simulation.fleet import Fleet, Pods
from histgen_lib.capacity.simulation.loop import Loop
from histgen_lib.capacity.simulation.result import Result, Sample, StationResult
from histgen_lib.capacity.simulation.station import Patience, Station
from histgen_lib.capacity.simulation.steps import Delay, SharedServer, Step

HORIZON_S = 4 * 86_400.0
"""A day that is not over by then never will be: its slides count as unfinished."""
EVERY_S = 60.0

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Work:
    """A service's work. `seconds`: of its own time, by slide; `where`: each record's partition.

    `on_gpu`: work beyond that on the shared GPUs, by slide (tiles); empty for none.
    """

    seconds: Seconds
    where: NDArray[np.int64]
    partitions: int
    pods: Pods
    patience: Patience = field(default_factory=Patience)
    on_gpu: Seconds = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class Gpus:
    """GPU servers. `rate`: work (tiles) of one in a second. `most`: what one worker can bring in a second."""

    count: int
    rate: float
    most: float
    start_s: float = 180.0
    lost_s: float = 340.0


@dataclass(frozen=True)
class Trouble:
    """What happens at `at_s`: `lose` pods of a service (or GPUs), or `update` all pods of a service."""

    at_s: float
    what: Literal["lose", "update"]
    whom: str
    count: int = 0


@dataclass(frozen=True)
class Day:
    """All that a simulation needs; the same day always ends in the same way.

    `arrivals`: seconds at which slides are announced, in order.
    """

    arrivals: Seconds
    works: Mapping[str, Work]
    gpus: Gpus | None = None
    troubles: Sequence[Trouble] = ()
    seed: int = 0


def simulate(day: Day, *, horizon_s: float = HORIZON_S) -> Result:
    """Run the day until every slide has ended, or until the horizon."""
    began = time.perf_counter()
    run = _Run(day)
    run.loop.run(horizon_s)
    return run.result(time.perf_counter() - began)


class _Run:
    def __init__(self, day: Day) -> None:
        self._day, self.loop = day, Loop()
        self._drafted = array("d", [float("nan")]) * len(day.arrivals)
        self._ends = self._letters = 0
        self._arrivals: list[float] = day.arrivals.tolist()
        self._samples: list[Sample] = []
        self._server = self._shared()
        self._fleets: dict[str, Fleet] = {}
        following: Station | None = None
        for number, (name, work) in reversed(list(enumerate(day.works.items()))):
            station = self._station(number, name, work, following)
            self._fleets[name] = Fleet(self.loop, station, work.pods)
            following = station
        assert following is not None
        self._first = following
        self._fleets = {name: self._fleets[name] for name in day.works}
        for trouble in day.troubles:
            self.loop.at(trouble.at_s, self._happen, trouble)
        self.loop.after(0.0, self._sample)
        if self._arrivals:
            self.loop.at(self._arrivals[0], self._arrive, 0)

    def result(self, took_s: float) -> Result:
        arrivals = np.asarray(self._day.arrivals)
        stations = {name: self._station_result(fleet) for name, fleet in self._fleets.items()}
        gpus, server = self._day.gpus, self._server
        return Result(
            slides=len(arrivals),
            drafts=self._ends - self._letters,
            letters=self._letters,
            ended_at_s=self.loop.now,
            scan_to_draft_s=np.asarray(self._drafted) - arrivals,
            arrivals_s=arrivals,
            stations=stations,
            gpu_hours=gpus.count * self.loop.now / 3600 if gpus else 0.0,
            gpu_busy_hours=server.work_done() / gpus.rate / 3600 if gpus and server else 0.0,
            samples=self._samples,
            events=self.loop.events,
            took_s=took_s,
        )

    def _shared(self) -> SharedServer | None:
        gpus = self._day.gpus
        if gpus is None:
            return None
        amounts = [work.on_gpu for work in self._day.works.values() if len(work.on_gpu)]
        return SharedServer(self.loop, gpus.count * gpus.rate, gpus.most, amounts[0].tolist())

    def _station(self, number: int, name: str, work: Work, following: Station | None) -> Station:
        steps: list[Step] = [Delay(self.loop, work.seconds.tolist())]
        if len(work.on_gpu) and self._server is not None:
            steps.append(self._server)
        chance = Random(self._day.seed * 1000 + number)

        def ended(slide: int, done: bool) -> None:
            if done and following is not None:
                following.arrive(slide)
            else:
                self._end(slide, done)

        return Station(
            self.loop,
            name,
            work.where.tolist(),
            work.partitions,
            steps=steps,
            ended=ended,
            patience=work.patience,
            chance=chance,
        )

    def _arrive(self, slide: int) -> None:
        self._first.arrive(slide)
        if slide + 1 < len(self._arrivals):
            self.loop.at(self._arrivals[slide + 1], self._arrive, slide + 1)

    def _end(self, slide: int, done: bool) -> None:
        self._ends += 1
        if done:
            self._drafted[slide] = self.loop.now
        else:
            self._letters += 1
        if self._ends == len(self._arrivals):
            self.loop.stop()

    def _happen(self, trouble: Trouble) -> None:
        if trouble.whom == "gpus":
            self._lose_gpus(trouble.count)
        elif trouble.what == "update":
            self._fleets[trouble.whom].update()
        else:
            self._fleets[trouble.whom].lose(trouble.count)

    def _lose_gpus(self, count: int) -> None:
        gpus, server = self._day.gpus, self._server
        assert gpus is not None
        assert server is not None
        server.resize(max(0.0, server.capacity - count * gpus.rate))
        self.loop.after(
            gpus.lost_s + gpus.start_s, lambda: server.resize(server.capacity + count * gpus.rate)
        )

    def _sample(self) -> None:
        fleets = self._fleets.values()
        server, gpus = self._server, self._day.gpus
        self._samples.append(
            Sample(
                at_s=self.loop.now,
                waiting=tuple(fleet.station.waiting for fleet in fleets),
                ready=tuple(fleet.ready for fleet in fleets),
                gpu_share=server.rate * server.jobs / (gpus.count * gpus.rate) if server and gpus else 0.0,
            )
        )
        self.loop.after(EVERY_S, self._sample)

    def _station_result(self, fleet: Fleet) -> StationResult:
        station = fleet.station
        return StationResult(
            arrived_s=np.asarray(station.arrived),
            began_s=np.asarray(station.began),
            done_s=np.asarray(station.done),
            attempts=station.attempts,
            redone=station.redone,
            busy_hours=station.busy_s / 3600,
            pod_hours=fleet.pod_s / 3600,
        )
