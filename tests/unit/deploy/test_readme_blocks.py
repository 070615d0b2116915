"""README, "Operate it": what it has people type fits the compose file, the chart and the command line."""

from __future__ import annotations

import shlex

import pytest
import yaml
from chart_rendering import CHART, ROOT, render
from cli_runs import histgen

_, _, _part = (ROOT / "README.md").read_text().partition("## Operate it")
TYPED = [shlex.split(line, comments=True) for line in _part.split("```")[1].splitlines()[1:]]


def after(words: list[str], option: str) -> str:
    """Return the value of an option."""
    return words[words.index(option) + 1]


@pytest.fixture(params=TYPED, ids=lambda words: words[0])
def words(request: pytest.FixtureRequest) -> list[str]:
    return list(request.param)


def test_what_is_typed_works(words: list[str]) -> None:
    if words[:2] == ["docker", "compose"]:
        services = yaml.safe_load((ROOT / after(words, "-f")).read_text())["services"]
        assert any(after(words, "--profile") in service.get("profiles", []) for service in services.values())
    elif words[:2] == ["helm", "install"]:
        assert ROOT / words[3] == CHART
        assert render(yaml.safe_load((ROOT / after(words, "-f")).read_text()), words[2], "default")
    else:
        assert words[:2] == ["histgen", "plan"]
        assert histgen(*words[1:]).code == 0


def test_each_way_is_there() -> None:
    assert [words[0] for words in TYPED] == ["docker", "helm", "histgen"]
