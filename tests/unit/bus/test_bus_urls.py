"""A bus is opened by its URL; nothing is imported, and nothing connected, before it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from histgen_lib.bus import BusSettings, open_publisher, open_subscription
from histgen_lib.errors import FatalError


@pytest.mark.parametrize(
    "url",
    [
        "",
        "embedded:",
        "kafka:",
        "kafka://",
        "redis://x",
        "kafka://a b:1",
        "kafka://a:1,,b:2",
        "kafka://u:p@h:1",
    ],
)
def test_a_url_of_an_unknown_kind_is_refused(url: str) -> None:
    for open_it in (open_publisher, lambda s: open_subscription(s, "t", "g")):
        with pytest.raises(FatalError) as caught:
            open_it(BusSettings(url))
        assert caught.value.code == "bus-url"


@pytest.mark.parametrize("url", ["kafka://127.0.0.1:1", "kafka://a,b:9093,[::1]:2", "embedded:{}/bus.db"])
def test_opening_does_not_connect(url: str, tmp_path: Path) -> None:
    settings = BusSettings(url.format(tmp_path / "new"))
    open_publisher(settings).close()
    open_subscription(settings, "t", "g").close()
    assert list(tmp_path.iterdir()) == []


def test_a_password_does_not_appear_in_the_repr() -> None:
    assert "secret" not in repr(BusSettings("kafka://h:1", kafka=(("sasl_plain_password", "secret"),)))


def test_the_embedded_broker_needs_no_kafka_client(tmp_path: Path) -> None:
    program = f"""
import sys
from histgen_lib.bus import BusSettings, open_publisher
open_publisher(BusSettings({f"embedded:{tmp_path}/bus.db"!r})).publish_raw("t", "k", b"x")
assert "kafka" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
