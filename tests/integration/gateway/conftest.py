"""A gateway for a test, and a listener to its events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_process import GatewayProcess, Listener


@pytest.fixture
def gateways(tmp_path: Path) -> Iterator[Callable[..., GatewayProcess]]:
    """Make gateways that share broker and store; they stop with the test."""
    started: list[GatewayProcess] = []

    def make(**settings: Any) -> GatewayProcess:
        started.append(GatewayProcess(tmp_path, **settings))
        return started[-1]

    yield make
    for gateway in started:
        gateway.kill()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    """Listen to slide.scanned on the embedded broker."""
    from histgen_lib.bus import BusSettings

    heard = Listener(BusSettings(f"embedded:{tmp_path}/bus.db"))
    yield heard
    heard.close()
