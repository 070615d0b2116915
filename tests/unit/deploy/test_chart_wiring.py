"""Whatever a manifest names exists: pods, ports, settings, topics, the time to finish."""

from __future__ import annotations

import json

import pytest
from chart_rendering import (
    CHART,
    Manifest,
    container_of,
    containers,
    deployment,
    environment,
    merged,
    of_kind,
    one,
    pods,
    render,
    selects,
    set_at,
    values_of,
)

from services.settings import ServiceSettings, settings_class
from services.table import SERVICES, Service

TABLE = json.loads((CHART / "files" / "services.json").read_text())


def labels(pod: Manifest) -> dict[str, str]:
    return pod["metadata"]["labels"]


def selected(manifests: list[Manifest], selector: Manifest) -> set[str]:
    """Name the pods that a selector takes, by what makes them."""
    return {name for name, pod in pods(manifests).items() if selects(selector, labels(pod))}


def loaded(container: Manifest, row: Service, monkeypatch: pytest.MonkeyPatch) -> ServiceSettings:
    """Read the settings of a service from the environment that its container has."""
    for name, value in environment(container).items():
        monkeypatch.setenv(name, value)
    return settings_class(row).load()


# ------------------------------------------------------------------ selectors


def test_a_deployment_selects_its_own_pods_and_no_others(manifests):
    for each in of_kind(manifests, "Deployment"):
        assert selected(manifests, each["spec"]["selector"]) == {f"Deployment/{each['metadata']['name']}"}
        spread = each["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert {rule["topologyKey"] for rule in spread} == {
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
        }
        for rule in spread:
            assert rule["labelSelector"] == each["spec"]["selector"]


def test_every_deployment_has_a_budget_that_takes_its_pods_and_lets_a_node_drain(manifests):
    budgets = of_kind(manifests, "PodDisruptionBudget")
    taken = [selected(manifests, budget["spec"]["selector"]) for budget in budgets]
    assert all(len(names) == 1 for names in taken)
    assert set().union(*taken) == {name for name in pods(manifests) if name.startswith("Deployment/")}
    for budget in budgets:
        assert "minAvailable" not in budget["spec"]
        assert budget["spec"]["maxUnavailable"] >= 1


