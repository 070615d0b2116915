"""The chart runs the search where the values name a case index, and then with all that it needs."""

from __future__ import annotations

from typing import Any

import pytest
from chart_rendering import Manifest, RefusedError, merged, render, set_at, values_of

INDEX = set_at("retrieval.index", "s3://lab/case-index")


def rendered(*changes: dict[str, Any]) -> list[Manifest]:
    values = values_of("hospital")
    for change in changes:
        values = merged(values, change)
    return render(values)


def of(manifests: list[Manifest], kind: str, component: str = "search") -> Manifest:
    (found,) = [
        one
        for one in manifests
        if one["kind"] == kind and one["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    return found


def environment(manifests: list[Manifest], component: str = "search") -> dict[str, str]:
    (container,) = of(manifests, "Deployment", component)["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one.get("value", "") for one in container["env"]}


def test_without_an_index_there_is_no_search():
    manifests = rendered(set_at("retrieval.index", ""))
    assert not [one for one in manifests if "search" in one["metadata"]["name"]]
    assert "HISTGEN_CASE_INDEX" not in environment(manifests, "reporter")


def test_it_has_the_index_the_model_and_the_model_server():
    manifests = rendered(INDEX)
    found = environment(manifests)
    assert found["HISTGEN_CASE_INDEX"] == "s3://lab/case-index"
    assert found["HISTGEN_INFERENCE"] == environment(manifests, "reporter")["HISTGEN_INFERENCE"]
    assert found["HISTGEN_MODEL"] == "/model/current"
    pod = of(manifests, "Deployment")["spec"]["template"]["spec"]
    assert [one["name"] for one in pod["initContainers"]] == ["model"]
    assert {"model", "inference"} <= {one["name"] for one in pod["volumes"]}
    assert "scratch" not in {one["name"] for one in pod["volumes"]}
    assert "HISTGEN_SCRATCH" not in found


def test_a_policy_lets_it_reach_triton_and_the_gateway_not():
    policies = {
        one["metadata"]["name"]: one["spec"] for one in rendered(INDEX) if one["kind"] == "NetworkPolicy"
    }
    (to_triton,) = [spec for name, spec in policies.items() if name.endswith("to-triton")]
    (named,) = to_triton["podSelector"]["matchExpressions"]
    assert "search" in named["values"]
    assert "gateway" not in named["values"]


def test_a_policy_lets_all_that_use_an_index_in_s3_reach_it_though_the_store_is_a_folder():
    values = merged(values_of("small-lab"), {"retrieval": {"index": "s3://lab/cases", "claim": ""}})
    policies = {
        one["metadata"]["name"]: one["spec"] for one in render(values) if one["kind"] == "NetworkPolicy"
    }
    (named,) = policies["lab-histgen-to-store"]["podSelector"]["matchExpressions"]
    assert {"librarian", "search", "reporter"} <= set(named["values"])


def test_it_is_reached_by_its_own_paths_behind_the_entrances_host():
    manifests = rendered(INDEX)
    (rule,) = of(manifests, "Ingress", "gateway")["spec"]["rules"]
    services = {one["path"]: one["backend"]["service"]["name"] for one in rule["http"]["paths"]}
    assert services["/search"] == services["/cases"] == "lab-histgen-search"
    gateways = {path for path, name in services.items() if name == "lab-histgen-gateway"}
    assert gateways >= {"/slides", "/signatures", "/withdrawals"}
    assert rule["host"] in environment(manifests)["HISTGEN_HTTP_NAMES"].split(",")


def test_with_autoscaling_its_pods_follow_their_cpu():
    on = set_at("autoscaling.enabled", True)
    scaler = of(rendered(INDEX, on), "HorizontalPodAutoscaler")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 6)
    assert scaler["metrics"][0]["containerResource"]["container"] == "search"
    assert "replicas" not in of(rendered(INDEX, on), "Deployment")["spec"]
    off = rendered(INDEX, set_at("autoscaling.enabled", False))
    assert of(off, "Deployment")["spec"]["replicas"] == 2
    assert not [one for one in off if one["kind"] == "HorizontalPodAutoscaler" and "search" in str(one)]


def test_an_index_in_a_folder_is_mounted_from_its_claim():
    index = {"retrieval": {"index": "file:/case-index", "claim": "histgen-index"}}
    pod = of(rendered(index), "Deployment")["spec"]["template"]["spec"]
    assert {"name": "case-index", "persistentVolumeClaim": {"claimName": "histgen-index"}} in pod["volumes"]
    assert {"name": "case-index", "mountPath": "/case-index"} in pod["containers"][0]["volumeMounts"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"retrieval": {"index": "file:/case-index"}}, "needs a claim"),
        ({"retrieval": {"index": "s3://lab/x", "claim": "c"}}, "needs a claim"),
        ({"retrieval": {"index": "s3://histgen"}}, "of its own"),
        ({"retrieval": {"index": "s3://histgen/lab/"}}, "of its own"),
        ({"retrieval": {"index": "s3://histgen/lab"}}, "of its own"),
        ({"retrieval": {"index": "s3://histgen/lab/index"}}, "of its own"),
        (merged(INDEX, set_at("settings.case_index", "s3://a/b")), "use retrieval.index"),
        (merged(INDEX, set_at("services.search.maxReplicas", 1)), "maxReplicas of the search"),
    ],
)
def test_wrong_values_are_refused_in_words(change, words):
    with pytest.raises(RefusedError, match=words):
        rendered(merged(set_at("autoscaling.enabled", True), change))
