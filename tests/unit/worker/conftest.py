from __future__ import annotations

import pytest
from worker_fakes import World


@pytest.fixture
def world() -> World:
    return World()
