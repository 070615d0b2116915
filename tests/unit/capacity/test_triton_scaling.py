"""Triton follows the requests that wait now; a counter of requests would only ever add servers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scaled_object import scaled_objects
from simulated_day import STEP_S

from histgen_lib.capacity.autoscaler import Autoscaler
from histgen_lib.capacity.scaled_object import scaling_of
from histgen_lib.capacity.triggers import PrometheusTrigger

LEAST, MOST = 2, 4
SERVED_PER_STEP = 600
"""Requests that a server answers in a step."""


class Tritons:
    """Servers. `pending`: the sum of nv_inference_pending_request_count; `total`: a counter of requests."""

    def __init__(self, *, by: str, ignore_null_values: bool | None = None) -> None:
        scaling = scaling_of(scaled_objects("hospital")["lab-histgen-triton"])
        rule = scaling.rule
        if ignore_null_values is not None:
            rule = replace(rule, ignore_null_values=ignore_null_values)
        self._autoscaler, self._by = Autoscaler(scaling, PrometheusTrigger(rule)), by
        self.servers, self.pending, self.total, self._now_s = LEAST, 0.0, 0.0, 0.0

    def pass_steps(self, steps: int, requests: int, *, scraped: bool = True) -> list[int]:
        """Let `requests` come in each step; return the number of servers after each."""
        counts = []
        for _ in range(steps):
            waiting = self.pending + requests
            served = min(waiting, self.servers * SERVED_PER_STEP)
            self.pending, self.total, self._now_s = (
                waiting - served,
                self.total + served,
                self._now_s + STEP_S,
            )
            samples = [getattr(self, self._by)] if scraped else []
            self.servers = self._autoscaler.step(self._now_s, samples, self.servers)
            counts.append(self.servers)
        return counts


def test_servers_are_added_while_requests_wait_and_leave_when_none_do():
    tritons = Tritons(by="pending")
    assert set(tritons.pass_steps(20, 1000)) == {LEAST}
    assert tritons.pass_steps(40, 2000)[-1] == MOST
    assert tritons.pass_steps(160, 100)[-1] == LEAST
    assert tritons.pending == 0


def test_by_a_counter_all_servers_run_for_ever_even_with_nothing_to_do():
    tritons = Tritons(by="total")
    tritons.pass_steps(40, 10)
    assert set(tritons.pass_steps(5760, 0)) == {MOST}


@pytest.mark.parametrize(("ignored", "left"), [(None, MOST), (True, LEAST)])
def test_servers_that_are_not_scraped_stay_unless_no_series_counts_as_no_requests(ignored, left):
    """KEDA's default, which the chart does not use, takes busy servers away when Prometheus loses them."""
    tritons = Tritons(by="pending", ignore_null_values=ignored)
    tritons.pass_steps(40, 3000)
    assert tritons.pass_steps(160, 3000, scraped=False)[-1] == left
