"""Kafka behind TLS: settings of `HISTGEN_KAFKA` reach the client, and a refusal is reported as one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bus_access import assert_serves, failure
from servers.kafka_tls import Authority, TlsKafka

from histgen_lib.bus import BusSettings
from histgen_lib.errors import TransientError
from services.tiler.app import TilerSettings
from services.wiring import bus_settings


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch):
    """Read settings as a service does: `settled(port, host, **kafka)`."""

    def settled(port: int, host: str = "127.0.0.1", **kafka: str | Path | int) -> BusSettings:
        monkeypatch.setenv("HISTGEN_BUS", f"kafka://{host}:{port}")
        monkeypatch.setenv("HISTGEN_KAFKA", json.dumps({"bootstrap_timeout_ms": 2000, **kafka}, default=str))
        return bus_settings(TilerSettings.load(store="file:/tmp"))

    return settled


def assert_refuses(settings: BusSettings) -> None:
    error = failure(settings)
    assert error.code == "bus-refused"
    assert "certificates" in error.hint


def test_a_certificate_of_the_labs_authority_gives_access(
    tls_kafka: TlsKafka, authority: Authority, settled
) -> None:
    certificate, key = authority.sign("tiler")
    door = {"security_protocol": "SSL", "ssl_cafile": authority.certificate}
    assert_serves(settled(tls_kafka.mutual_port, **door, ssl_certfile=certificate, ssl_keyfile=key))
    assert_refuses(settled(tls_kafka.mutual_port, **door))


def test_a_password_within_tls_gives_access(tls_kafka: TlsKafka, authority: Authority, settled) -> None:
    login = {
        "security_protocol": "SASL_SSL",
        "ssl_cafile": authority.certificate,
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "lab",
    }
    assert_serves(settled(tls_kafka.locked_port, **login, sasl_plain_password="histology"))
    assert_refuses(settled(tls_kafka.locked_port, **login, sasl_plain_password="pathology"))


def test_a_broker_of_another_authority_is_refused(tls_kafka: TlsKafka, settled, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other").certificate
    assert_refuses(settled(tls_kafka.mutual_port, security_protocol="SSL", ssl_cafile=other))


def test_a_broker_of_another_name_is_refused(tls_kafka: TlsKafka, authority: Authority, settled) -> None:
    trusted = {"security_protocol": "SSL", "ssl_cafile": authority.certificate}
    assert_refuses(settled(tls_kafka.mutual_port, "localhost", **trusted))


def test_a_listener_without_tls_is_an_outage_whose_hint_names_the_setting(
    tls_kafka: TlsKafka, settled
) -> None:
    """Either mistake shows only as a closed connection."""
    for settings in (settled(tls_kafka.port, security_protocol="SSL"), settled(tls_kafka.mutual_port)):
        error = failure(settings)
        assert (type(error), error.code) == (TransientError, "bus-unavailable")
        assert "security_protocol" in error.hint
