"""The pods of a service: what an update, a change of their number and a lost node do to each other."""

from __future__ import annotations

import pytest

from histgen_lib.capacity.simulation.fleet import Fleet, Pods
from histgen_lib.capacity.simulation.loop import Loop

PODS, START_S, LOST_S = 8, 60.0, 340.0


class Group:
    """A topic without records: whoever is told to leave leaves after `job_s`."""

    name = "tiler"

    def __init__(self, loop: Loop, job_s: float) -> None:
        self._loop, self._job_s = loop, job_s
        self.members: dict[str, object] = {}

    def join(self, name, left):
        self.members[name] = left

    def stop(self, name):
        self._loop.after(self._job_s, self._leave, name)

    def _leave(self, name):
        self.members.pop(name)()

    def kill(self, name):
        del self.members[name]


class Updated:
    """Eight pods, all of which are to be updated at 100 s; then `changes`: (seconds, what to do)."""

    def __init__(self, *changes, job_s=0.0):
        loop = Loop()
        self.group = Group(loop, job_s)
        self.fleet = Fleet(loop, self.group, Pods(PODS, start_s=START_S, lost_s=LOST_S))
        loop.run(0.0)
        self.first = set(self.group.members)
        loop.at(100.0, self.fleet.update)
        for at_s, change in changes:
            loop.at(at_s, change, self.fleet)
        loop.run()

    def assert_ends_with(self, count):
        assert len(self.group.members) == self.fleet.ready == count
        assert not self.first & set(self.group.members), "pods that were never updated"


@pytest.mark.parametrize("job_s", [0.0, 45.0, 500.0])
@pytest.mark.parametrize("at_s", [100.0, 110.0, 160.0, 190.0, 280.0, 340.0, 1_000.0])
@pytest.mark.parametrize("size", [1, 4, 7, 12])
def test_an_update_ends_with_the_wanted_number_of_pods_and_no_old_one(size, at_s, job_s):
    Updated((at_s, lambda fleet: fleet.scale(size)), job_s=job_s).assert_ends_with(size)


def test_a_number_that_falls_and_rises_during_an_update_is_kept_too():
    down, up = (lambda fleet: fleet.scale(2)), (lambda fleet: fleet.scale(9))

    Updated((110.0, down), (170.0, up), (175.0, down), (230.0, up)).assert_ends_with(9)


def test_a_node_lost_during_an_update_is_made_up_for():
    Updated((130.0, lambda fleet: fleet.lose(3))).assert_ends_with(PODS)
