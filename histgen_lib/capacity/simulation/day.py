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

    `on_gpu`: seconds beyond that on a GPU of its own, by slide, empty for none; `gpu_share`: how much of that
    GPU a job takes up meanwhile. GPUs are shared.
    """

    seconds: Seconds
    where: NDArray[np.int64]
    partitions: int
    pods: Pods
    patience: Patience = field(default_factory=Patience)
    on_gpu: Seconds = field(default_factory=lambda: np.empty(0))
    gpu_share: float = 1.0


@dataclass(frozen=True)
class Gpus:
    """GPUs, and how long until a lost one is noticed (`lost_s`) and another one serves (`start_s`)."""

    count: int
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

    `arrivals`: seconds at which slides are announced, in order. `lasts_s`: until when it goes on at least:
    pods and GPUs are there, and cost something, also when all slides are drafted.
    """

    arrivals: Seconds
    works: Mapping[str, Work]
    gpus: Gpus | None = None
    troubles: Sequence[Trouble] = ()
    seed: int = 0
    lasts_s: float = 0.0


def simulate(day: Day, *, horizon_s: float = HORIZON_S) -> Result:
    """Run the day until it is over and every slide has ended, or until the horizon."""
    began = time.perf_counter()
    run = _Run(day)
    run.loop.run(horizon_s)
    return run.result(time.perf_counter() - began)


class _Run:
    def __init__(self, day: Day) -> None:
        self._day, self.loop = day, Loop()
        self._drafted = array("d", [float("nan")]) * len(day.arrivals)
        self._ends = self._letters = 0
        self._ended_at_s = 0.0
        self._arrivals: list[float] = day.arrivals.tolist()
        self._samples: list[Sample] = []
        self._server = SharedServer(self.loop, day.gpus.count) if day.gpus else None
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
        self.loop.at(day.lasts_s, self._over)
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
            ended_at_s=self._ended_at_s,
            scan_to_draft_s=np.asarray(self._drafted) - arrivals,
            arrivals_s=arrivals,
            stations=stations,
            gpu_hours=gpus.count * self.loop.now / 3600 if gpus else 0.0,
            gpu_busy_hours=server.busy_s() / 3600 if server else 0.0,
            samples=self._samples,
            events=self.loop.events,
            took_s=took_s,
        )

    def _station(self, number: int, name: str, work: Work, following: Station | None) -> Station:
        steps: list[Step] = [Delay(self.loop, work.seconds.tolist())]
        if len(work.on_gpu) and self._server is not None:
            steps.append(self._server.step(work.on_gpu.tolist(), work.gpu_share))
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
        self._ended_at_s = self.loop.now
        if done:
            self._drafted[slide] = self.loop.now
        else:
            self._letters += 1
        self._over()

    def _over(self) -> None:
        """Stop once no slide is left and the day is over."""
        if self._ends == len(self._arrivals) and self.loop.now >= self._day.lasts_s:
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
        lost = min(count, server.capacity)
        server.resize(server.capacity - lost)
        self.loop.after(gpus.lost_s + gpus.start_s, lambda: server.resize(server.capacity + lost))

    def _sample(self) -> None:
        fleets = self._fleets.values()
        self._samples.append(
            Sample(
                at_s=self.loop.now,
                waiting=tuple(fleet.station.waiting for fleet in fleets),
                ready=tuple(fleet.ready for fleet in fleets),
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
