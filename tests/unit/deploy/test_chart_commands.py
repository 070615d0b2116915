"""Every command that a pod of the chart runs is one of ours, with options that it has."""

from __future__ import annotations

import importlib.util
from typing import Any

import typer
from chart_rendering import ROOT, containers, pods

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
