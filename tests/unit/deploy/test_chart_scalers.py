"""Workers and Triton are scaled as was measured; topics and the pruning fit the services."""

from __future__ import annotations

import json

import pytest
from chart_rendering import (
    CHART,
    container_of,
    deployment,
    environment,
    merged,
    of_kind,
    one,
    pods,
    render,
    set_at,
    values_of,
)

from histgen_lib.bus import _kafka_client
from services.table import SERVICES

TABLE = json.loads((CHART / "files" / "services.json").read_text())


def test_workers_are_scaled_by_the_lag_of_their_own_group(manifests):
    for row in SERVICES:
        for scaler in of_kind(manifests, "ScaledObject"):
            if scaler["metadata"]["name"] != f"lab-histgen-{row.name}":
                continue
            triggers = scaler["spec"]["triggers"]
            assert {trigger["type"] for trigger in triggers} == {"kafka"}
            measured = [trigger["metadata"] for trigger in triggers]
            assert {each["topic"]: each["consumerGroup"] for each in measured} == row.groups
            stated = {
                "lagThreshold": "1",
                "limitToPartitionsWithLag": "true",
                "excludePersistentLag": "false",
                "scaleToZeroOnInvalidOffset": "false",
                "offsetResetPolicy": "earliest",
            }
            bus = environment(container_of(manifests, row))["HISTGEN_BUS"]
            for each in measured:
                assert stated.items() <= each.items()
                assert bus == f"kafka://{each['bootstrapServers']}"
            assert scaler["spec"]["fallback"]["behavior"] == "currentReplicasIfHigher"


def test_there_are_never_more_workers_than_partitions(manifests):
    for row in SERVICES:
        partitions = int(environment(container_of(manifests, row))["HISTGEN_BUS_PARTITIONS"])
        for topic in of_kind(manifests, "KafkaTopic"):
            assert topic["spec"]["partitions"] == partitions
        if row.kind == "worker":
            scalers = {each["metadata"]["name"]: each for each in of_kind(manifests, "ScaledObject")}
            scaler = scalers.get(f"lab-histgen-{row.name}")
            most = (
                scaler["spec"]["maxReplicaCount"]
                if scaler
                else deployment(manifests, row)["spec"]["replicas"]
            )
            assert most <= partitions


def test_partitions_follow_the_most_workers_if_the_values_leave_them_open():
    changes = {"kafka": {"partitions": 0}, "strimzi": {"enabled": False}}
    values = merged(merged(values_of("hospital"), changes), set_at("services.reporter.maxReplicas", 40))
    found = render(values)
    stated = {environment(container_of(found, row))["HISTGEN_BUS_PARTITIONS"] for row in SERVICES}
    assert stated == {"40"}


@pytest.mark.parametrize("example", ["cloud", "hospital"])
def test_triton_is_scaled_on_what_waits_now_never_on_a_counter(manifests, example):
    trigger, *waking = one(manifests, "ScaledObject", "lab-histgen-triton")["spec"]["triggers"]
    assert trigger["type"] == "prometheus"
    query = trigger["metadata"]["query"]
    assert query.startswith("sum(avg_over_time(nv_inference_pending_request_count{")
    assert 'namespace="histgen",pod=~"lab-histgen-triton-.+"' in query
    topics = [topic for row in SERVICES for topic in row.groups] if example == "cloud" else []
    assert {each["type"] for each in waking} <= {"kafka"}
    assert [each["metadata"]["topic"] for each in waking] == topics
    # From none it is woken by slides; without a Triton there is no series, which is no outage.
    assert trigger["metadata"]["ignoreNullValues"] == ("true" if example == "cloud" else "false")


def test_what_logs_in_to_kafka_logs_the_autoscaler_in_as_well(manifests, example):
    found = of_kind(manifests, "TriggerAuthentication")
    assert len(found) == (0 if example == "small-lab" else 1)
    for each in found:
        parameters = {ref["parameter"]: ref["name"] for ref in each["spec"]["secretTargetRef"]}
        values = values_of(example)["kafka"]
        if "login" in values:
            assert parameters["password"] == values["login"]["secretName"]
        if "certificate" in values:
            assert parameters["key"] == values["certificate"]["secretName"]


# --------------------------------------------------------------------- topics


def test_the_stream_has_all_its_topics_and_its_user_may_use_them():
    found = render(values_of("hospital"))
    topics = {topic["spec"]["topicName"]: topic["spec"] for topic in of_kind(found, "KafkaTopic")}
    events = {data.type for row in SERVICES for data in (*row.takes, *row.gives)}
    assert set(topics) == {*events, "dead-letter", "s3.notifications"}
    assert {spec["config"]["retention.ms"] for spec in topics.values()} == {_kafka_client._KEPT_MS}
    (user,) = of_kind(found, "KafkaUser")
    acls = user["spec"]["authorization"]["acls"]
    assert {acl["resource"]["name"] for acl in acls if acl["resource"]["type"] == "topic"} == set(topics)
    (group,) = [acl["resource"] for acl in acls if acl["resource"]["type"] == "group"]
    for row in TABLE["services"]:
        assert all(takes["group"].startswith(group["name"]) for takes in row["takes"])


def test_a_stream_without_notifications_has_no_topic_for_them():
    values = merged(values_of("hospital"), set_at("services.gateway.settings.notifications", ""))
    topics = of_kind(render(values), "KafkaTopic")
    assert "s3.notifications" not in {topic["spec"]["topicName"] for topic in topics}


# ------------------------------------------------------------------ retention


def test_pruning_runs_alone_and_says_what_it_may_remove(manifests):
    from histgen_lib.catalogue.pruning import read_retention

    (job,) = of_kind(manifests, "CronJob")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    command = pods([job])["CronJob/lab-histgen-retention"]["spec"]["containers"][0]["command"]
    assert command[:3] == ["histgen", "prune", "--older-than"]
    assert command[4:] == ["--yes"]
    assert "seen" in read_retention(command[3])
