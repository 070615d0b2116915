"""What the chart's ScaledObjects have in common, in every example of values."""

from __future__ import annotations

import pytest
from chart_rendering import EXAMPLES, containers, environment, merged, one, render, set_at, values_of
from scaled_object import scaled_objects

from histgen_lib.capacity.hpa import UP
from histgen_lib.capacity.scaled_object import Scaling, scaling_of
from histgen_lib.capacity.triggers import KafkaRule, PrometheusRule

WORKERS = ("tiler", "reporter")


@pytest.fixture(params=[(path.stem, worker) for path in EXAMPLES for worker in WORKERS], ids="-".join)
def worker(request) -> tuple[str, str]:
    """Return the name of an example, and of a worker in it."""
    return request.param


def scaling(example: str, name: str) -> Scaling:
    return scaling_of(scaled_objects(example)[f"lab-histgen-{name}"])


def test_a_worker_follows_all_lag_a_record_each_counted_as_the_worker_reads(worker):
    rule = scaling(*worker).rule
    assert rule == KafkaRule(1, offset_reset_policy="earliest", limit_to_partitions_with_lag=True)
    assert not rule.exclude_persistent_lag
    assert not rule.scale_to_zero_on_invalid_offset


def test_no_worker_is_taken_away_while_the_broker_cannot_be_asked(worker):
    fallback = scaling(*worker).fallback
    assert fallback is not None
    assert fallback.replicas >= 1
    assert all(fallback.count(current) >= current for current in range(100))


def test_it_looks_often_enough_and_goes_up_at_once_and_down_late(worker):
    found = scaling(*worker)
    assert found.polling_s <= 15
    assert found.up.window_s == 0
    assert set(found.up.policies) == set(UP.policies)
    assert found.down.window_s >= 300


def test_there_are_partitions_for_the_most_workers(worker):
    example, name = worker
    values = merged(values_of(example), set_at("autoscaling.enabled", True))
    pod = one(render(values), "Deployment", f"lab-histgen-{name}")["spec"]["template"]
    partitions = environment(containers(pod)[-1])["HISTGEN_BUS_PARTITIONS"]
    assert scaling(example, name).most <= int(partitions)


def test_triton_follows_requests_that_wait_and_keeps_its_servers_when_it_is_not_scraped():
    manifest = scaled_objects("hospital")["lab-histgen-triton"]
    rule = scaling_of(manifest).rule
    assert isinstance(rule, PrometheusRule)
    assert not rule.ignore_null_values
    assert "nv_inference_pending_request_count" in manifest["spec"]["triggers"][0]["metadata"]["query"]
