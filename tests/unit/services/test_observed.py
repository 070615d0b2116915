"""What a service measures of the machine it runs on."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from services.gateway.settings import GatewaySettings
from services.wiring import volumes

ELSEWHERE = {"bus": "kafka://b:9092", "store": "s3://lab"}


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"bus": "embedded:/b/bus.db", "store": "file:/s"}, {"broker": "/b/bus.db", "store": "/s"}),
        (ELSEWHERE | {"scratch": "/scratch"}, {"scratch": "/scratch"}),
        (ELSEWHERE, {}),
    ],
)
def test_the_disks_that_a_service_writes_to_are_watched(stated: dict, expected: dict) -> None:
    temporary = Path(tempfile.gettempdir())
    found = volumes(GatewaySettings.load(**stated))

    assert found == {"scratch": temporary, "tmp": temporary} | {
        name: Path(path) for name, path in expected.items()
    }
