"""deploy/compose.yaml is valid, closed, limited, and fits the services: checked without a docker daemon."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from waiting import until

from histgen_lib.bus import BusSettings
from histgen_lib.bus.kafka_login import kafka_settings, let_in
from histgen_lib.secret import given_secret, own_secret
from histgen_lib.stack.children import accepts, dying_with_parent, end, free_port
from services.settings import PREFIX, settings_class
from services.table import SERVICES

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "deploy" / "compose.yaml"
BESIDE = ROOT / "deploy" / "compose"
COMPOSE = ROOT / ".local" / "compose" / "docker-compose"
ROWS = {row.name: row for row in SERVICES}
ENDING = {"prepare", "models-cpu", "models-gpu"}
CLOSED = {"kafka", "s3", "triton-cpu", "triton-gpu", "supervisor", "kafka-exporter"}


def compose(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real docker compose on a file's text, as if it lay in deploy/."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HISTGEN", "COMPOSE"))}
    command = [COMPOSE, "--project-directory", ROOT / "deploy", "-f", "-", *arguments]
    return subprocess.run(command, input=text, env=clean, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def real_compose() -> None:
    if not COMPOSE.is_file():
        pytest.skip("no docker compose here: deploy/setup.sh all builds it where there is Go")


def test_docker_compose_accepts_it_with_each_profile(real_compose: None) -> None:
    for profiles in (["cpu"], ["gpu"], ["cpu", "retrieval"]):
        chosen = [word for profile in profiles for word in ("--profile", profile)]
        ran = compose(FILE.read_text(), *chosen, "config", "--quiet")
        assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("read_only: true", "readonly: true"),
        ("condition: service_healthy", "condition: service_wealthy"),
        ("networks: [store]", "networks: [shop]"),
        ("prepare: {condition", "prepared: {condition"),
    ],
)
def test_docker_compose_would_refuse_a_mistake(real_compose: None, right: str, wrong: str) -> None:
    assert right in FILE.read_text()
    assert compose(FILE.read_text().replace(right, wrong), "--profile", "cpu", "config").returncode != 0


def test_the_structure_is_read_here_as_docker_compose_reads_it(
    real_compose: None, services: dict[str, Any]
) -> None:
    every = [word for profile in ("cpu", "gpu", "retrieval") for word in ("--profile", profile)]
    ran = compose(FILE.read_text(), *every, "config", "--format", "json")
    theirs = json.loads(ran.stdout)["services"]
    assert set(theirs) == set(services)
    for name, service in services.items():
        assert theirs[name].get("environment", {}) == {
            key: filled(str(value)) for key, value in service.get("environment", {}).items()
        }
        assert set(theirs[name].get("depends_on", {})) == set(service.get("depends_on", {}))
        assert theirs[name]["user"] == service["user"]


def filled(text: str) -> str:
    """Put in the default of each variable of the caller's."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return found