def test_a_service_leads_to_a_port_of_pods_that_exist(manifests):
    services = of_kind(manifests, "Service")
    assert services
    for service in services:
        (name,) = selected(manifests, {"matchLabels": service["spec"]["selector"]})
        ports = {port["name"] for each in containers(pods(manifests)[name]) for port in each.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_the_ingress_leads_to_the_gateway(manifests, example):
    found = of_kind(manifests, "Ingress")
    assert len(found) == (0 if example == "small-lab" else 1)
    for ingress in found:
        (rule,) = ingress["spec"]["rules"]
        for path in rule["http"]["paths"]:
            backend = path["backend"]["service"]
            service = one(manifests, "Service", backend["name"])
            assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
            assert path["path"] not in {"/", "/metrics", "/healthz", "/readyz"}


def test_every_scaler_has_a_target_that_leaves_the_number_of_replicas_to_it(manifests, example):
    lagging = of_kind(manifests, "ScaledObject")
    workers = sum(row.kind == "worker" for row in SERVICES)
    assert len(lagging) == (0 if example == "small-lab" else workers + 1)  # and Triton
    scalers = [*lagging, *of_kind(manifests, "HorizontalPodAutoscaler")]
    for scaler in scalers:
        target = one(manifests, "Deployment", scaler["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in target["spec"]
    without = {each["metadata"]["name"] for each in of_kind(manifests, "Deployment")} - {
        scaler["spec"]["scaleTargetRef"]["name"] for scaler in scalers
    }
    for name in without:
        assert one(manifests, "Deployment", name)["spec"]["replicas"] >= 1


def test_every_monitor_finds_pods_with_the_port_it_scrapes(manifests, example):
    ours = [each for each in of_kind(manifests, "PodMonitor") if "namespaceSelector" not in each["spec"]]
    assert len(ours) == (0 if example == "small-lab" else 2)
    for monitor in ours:
        found = selected(manifests, monitor["spec"]["selector"])
        assert found
        for name in found:
            ports = {
                port["name"] for each in containers(pods(manifests)[name]) for port in each.get("ports", [])
            }
            assert {end["port"] for end in monitor["spec"]["podMetricsEndpoints"]} <= ports


@pytest.mark.parametrize("example", ["cloud", "hospital"])
def test_scraped_series_have_the_labels_that_alerts_and_dashboards_use(manifests, example):
    for suffix, job in (("services", "histgen"), ("triton", "histgen-triton")):
        monitor = one(manifests, "PodMonitor", f"lab-histgen-{suffix}")
        end = monitor["spec"]["podMetricsEndpoints"][0]
        assert {"targetLabel": "job", "replacement": job} in end["relabelings"]
    (end,) = one(manifests, "PodMonitor", "lab-histgen-services")["spec"]["podMetricsEndpoints"]
    assert "service" in {rule.get("targetLabel") for rule in end["relabelings"]}


@pytest.mark.parametrize("example", ["cloud", "hospital"])
def test_only_pods_that_run_are_scraped(manifests, example):
    """Not those that pull an image, fetch a model or compile engines: nothing of them is down."""
    running = {"sourceLabels": ["__meta_kubernetes_pod_phase"], "regex": "Running", "action": "keep"}
    ends = [end for each in of_kind(manifests, "PodMonitor") for end in each["spec"]["podMetricsEndpoints"]]

    assert ends
    assert [end["port"] for end in ends if running not in end["relabelings"]] == []


def test_pods_run_as_accounts_that_exist(manifests):
    accounts = {each["metadata"]["name"] for each in of_kind(manifests, "ServiceAccount")}
    assert {pod["spec"]["serviceAccountName"] for pod in pods(manifests).values()} == accounts


def test_two_releases_in_a_namespace_leave_each_others_pods_alone():
    """Not even if the name of one begins with the name of the other."""
    values = values_of("hospital")
    one_release, other = render(values, "lab"), render(values, "lab-2")
    for each in one_release:
        spec = each.get("spec", {})
        for selector in (spec.get("selector"), spec.get("podSelector")):
            if selector and "namespaceSelector" not in spec:
                whole = (
                    selector
                    if set(selector) & {"matchLabels", "matchExpressions"}
                    else {"matchLabels": selector}
                )
                assert selected(one_release, whole), each["metadata"]["name"]
                assert not selected(other, whole), each["metadata"]["name"]
    shared = {(each["kind"], each["metadata"]["name"]) for each in one_release} & {
        (each["kind"], each["metadata"]["name"]) for each in other
    }
    assert shared == {("KafkaUser", "histgen")}  # the values name it


# ------------------------------------------------------------- ports, mounts


def test_every_probe_asks_a_port_that_its_container_has(manifests):
    for pod in pods(manifests).values():
        for container in pod["spec"]["containers"]:
            ports = {
                key for port in container.get("ports", []) for key in (port["name"], port["containerPort"])
            }
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                if kind in container:
                    probe = container[kind]
                    assert (probe.get("httpGet") or probe["grpc"])["port"] in ports


def test_every_service_has_all_three_probes(manifests):
    for each in of_kind(manifests, "Deployment"):
        container = each["spec"]["template"]["spec"]["containers"][0]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)


def test_every_mount_is_a_volume_and_every_volume_is_mounted(manifests):
    for name, pod in pods(manifests).items():
        volumes = [volume["name"] for volume in pod["spec"].get("volumes", [])]
        mounted = {mount["name"] for each in containers(pod) for mount in each.get("volumeMounts", [])}
        assert sorted(volumes) == sorted(mounted), name
        for each in containers(pod):
            places = [mount["mountPath"] for mount in each.get("volumeMounts", [])]
            assert len(places) == len(set(places)), name


def test_every_file_that_a_setting_names_is_mounted(manifests):
    for row in SERVICES:
        container = container_of(manifests, row)
        pod = deployment(manifests, row)["spec"]["template"]
        items = {
            f"{mount['mountPath']}/{item['path']}"
            for mount in container["volumeMounts"]
            for volume in pod["spec"]["volumes"]
            if volume["name"] == mount["name"] and "secret" in volume
            for item in volume["secret"]["items"]
        }
        stated = environment(container)
        kafka = json.loads(stated.get("HISTGEN_KAFKA", "{}"))
        named = {
            value for value in (*stated.values(), *map(str, kafka.values())) if value.startswith("/etc/")
        }
        assert named <= items
        by_hand = {"/etc/histgen/tls/ca.crt"} if row.kind == "web" else set()  # NOTES.txt names it
        assert items - by_hand <= named


def test_a_service_listens_where_it_is_asked(manifests, example):
    for row in SERVICES:
        container = container_of(manifests, row)
        (port,) = container["ports"]
        assert environment(container)["HISTGEN_PORT"] == str(port["containerPort"])
        assert environment(container)["HISTGEN_HOST"] == ("::" if example == "locked" else "0.0.0.0")


def test_an_ingress_of_nginx_asks_by_https_where_the_gateway_speaks_it():
    key = "nginx.ingress.kubernetes.io/backend-protocol"

    def protocol(**changes: object) -> str | None:
        (found,) = of_kind(render(merged(values_of("hospital"), changes)), "Ingress")
        return found["metadata"]["annotations"].get(key)

    assert protocol() == "HTTPS"
    assert protocol(tls={"secretName": ""}) is None
    assert protocol(ingress={"className": "haproxy"}) is None
    assert protocol(ingress={"annotations": {key: "AUTO_HTTP"}}) == "AUTO_HTTP"


def test_the_load_balancer_of_the_cloud_reaches_pods_by_their_address():
    found = render(values_of("cloud"))
    (ingress,) = of_kind(found, "Ingress")
    service = one(found, "Service", "lab-histgen-gateway")
    pod = pods(found)["Deployment/lab-histgen-gateway"]["spec"]["containers"][0]
    stated = {name.partition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}
    assert service["spec"]["type"] == "ClusterIP"
    assert stated["target-type"] == "ip"
    assert stated["healthcheck-path"] == pod["readinessProbe"]["httpGet"]["path"]
    assert json.loads(stated["listen-ports"]) == [{"HTTPS": 443}]
    assert stated["certificate-arn"]
    (rule,) = one(found, "NetworkPolicy", "lab-histgen-ingress")["spec"]["ingress"]
    assert [set(peer) for peer in rule["from"]] == [{"ipBlock"}]


def test_a_priority_of_another_value_is_another_class():
    """Kubernetes refuses to change one."""
    values = values_of("hospital")
    before = {each["metadata"]["name"]: each["value"] for each in of_kind(render(values), "PriorityClass")}
    assert sorted(before.values()) == [100, 500, 1000]
    for changes in (set_at("values.web", 2000), set_at("preemptionPolicy", "PreemptLowerPriority")):
        found = render(merged(values, {"priorityClasses": changes}))
        after = {each["metadata"]["name"]: each["value"] for each in of_kind(found, "PriorityClass")}
        same = {(name, value) for name, value in after.items() if before.get(name) == value}
        assert len(same) == (2 if "values" in changes else 0)
        assert {before.get(name, value) for name, value in after.items()} == set(after.values())
        used = {pod["spec"].get("priorityClassName") for pod in pods(found).values()} - {None}
        assert used == set(after)


def test_the_gateway_answers_to_the_names_by_which_it_is_reached(manifests, monkeypatch):
    row = next(row for row in SERVICES if row.is_entrance)
    names = loaded(container_of(manifests, row), row, monkeypatch).http_names
    assert {"lab-histgen-gateway", "lab-histgen-gateway.histgen.svc"} <= set(names)
    assert {rule["host"] for each in of_kind(manifests, "Ingress") for rule in each["spec"]["rules"]} <= set(
        names
    )


# ------------------------------------------------------------------- settings


@pytest.mark.parametrize("row", SERVICES, ids=lambda row: row.name)
def test_every_variable_is_a_setting_that_the_service_knows_and_takes(manifests, row, monkeypatch):
    container = container_of(manifests, row)
    stated = {name for name in environment(container) if name.startswith("HISTGEN_")}
    assert stated <= {f"HISTGEN_{name.upper()}" for name in settings_class(row).model_fields}
    settings = loaded(container, row, monkeypatch)
    assert settings.bus.startswith("kafka://")
    assert settings.roots or settings.watch
    if row.kind == "worker":
        if not row.retrieval:  # else it reads no slide
            room = one_volume(manifests, row, "scratch")["sizeLimit"]
            assert settings.scratch_bytes + settings.slide_bytes <= int(room.removesuffix("Gi")) << 30
        assert settings.threads == int(container["resources"]["limits"]["cpu"])


def one_volume(manifests: list[Manifest], row: Service, name: str) -> Manifest:
    volumes = deployment(manifests, row)["spec"]["template"]["spec"]["volumes"]
    (found,) = [volume for volume in volumes if volume["name"] == name]
    return found["emptyDir"]


def test_a_setting_of_one_service_reaches_that_one_alone_as_it_was_meant(monkeypatch):
    changes = {
        "settings": {"log_level": "debug", "slide_bytes": 1 << 33},
        "services": {"tiler": {"settings": {"in_flight": 3, "deadline_s": 2400.5}}},
    }
    found = render(merged(values_of("hospital"), changes))
    for row in SERVICES:
        container = container_of(found, row)
        settings = loaded(container, row, monkeypatch)
        assert settings.log_level == "debug"
        assert settings.slide_bytes == 1 << 33
        assert getattr(settings, "in_flight", None) == (3 if row.name == "tiler" else None)
        for name in environment(container):
            monkeypatch.delenv(name)


def test_settings_that_the_values_state_are_the_services_own(example):
    """Values of the examples are settings of the table, not of the chart's imagination."""
    known = {row["name"]: set(row["settings"]) for row in TABLE["services"]}
    values = values_of(example)
    for name, part in values.get("services", {}).items():
        assert set(part.get("settings", {})) <= known[name]


# ---------------------------------------------------------------------- grace


@pytest.mark.parametrize("changes", [{}, set_at("services.tiler.settings.deadline_s", 3600)])
def test_a_worker_may_finish_its_job_upload_and_hand_back_before_it_is_killed(example, changes, monkeypatch):
    found = render(merged(values_of(example), changes))
    for row in SERVICES:
        pod = deployment(found, row)["spec"]["template"]["spec"]
        settings = loaded(container_of(found, row), row, monkeypatch)
        granted_s = pod["terminationGracePeriodSeconds"]
        if row.kind == "worker":
            assert settings.grace_s >= settings.deadline_s
            assert granted_s >= settings.deadline_s + 120
        hook = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        left_s = int(hook[1]) if hook else 0
        assert granted_s >= left_s + settings.grace_s + 30
        assert deployment(found, row)["spec"]["progressDeadlineSeconds"] > granted_s
        for name in environment(container_of(found, row)):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("example", ["cloud", "hospital"])
def test_triton_may_finish_what_it_began(manifests, example):
    pod = one(manifests, "Deployment", "lab-histgen-triton")["spec"]["template"]["spec"]
    (drain,) = [each for each in pod["containers"][0]["args"] if each.startswith("--exit-timeout-secs=")]
    assert pod["terminationGracePeriodSeconds"] > int(drain.partition("=")[2])


# ----------------------------------------------------------------- everything shut


def test_where_all_is_shut_the_services_are_asked_by_https_and_prometheus_bears_the_token(monkeypatch):
    found = render(values_of("locked"))
    for row in SERVICES:
        container = container_of(found, row)
        settings = loaded(container, row, monkeypatch)
        assert settings.http_open == ("probes",)
        assert settings.oidc_scopes == {"scanner": "submit", "pathology": "read", "operations": "operate"}
        assert str(settings.tls_cert) == "/etc/histgen/tls/tls.crt"
        assert settings.http_rate == 20.5
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[kind]["httpGet"]["scheme"] == "HTTPS"
        for name in environment(container):
            monkeypatch.delenv(name)
    (end,) = one(found, "PodMonitor", "lab-histgen-services")["spec"]["podMetricsEndpoints"]
    assert end["authorization"]["credentials"] == {"name": "histgen-token", "key": "token"}
    assert end["scheme"] == "https"
    asked = one(found, "Pod", "lab-histgen-test")["spec"]["containers"][0]
    assert asked["command"][-1].startswith("https://")
    assert environment(asked)["CA_FILE"] == "/etc/histgen/tls/ca.crt"
