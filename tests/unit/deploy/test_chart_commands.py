"""Every command that a pod of the chart runs is one of ours, with options that it has."""

from __future__ import annotations

import importlib.util
import shlex
from typing import Any
from urllib.parse import urlsplit

import typer
from chart_rendering import ROOT, Manifest, containers, environment, notes, pods, values_of

from histgen_lib.cli.app import make_app
from services.table import SERVICES

PREPARE, SERVER = "histgen-prepare-models", "tritonserver"
"""Of the image histgen-triton. The server's arguments are tried on a real one: test_chart_triton.py."""


def test_every_command_exists_and_takes_its_arguments(manifests):
    commands = [each["command"] for pod in pods(manifests).values() for each in containers(pod)]
    for program, *arguments in commands:
        if program == "histgen":
            parse(arguments)
        elif program == "python":
            assert arguments[:1] == ["-c"] or arguments in [["-P", "-m", row.module] for row in SERVICES]
        else:
            assert program in {PREPARE, SERVER}


def test_every_command_that_is_printed_after_an_install_exists(example, manifests):
    """`kubectl exec` into the gateway: it asks itself, by a name that its certificate has."""
    pod = pods(manifests)["Deployment/lab-histgen-gateway"]
    (service,) = pod["spec"]["containers"]
    lines = [line for line in notes(values_of(example)).splitlines() if " exec " in line]
    assert len(lines) == 2
    for line in lines:
        where, _, typed = line.partition(" -- ")
        assert where.split() == ["kubectl", "-n", "histgen", "exec", "deploy/lab-histgen-gateway"]
        arguments = shlex.split(typed)
        variables = dict(word.split("=") for word in arguments[1:-1] if word.startswith("HISTGEN_"))
        arguments = arguments[arguments.index("histgen") + 1 :]
        parse(arguments)
        if "--gateway" in arguments:
            url = urlsplit(arguments[arguments.index("--gateway") + 1])
            secure = "HISTGEN_TLS_CERT" in environment(service)
            assert (url.scheme, url.port) == ("https" if secure else "http", 8080)
            own = "::1" if environment(service)["HISTGEN_HOST"] == "::" else "127.0.0.1"
            aliases = {
                name: it["ip"] for it in pod["spec"].get("hostAliases", []) for name in it["hostnames"]
            }
            assert aliases.get(url.hostname, url.hostname) == own
            assert set(aliases) <= set(environment(service)["HISTGEN_HTTP_NAMES"].split(","))
            assert ("HISTGEN_CA_FILE" in variables) == secure == (url.hostname in aliases)
            assert set(variables.values()) <= mounted_files(pod["spec"], service)


def mounted_files(spec: Manifest, container: Manifest) -> set[str]:
    """Return the files that a container has of Secrets."""
    secrets = {it["name"]: it["secret"]["items"] for it in spec["volumes"] if "secret" in it}
    return {
        f"{mount['mountPath']}/{item['path']}"
        for mount in container["volumeMounts"]
        for item in secrets.get(mount["name"], [])
    }


def parse(arguments: list[str]) -> None:
    """Find a command of `histgen` and read its arguments; typer refuses what it does not know."""
    command: Any = typer.main.get_command(make_app(arguments))
    while hasattr(command, "get_command"):
        name, *arguments = arguments
        found = command.get_command(None, name)
        assert found, f"histgen has no command {name}"
        command = found
    command.make_context("histgen", arguments)


def test_what_prepares_models_is_installed_with_the_package():
    import tomllib

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert importlib.util.find_spec(scripts[PREPARE].partition(":")[0])
