"""A seed is a number of at least 0, in every command that has one."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from histgen_lib.cli.app import make_app


def seeds(command: Any, *names: str) -> dict[str, Any]:
    """Return the options --seed of a command and of those under it, by the command."""
    own = {" ".join(names): one for one in command.params if "--seed" in one.opts}
    under = getattr(command, "commands", {}).items()
    return own | {name: one for word, found in under for name, one in seeds(found, *names, word).items()}


SEEDS = seeds(typer.main.get_command(make_app(["--help"])))


@pytest.mark.parametrize("name", SEEDS)
def test_no_command_takes_a_seed_below_zero(name: str) -> None:
    assert SEEDS[name].type.min == 0