@pytest.fixture(scope="module")
def services(whole: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = whole["services"]
    return found


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what the first container makes of the volume, by the same program."""
    folder = tmp_path_factory.mktemp("volume")
    prepare = [sys.executable, "-P", BESIDE / "prepare.py", folder]
    for _ in range(2):  # the second time nothing changes
        subprocess.run(prepare, check=True, capture_output=True)
    return folder


def mounts(service: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (one for one in service.get("volumes", []) if isinstance(one, dict))


def test_it_has_a_container_for_each_service_of_the_table(services: dict[str, Any]) -> None:
    commands = {name: one.get("command") for name, one in services.items()}
    assert {name: commands[name] for name in ROWS} == {
        name: ["python", "-P", "-m", row.module] for name, row in ROWS.items()
    }


@pytest.mark.parametrize("name", ROWS)
def test_its_settings_are_those_that_the_service_knows(
    services: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {key: filled(str(value)) for key, value in services[name]["environment"].items()}
    known = {f"{PREFIX}{field.upper()}" for field in settings_class(ROWS[name]).model_fields}
    assert {key for key in environment if key.startswith(PREFIX)} <= known
    for key in [key for key in os.environ if key.startswith(PREFIX)]:
        monkeypatch.delenv(key)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    settings = settings_class(ROWS[name]).load()
    assert settings.grace_s < seconds(services[name]["stop_grace_period"])
    assert settings.watch == Path("/scans")


def seconds(text: str) -> int:
    assert re.fullmatch(r"\d+s", text), text
    return int(text[:-1])


def test_each_container_is_closed_and_limited(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["user"] == "65532:65532", name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"mem_limit", "cpus", "pids_limit", "logging"} <= set(service), name
        assert not {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode"} & set(service), name
        assert service["restart"] == ("no" if name in ENDING else "unless-stopped"), name
        assert ("stop_grace_period" in service) is (name not in ENDING), name
        watched = service.get("healthcheck", {})
        assert watched.get("disable") if name in ENDING else watched["test"][0] == "CMD", name


def test_nothing_is_published_but_on_loopback_and_servers_are_on_internal_networks_only(
    whole: dict[str, Any], services: dict[str, Any]
) -> None:
    published = {name: one["ports"] for name, one in services.items() if "ports" in one}
    assert set(published) == {"gateway", "search", "prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    open_networks = {name for name, one in whole["networks"].items() if not one.get("internal")}
    for name in CLOSED:
        assert not open_networks & set(services[name]["networks"]), name
    for name in ENDING:
        assert services[name]["network_mode"] == "none"


def test_what_it_names_exists(whole: dict[str, Any], services: dict[str, Any], volume: Path) -> None:
    networks, volumes = set(whole["networks"]), set(whole["volumes"])
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        assert set(service.get("networks", [])) <= networks, name
        for mount in mounts(service):
            if mount["type"] == "bind":
                assert (FILE.parent / filled(mount["source"])).exists(), mount
                assert (mount["read_only"], mount["bind"]["create_host_path"]) == (True, False), mount
            else:
                assert mount["source"] in volumes
                assert (volume / mount["volume"]["subpath"]).is_dir(), mount


def test_who_waits_for_whom(services: dict[str, Any]) -> None:
    """What ends is waited for until it has ended, what stays until it is healthy."""
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other in ENDING else "service_healthy"
            assert how["condition"] == wanted, (name, other)


def test_each_container_sees_its_own_secrets_and_no_others(services: dict[str, Any], volume: Path) -> None:
    shown: dict[str, set[str]] = {}
    for name, service in services.items():
        for mount in mounts(service):
            subpath = mount.get("volume", {}).get("subpath", "")
            if subpath.startswith("secrets"):
                assert mount["read_only"] is True
                shown.setdefault(subpath, set()).add(name)
    assert shown == {
        "secrets/services": set(ROWS),
        "secrets/kafka": {"kafka"},
        "secrets/s3": {"s3"},
        "secrets/triton": {"triton-cpu", "triton-gpu", "supervisor"},
        "secrets/exporter": {"kafka-exporter"},
        "secrets/grafana": {"grafana"},
    }
    named = re.findall(r"/run/histgen/([\w.]+)", FILE.read_text())
    there = {path.name for path in (volume / "secrets").glob("*/*")}
    assert set(named) <= there
    for path in (volume / "secrets").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_services_can_use_what_was_prepared(volume: Path) -> None:
    place = volume / "secrets"
    assert own_secret(place / "services" / "token") == (place / "all" / "token").read_text()
    assert given_secret(place / "services" / "triton") == (place / "triton" / "secret").read_text()
    assert dict(kafka_settings({}, place / "services" / "kafka.json"))["sasl_mechanism"] == "SCRAM-SHA-512"


def test_prometheus_scrapes_every_service_triton_and_the_exporter(services: dict[str, Any]) -> None:
    jobs = {
        job["job_name"]: job
        for job in yaml.safe_load((BESIDE / "prometheus.yml").read_text())["scrape_configs"]
    }
    asked = [one for name in ("histgen", "histgen-triton") for one in jobs[name]["dns_sd_configs"]]
    ports = {name: one["port"] for one in asked for name in one["names"]}
    assert ports == dict.fromkeys(ROWS, 8080) | {"supervisor": 9102, "triton": 8002}
    assert jobs["histgen-kafka"]["static_configs"] == [{"targets": ["kafka-exporter:9308"]}]
    for name in (*ROWS, "supervisor", "triton-cpu", "triton-gpu", "kafka-exporter"):
        assert "watching" in services[name]["networks"], name
    promtool = ROOT / ".local" / "prometheus" / "usr" / "bin" / "promtool"
    checked = [promtool, "check", "config", "--syntax-only", BESIDE / "prometheus.yml"]
    assert subprocess.run(checked, capture_output=True, check=False).returncode == 0


def test_a_real_kafka_starts_from_what_was_prepared(volume: Path, kafka_home: Path, tmp_path: Path) -> None:
    """By the same steps as the container: formatted with a user, then started; folder and ports apart."""
    secrets = volume / "secrets" / "kafka"
    text = (secrets / "server.properties").read_text()
    ports = {str(number): str(free_port()) for number in (9092, 9093, 9094)}
    text = re.sub(r":(909[234])\b", lambda found: f":{ports[found[1]]}", text)
    text = (
        text.replace("/var/lib/kafka/data", str(tmp_path))
        .replace("//kafka:", "//127.0.0.1:")
        .replace("0.0.0.0", "127.0.0.1")
    )
    properties = tmp_path / "server.properties"
    properties.write_text(text)
    cluster, password = (
        (volume / "secrets" / "kafka" / name).read_text() for name in ("cluster", "password")
    )
    java = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-cp", f"{kafka_home}/*"]
    user = f"SCRAM-SHA-512=[name=histgen,password={password}]"
    storage = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "--cluster-id", cluster]
    format_it = [*java, *storage, "--config", properties, "--add-scram", user]
    for _ in range(2):  # the second time, as at every later start, it stays as it is
        formatted = subprocess.run(format_it, capture_output=True, text=True, check=False)
        assert formatted.returncode == 0, formatted.stderr
    with (tmp_path / "log").open("wb") as log:
        broker = subprocess.Popen(
            dying_with_parent([*java, "kafka.Kafka", str(properties)]), stdout=log, stderr=log
        )
    try:
        port = int(ports["9092"])
        until(lambda: broker.poll() is not None or accepts(port), 120, "Kafka listens")
        login = kafka_settings({}, volume / "secrets" / "services" / "kafka.json")
        known = BusSettings(f"kafka://127.0.0.1:{port}", kafka=login)
        until(lambda: let_in(known), 60, f"the services are let in, see {tmp_path / 'log'}", every_s=0.2)
        stranger = dict(login) | {"sasl_plain_password": "0" * 64}
        assert not let_in(BusSettings(f"kafka://127.0.0.1:{port}", kafka=tuple(stranger.items())))
    finally:
        end(broker, grace_s=20)
