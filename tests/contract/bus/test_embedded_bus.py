"""The embedded broker keeps the promises of a bus."""

from __future__ import annotations

from pathlib import Path

import pytest
from bus_suite import BusSuite

from histgen_lib.bus import BusSettings


@pytest.fixture
def settings(tmp_path: Path) -> BusSettings:
    return BusSettings(f"embedded:{tmp_path / 'bus.db'}", session_s=0.6)


class TestEmbeddedBus(BusSuite):
    """All of the suite."""
