"""Every example of the chart, rendered once."""

from __future__ import annotations

from functools import cache

import pytest
from chart_rendering import ENGINES, EXAMPLES, Manifest, values_of


@cache
def rendered(engine: str, example: str) -> list[Manifest]:
    return ENGINES[engine](values_of(example))


@pytest.fixture(params=[*(path.stem for path in EXAMPLES), "locked"])
def example(request: pytest.FixtureRequest) -> str:
    """Return the name of each example of values, and of one that shuts all that can be shut."""
    return request.param


@pytest.fixture
def manifests(example: str) -> list[Manifest]:
    """Return what an example renders to; do not change it."""
    return rendered("helm4", example)
