"""What no manifest may do: run as root, mount a host's path, take without limit, speak to anybody."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import pytest
from chart_rendering import (
    Manifest,
    containers,
    merged,
    of_kind,
    one,
    pods,
    render,
    selects,
    set_at,
    values_of,
)

NEEDED = ("cpu", "memory", "ephemeral-storage")


def violations(manifests: list[Manifest]) -> list[str]:
    """Say what breaks the policy, and where."""
    kinds = {each["kind"] for each in manifests}
    found = [
        f"{kind}: rights"
        for kind in sorted(kinds & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"})
    ]
    found += [
        f"{each['metadata']['name']}: a token for everybody"
        for each in of_kind(manifests, "ServiceAccount")
        if each.get("automountServiceAccountToken") is not False
    ]
    for name, pod in pods(manifests).items():
        found += [f"{name}: {wrong}" for wrong in _of_pod(pod["spec"])]
        for container in containers(pod):
            found += [f"{name}/{container['name']}: {wrong}" for wrong in _of_container(container)]
    return found


def _of_pod(spec: Manifest) -> Iterator[str]:
    security = spec.get("securityContext", {})
    if not (
        security.get("runAsNonRoot")
        and security.get("runAsUser", 0) > 0
        and security.get("runAsGroup", 0) > 0
    ):
        yield "root"
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "system calls"
    if spec.get("automountServiceAccountToken") is not False:
        yield "a token"
    yield from (key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key))
    for volume in spec.get("volumes", []):
        if "hostPath" in volume:
            yield "a host's path"
        if "emptyDir" in volume and not volume["emptyDir"].get("sizeLimit"):
            yield "a volume without a limit"
        if "secret" in volume and volume["secret"].get("defaultMode") != 0o440:
            yield "a secret that others can read"


def _of_container(container: Manifest) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("runAsUser") == 0 or security.get("runAsNonRoot") is not True:
        yield "root"
    if security.get("privileged") or security.get("allowPrivilegeEscalation") is not False:
        yield "privileges"
    if security.get("capabilities") != {"drop": ["ALL"]}:
        yield "capabilities"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "a root that can be written"
    if container["image"].endswith(":latest") or ":" not in container["image"].rpartition("/")[2]:
        yield "an image of no version"
    for kind in ("requests", "limits"):
        stated = container.get("resources", {}).get(kind, {})
        yield from (f"{kind} of {name}" for name in NEEDED if name not in stated)


BREACHES = {
    "root": lambda pod, _: pod["securityContext"].update(runAsUser=0),
    "system calls": lambda pod, _: pod["securityContext"].pop("seccompProfile"),
    "a token": lambda pod, _: pod.pop("automountServiceAccountToken"),
    "hostPID": lambda pod, _: pod.update(hostPID=True),
    "a host's path": lambda pod, _: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
    "a volume without a limit": lambda pod, _: pod["volumes"].append({"name": "x", "emptyDir": {}}),
    "a secret that others can read": lambda pod, _: pod["volumes"].append({"name": "x", "secret": {}}),
    "privileges": lambda _, it: it["securityContext"].update(allowPrivilegeEscalation=True),
    "capabilities": lambda _, it: it["securityContext"].update(capabilities={"add": ["SYS_PTRACE"]}),
    "a root that can be written": lambda _, it: it["securityContext"].pop("readOnlyRootFilesystem"),
    "an image of no version": lambda _, it: it.update(image="histgen:latest"),
    "limits of ephemeral-storage": lambda _, it: it["resources"]["limits"].pop("ephemeral-storage"),
    "requests of cpu": lambda _, it: it["resources"]["requests"].pop("cpu"),
}


def test_nothing_breaks_the_policy(manifests):
    assert len(pods(manifests)) > 4
    assert violations(manifests) == []


@pytest.mark.parametrize("wrong", BREACHES)
def test_the_policy_sees_what_it_forbids(wrong):
    found = deepcopy(render(values_of("small-lab")))
    pod = pods(found)["Deployment/lab-histgen-tiler"]
    BREACHES[wrong](pod["spec"], pod["spec"]["containers"][0])
    assert [each.partition(": ")[2] for each in violations(found)] == [wrong]


def test_all_volumes_of_a_pod_fit_into_the_disk_it_asks_for(manifests):
    """A pod that fills its volumes is not evicted for it."""
    for name, pod in pods(manifests).items():
        held = sum(
            int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi"))
            for volume in pod["spec"].get("volumes", [])
            if "emptyDir" in volume and volume["emptyDir"].get("medium") != "Memory"
        )
        asked = sum(
            int(each["resources"]["requests"]["ephemeral-storage"].removesuffix("Gi"))
            for each in pod["spec"]["containers"]
        )
        assert held < asked, name


def test_slides_are_mounted_to_be_read_only(manifests):
    for name, pod in pods(manifests).items():
        for each in containers(pod):
            for mount in each.get("volumeMounts", []):
                if mount["name"].startswith("slides-"):
                    assert mount["readOnly"] is True, name


def test_a_gpu_is_asked_for_by_both_who_compile_and_who_serve():
    pod = pods(render(values_of("hospital")))["Deployment/lab-histgen-triton"]
    for each in containers(pod):
        if each["name"] != "supervisor":
            assert each["resources"]["limits"]["nvidia.com/mig-3g.40gb"] == 1
    lent = {
        key
        for name, it in pods(render(values_of("hospital"))).items()
        if "triton" not in name
        for each in containers(it)
        for key in each["resources"]["limits"]
    }
    assert not {key for key in lent if key.startswith("nvidia.com")}


# -------------------------------------------------------------------- network

TILER, GATEWAY, TRITON = (f"Deployment/lab-histgen-{name}" for name in ("tiler", "gateway", "triton"))
DNS = {("kube-system", 53), ("169.254.20.10/32", 53)}


def policies(manifests: list[Manifest]) -> list[Manifest]:
    return of_kind(manifests, "NetworkPolicy")


def allowed(manifests: list[Manifest], direction: str, pod: str) -> set[tuple[str, int]]:
    """Return what a pod may do in a direction: (who, port); "any" for any address."""
    labels = pods(manifests)[pod]["metadata"]["labels"]
    found = set()
    for policy in policies(manifests):
        if direction.title() in policy["spec"]["policyTypes"] and selects(
            policy["spec"]["podSelector"], labels
        ):
            for rule in policy["spec"].get(direction, []):
                for peer in rule.get({"egress": "to", "ingress": "from"}[direction], [{}]):
                    found |= {(_who(peer), port["port"]) for port in rule["ports"]}
    return found


def _who(peer: Manifest) -> str:
    if "ipBlock" in peer:
        return peer["ipBlock"]["cidr"]
    if "podSelector" in peer:
        return peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
    return peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] if peer else "any"


def test_every_pod_is_shut_in_both_directions_unless_a_policy_opens_it(manifests):
    (deny,) = [each for each in policies(manifests) if each["metadata"]["name"].endswith("-deny")]
    assert deny["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(deny["spec"])
    for name, pod in pods(manifests).items():
        assert selects(deny["spec"]["podSelector"], pod["metadata"]["labels"]), name


def test_who_speaks_to_whom_is_named():
    found = render(values_of("hospital"))
    broker, store, issuer = ("kafka", 9093), ("storage", 9000), ("any", 443)
    scrape = ("monitoring", 8080)
    assert allowed(found, "ingress", "Deployment/lab-histgen-triton") == {
        ("tiler", 8001),
        ("reporter", 8001),
        ("librarian", 8001),
        ("search", 8001),
        ("monitoring", 8002),
        ("monitoring", 9102),
    }
    assert allowed(found, "egress", "Deployment/lab-histgen-triton") == {*DNS, store}
    for worker in ("tiler", "reporter"):
        assert allowed(found, "ingress", f"Deployment/lab-histgen-{worker}") == {scrape}
        assert allowed(found, "egress", f"Deployment/lab-histgen-{worker}") == {
            *DNS,
            broker,
            store,
            issuer,
            ("triton", 8001),
        }
    for web in ("gateway", "search"):
        assert allowed(found, "ingress", f"Deployment/lab-histgen-{web}") == {
            scrape,
            ("ingress-nginx", 8080),
            ("test", 8080),
        }
    assert allowed(found, "egress", "Deployment/lab-histgen-gateway") == {*DNS, broker, store, issuer}
    assert allowed(found, "egress", "Deployment/lab-histgen-search") == {
        *DNS,
        broker,
        store,
        issuer,
        ("triton", 8001),
    }
    assert allowed(found, "egress", "CronJob/lab-histgen-retention") == {*DNS, store}
    assert allowed(found, "egress", "Pod/lab-histgen-test") == {
        *DNS,
        ("gateway", 8080),
        ("search", 8080),
    }
    assert allowed(found, "ingress", "Pod/lab-histgen-test") == set()


def test_a_lab_with_a_folder_opens_no_way_to_a_store():
    found = render(values_of("small-lab"))
    assert allowed(found, "egress", "Deployment/lab-histgen-tiler") == {*DNS, ("any", 9092)}


def test_further_ways_are_opened_by_what_needs_them():
    found = changed("settings.traces", "http://collector.tracing:4318", url="triton://gpu-1.lab:8001")
    assert {("any", 4318), ("any", 8001)} <= allowed(found, "egress", TILER)


def changed(path: str, value: object, url: str = "") -> list[Manifest]:
    """Render the hospital with one value changed; `url`: of a Triton elsewhere."""
    values = merged(values_of("hospital"), set_at(path, value))
    return render(merged(values, {"inference": {"mode": "external", "url": url}} if url else {}))


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("https://idp.example/realms/lab", 443),
        ("https://idp.example:8443/realms/lab", 8443),
        ("https://[fd00::1]/realms/lab", 443),
        ("https://[fd00::1]:8443/realms/lab", 8443),
    ],
)
def test_the_issuer_is_asked_at_the_port_of_its_url(url, port):
    found = changed("auth.oidc", {"issuer": url, "audience": "histgen"})
    policy = one(found, "NetworkPolicy", "lab-histgen-to-issuer")
    assert policy["spec"]["egress"] == [{"ports": [{"protocol": "TCP", "port": port}]}]


@pytest.mark.parametrize("place", ["services.tiler", "kinds.worker"])
def test_traces_of_some_services_open_a_way_for_these_alone(place):
    found = changed(f"{place}.settings.traces", "http://collector.tracing")
    assert ("any", 80) in allowed(found, "egress", TILER)
    assert ("any", 80) not in allowed(found, "egress", GATEWAY)


def test_where_a_kind_of_service_is_off_its_exceptions_open_nothing():
    """A policy without components or peers would be for all pods, or for anybody."""
    found = changed("kinds.worker.enabled", False)
    assert allowed(found, "ingress", TRITON) == {("search", 8001), ("monitoring", 8002), ("monitoring", 9102)}
    assert ("triton", 8001) not in allowed(found, "egress", GATEWAY)

    found = changed("kinds.web.enabled", False)
    assert allowed(found, "ingress", TILER) == {("monitoring", 8080)}
    assert allowed(found, "egress", "Pod/lab-histgen-test") == DNS

    off = {"web": {"enabled": False}, "worker": {"enabled": False}}
    found = changed("kinds", off)
    assert allowed(found, "egress", "CronJob/lab-histgen-retention") == {*DNS, ("storage", 9000)}
    assert allowed(found, "ingress", TRITON) == {("monitoring", 8002), ("monitoring", 9102)}


def test_whoever_scrapes_may_do_so_whether_or_not_the_operator_is_there():
    found = changed("monitoring.podMonitors", False)
    assert ("monitoring", 8080) in allowed(found, "ingress", TILER)
    assert ("monitoring", 8002) in allowed(found, "ingress", TRITON)


def test_dns_may_be_elsewhere():
    shift = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "openshift-dns"}}}]
    found = changed("networkPolicy.dns", {"to": shift, "ports": [5353]})
    assert allowed(found, "egress", "Pod/lab-histgen-test") == {
        ("openshift-dns", 5353),
        ("gateway", 8080),
        ("search", 8080),
    }
    policy = one(found, "NetworkPolicy", "lab-histgen-to-dns")
    assert {port["protocol"] for port in policy["spec"]["egress"][0]["ports"]} == {"TCP", "UDP"}


def test_pods_have_the_groups_that_may_read_slides():
    for pod in pods(changed("slides.groups", [5000, 2147483647])).values():
        assert pod["spec"]["securityContext"]["supplementalGroups"] == [5000, 2147483647]
