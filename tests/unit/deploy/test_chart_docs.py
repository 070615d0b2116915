"""docs/kubernetes.md: what it has people type with helm and kubectl fits the chart."""

from __future__ import annotations

import re
import shlex

import helm_python
import pytest
import yaml
from chart_rendering import (
    CHART,
    ROOT,
    containers,
    environment,
    merged,
    notes,
    of_kind,
    pods,
    render,
    values_of,
)

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith(("helm ", "kubectl "))
]


def test_every_release_that_is_typed_renders():
    typed = [line for line in COMMANDS if line.startswith(("helm install", "helm upgrade"))]
    assert len(typed) == 2
    for line in typed:
        words = shlex.split(line)
        assert (ROOT / words[3]) == CHART
        values = yaml.safe_load((ROOT / words[words.index("-f") + 1]).read_text())
        if "--set" in words:
            values = merged(values, helm_python.parse_set_string(words[words.index("--set") + 1]))
        found = render(values, words[2], words[words.index("-n") + 1])
        if "--set" in words:
            images = {each["image"] for pod in pods(found).values() for each in containers(pod)}
            assert images == {"histgen:0.1.1", "histgen-triton:0.1.1"}


def test_commands_in_the_gateways_pod_are_those_that_an_install_prints():
    typed = [line.replace("/scans/a.svs", "SLIDE") for line in COMMANDS if " exec " in line]
    printed = [line.strip().replace("'", "") for line in notes(values_of("hospital")).splitlines()]
    assert len(typed) == 2
    assert set(typed) <= set(printed)
    assert "http://127.0.0.1:8080" in notes(values_of("small-lab"))


def secrets_made() -> dict[str, set[str]]:
    """Return the keys of every Secret that the page makes, by name."""
    lines = [shlex.split(line) for line in COMMANDS if "create secret generic" in line]
    return {
        words[6]: {re.split("=", word, maxsplit=2)[1] for word in words if word.startswith("--from-")}
        for words in lines
    }


def secrets_used() -> dict[str, set[str]]:
    """Return the keys of every Secret that the hospital's pods and autoscalers read, by name."""
    found = render(values_of("hospital"))
    used: dict[str, set[str]] = {}
    for pod in pods(found).values():
        for volume in pod["spec"].get("volumes", []):
            if "secret" in volume:
                keys = {item["key"] for item in volume["secret"]["items"]}
                used.setdefault(volume["secret"]["secretName"], set()).update(keys)
        for each in containers(pod):
            for variable in each.get("env", []):
                if variable["name"] not in environment(each):
                    ref = variable["valueFrom"]["secretKeyRef"]
                    used.setdefault(ref["name"], set()).add(ref["key"])
    for each in of_kind(found, "TriggerAuthentication"):
        for ref in each["spec"]["secretTargetRef"]:
            used.setdefault(ref["name"], set()).add(ref["key"])
    return used


def test_the_page_makes_every_secret_that_the_hospital_names_with_its_keys():
    assert secrets_made() == secrets_used()


@pytest.mark.parametrize("path", sorted((CHART / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_on_the_page(path):
    assert f"helm/histgen/examples/{path.name}" in PAGE


def test_every_value_that_the_page_names_exists():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    named = {
        name
        for name in re.findall(r"`([a-z][A-Za-z]+(?:\.[A-Za-z]+)+)`", PAGE)
        if name.split(".")[0] in values
    }
    assert len(named) > 8
    for name in named - {"settings.deadline_s", "settings.slide_bytes"}:
        part = values
        for key in name.split("."):
            assert key in part, name
            part = part[key]
