"""The lab of the gateway's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from gateway_client import Client
from gateway_fakes import GatewayLab


@pytest.fixture
def lab(tmp_path: Path) -> GatewayLab:
    folder = tmp_path / "scans"
    folder.mkdir()
    return GatewayLab(folder)


@pytest.fixture
def client(lab: GatewayLab) -> Client:
    """Make a client with the gateway's own token."""
    return Client(lab)
