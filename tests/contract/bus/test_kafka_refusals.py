"""A broker's refusal and impossible settings are reported at once, with the right code."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from bus_access import assert_serves, failure
from bus_members import new_name, publishing, scanned
from kafka import KafkaAdminClient
from servers.kafka_server import LockedKafka
from waiting import until

from histgen_lib.bus import BusSettings, open_subscription
from histgen_lib.errors import FatalError, InvalidInputError, TransientError


@pytest.fixture
def with_password(kafka: LockedKafka) -> BusSettings:
    login = {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "lab",
        "sasl_plain_password": "histology",
    }
    return BusSettings(kafka.locked_url, kafka=tuple(login.items()))


def with_settings(settings: BusSettings, **more: str | int) -> BusSettings:
    """Add settings, and limit the time to connect."""
    patience = {"bootstrap_timeout_ms": 2_000}
    return dataclasses.replace(settings, kafka=tuple((dict(settings.kafka) | patience | more).items()))


def test_user_and_password_pass_through(with_password: BusSettings) -> None:
    assert_serves(with_password)


def test_a_wrong_password_is_reported_and_appears_nowhere(
    with_password: BusSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = with_settings(with_password, sasl_plain_password="guess-4711")
    error = failure(wrong)
    assert error.code == "bus-refused"
    assert "guess-4711" not in repr(error) + repr(wrong) + caplog.text


def test_a_broker_with_an_untrusted_certificate_is_refused(untrusted_port: int) -> None:
    settings = BusSettings(f"kafka://127.0.0.1:{untrusted_port}")
    assert failure(with_settings(settings, security_protocol="SSL")).code == "bus-refused"


@pytest.mark.parametrize(
    "more",
    [
        {"no_such_setting": "x"},
        {"security_protocol": "SSL", "ssl_cafile": "/no/such/file.pem"},
    ],
    ids=lambda more: list(more)[-1],
)
def test_impossible_settings_are_reported(kafka: LockedKafka, more: dict[str, str]) -> None:
    error = failure(with_settings(BusSettings(kafka.locked_url), **more))
    assert (type(error), error.code) == (FatalError, "bus-settings")


def test_a_session_that_the_broker_does_not_allow_is_reported(kafka: LockedKafka) -> None:
    subscription = open_subscription(BusSettings(kafka.url, session_s=86_400), new_name(), new_name())
    with pytest.raises(FatalError) as caught:
        until(lambda: subscription.next(0.1), 60, "the refusal")
    assert caught.value.code == "bus-settings"
    subscription.close()


def test_an_absent_broker_is_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged: the caller decides how to report it."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        error = failure(with_settings(BusSettings(f"kafka://127.0.0.1:{nobody.getsockname()[1]}")))
    assert (type(error), error.code) == (TransientError, "bus-unavailable")
    assert caplog.text == ""


@pytest.fixture
def untrusted_port(tmp_path: Path) -> Iterator[int]:
    """Serve TLS with a self-signed certificate."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    making = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    naming = ["-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*making, *naming], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_shake_hands, args=(listening, context), daemon=True).start()
        yield listening.getsockname()[1]


def _shake_hands(listening: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        try:
            context.wrap_socket(connection, server_side=True).close()
        except OSError:
            connection.close()


def test_an_event_larger_than_its_topic_takes_is_refused_at_once(kafka: LockedKafka, topic: str) -> None:
    servers = kafka.url.removeprefix("kafka://")
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=servers)) as admin:
        admin.create_topics({topic: {"num_partitions": 1, "configs": {"max.message.bytes": "10000"}}})
        admin.wait_for_topics([topic], timeout_ms=30_000)
    small, event = scanned("S1"), scanned("S2")
    large = dataclasses.replace(event, data=dataclasses.replace(event.data, case_slides=("S2",) * 9000))
    with publishing(BusSettings(kafka.url)) as publisher:
        with pytest.raises(InvalidInputError) as caught:
            publisher.publish(topic, large.key, large)
        assert caught.value.code == "event-too-large"
        publisher.publish(topic, small.key, small)
