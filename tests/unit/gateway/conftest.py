"""The lab of the gateway's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from gateway_fakes import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    folder = tmp_path / "scans"
    folder.mkdir()
    return Lab(folder)
