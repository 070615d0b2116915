"""The chart, rendered by Helm 4's engine (helm-python-sdk) and, where it was built, by the real helm 3."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

from services.table import Service

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "helm" / "histgen"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
NOTES = "templates/NOTES.txt"
HELM = ROOT / ".local" / "helm" / "helm"
OLDEST, NEWEST = "1.29.0", "1.37.0"
"""The versions of Kubernetes that manifests are valid for, and all between."""

LOCKED = {
    "auth": {"tokens": {"secretName": "histgen-tokens"}, "open": ["probes"]},
    "host": "::",
    "model": {"sha256": "a" * 64},
    "settings": {"http_rate": 20.5, "traces": "https://collector.hospital.example"},
}
"""What may be laid over the hospital's values: all that shuts."""

Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]


class RefusedError(Exception):
    """The engine did not render: its message is what a user sees."""


def values_of(example: str) -> dict[str, Any]:
    """Return the values of an example file, or those of "locked"."""
    if example == "locked":
        return merged(values_of("hospital"), LOCKED)
    return yaml.safe_load((CHART / "examples" / f"{example}.yaml").read_text())


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with changes laid over them, as Helm lays one file over another."""
    found = deepcopy(dict(values))
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(found.get(name), Mapping)
        found[name] = merged(found[name], value) if both else deepcopy(value)
    return found


def set_at(path: str, value: object) -> dict[str, Any]:
    """Return values that state one thing: `set_at("kafka.partitions", 3)`."""
    for part in reversed(path.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def render(
    values: Mapping[str, Any], name: str = "lab", namespace: str = "histgen", chart: Path = CHART
) -> list[Manifest]:
    """Render with Helm 4's engine, the same values once: do not change it. Raises RefusedError."""
    return _rendered(json.dumps(values), name, namespace, chart)


@cache
def _rendered(values: str, name: str, namespace: str, chart: Path) -> list[Manifest]:
    try:
        found = _loaded(chart).render(json.loads(values), name=name, namespace=namespace)
    except helm_python.HelmError as error:
        raise RefusedError(str(error)) from None
    return list(documents(text for path, text in found.items() if not path.endswith(".txt")))


@cache
def _loaded(chart: Path) -> helm_python.Chart:
    return helm_python.Chart.load(chart)


def notes(values: Mapping[str, Any]) -> str:
    """Return what `helm install` of these values prints."""
    return str(_loaded(CHART).render(dict(values), name="lab", namespace="histgen")[f"{CHART.name}/{NOTES}"])


def render_by_binary(
    values: Mapping[str, Any], name: str = "lab", namespace: str = "histgen", chart: Path = CHART
) -> list[Manifest]:
    """Render with the real helm. Raises RefusedError."""
    command = [str(HELM), "template", name, str(chart), "--namespace", namespace, "--values", "-"]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RefusedError(done.stderr)
    return list(documents([done.stdout]))


ENGINES: dict[str, Render] = {"helm4": render, **({"helm3": render_by_binary} if HELM.is_file() else {})}
"""What is at hand. deploy/setup.sh says so where there is no Go to build helm 3 with."""


def documents(pages: Iterable[str]) -> Iterator[Manifest]:
    """Read manifests."""
    for page in pages:
        yield from (found for found in yaml.load_all(page, yaml.CSafeLoader) if found)


def of_kind(manifests: Iterable[Manifest], kind: str) -> list[Manifest]:
    """Return the manifests of one kind."""
    return [found for found in manifests if found["kind"] == kind]


def one(manifests: Iterable[Manifest], kind: str, name: str) -> Manifest:
    """Return the manifest of a kind and a name."""
    (found,) = [each for each in of_kind(manifests, kind) if each["metadata"]["name"] == name]
    return found


def pods(manifests: Iterable[Manifest]) -> dict[str, Manifest]:
    """Return every pod template, `{"metadata", "spec"}`, by kind and name of what makes it."""
    found = {}
    for each in manifests:
        template = {
            "Pod": lambda it: it,
            "Deployment": lambda it: it["spec"]["template"],
            "CronJob": lambda it: it["spec"]["jobTemplate"]["spec"]["template"],
        }.get(each["kind"])
        if template:
            found[f"{each['kind']}/{each['metadata']['name']}"] = template(each)
    return found


def containers(pod: Manifest) -> list[Manifest]:
    """Return all containers of a pod, those that run first included."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def deployment(manifests: list[Manifest], row: Service, release: str = "lab-histgen") -> Manifest:
    """Return the Deployment of a service."""
    return one(manifests, "Deployment", f"{release}-{row.name}")


def container_of(manifests: list[Manifest], row: Service) -> Manifest:
    """Return the container of a service."""
    (found,) = deployment(manifests, row)["spec"]["template"]["spec"]["containers"]
    return found


def environment(container: Manifest) -> dict[str, str]:
    """Return the variables whose values a manifest states."""
    return {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}


def selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    """Return whether a selector takes labels; an empty one takes all."""
    by_label = all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
    return by_label and all(_fits(rule, labels) for rule in selector.get("matchExpressions", []))


def _fits(rule: Manifest, labels: Mapping[str, str]) -> bool:
    assert rule["operator"] == "In", rule
    return labels.get(rule["key"]) in rule["values"]
