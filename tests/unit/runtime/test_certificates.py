"""When Kafka's certificates expire is shown, and a renewed one is noticed."""

from __future__ import annotations

import math
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from histgen_lib.runtime.certificates import expiry_of, show_kafka_certificates
from histgen_lib.telemetry import metrics


def certificate(path: Path, days: int, *more: str) -> float:
    """Make a certificate with OpenSSL; return when it expires as OpenSSL says."""
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    key = str(path.with_suffix(".key"))
    subprocess.run(
        [*new, "-keyout", key, "-out", str(path), "-subj", "/CN=a", "-days", str(days), *more],
        check=True,
        capture_output=True,
    )
    asked = ["openssl", "x509", "-in", str(path), "-noout", "-enddate"]
    told = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    when = datetime.strptime(told.strip().removeprefix("notAfter="), "%b %d %H:%M:%S %Y GMT")
    return when.replace(tzinfo=UTC).timestamp()


def shown(name: str) -> float | None:
    labels = {"certificate": name}
    return metrics.REGISTRY.get_sample_value("histgen_certificate_expiry_timestamp_seconds", labels)


@pytest.mark.parametrize("days", [1, 400, 40_000])
def test_the_expiry_is_what_openssl_says(tmp_path: Path, days: int) -> None:
    """The last one is after 2049: another kind of time in the certificate."""
    stated = certificate(tmp_path / "c.pem", days)

    assert expiry_of(tmp_path / "c.pem") == stated
    wanted = datetime.now(UTC) + timedelta(days=days)
    assert stated == pytest.approx(wanted.timestamp(), abs=3600)


def test_of_a_chain_the_first_to_expire_counts_and_of_authorities_the_last(tmp_path: Path) -> None:
    soon, late = certificate(tmp_path / "a.pem", 10), certificate(tmp_path / "b.pem", 20)
    both = tmp_path / "both.pem"
    both.write_text((tmp_path / "b.pem").read_text() + (tmp_path / "a.pem").read_text())
    show_kafka_certificates({"ssl_certfile": str(both), "ssl_cafile": str(both), "client_id": "x"})

    assert (shown("kafka-client"), shown("kafka-ca")) == (soon, late)


def test_a_renewed_certificate_shows_at_once_and_one_that_is_gone_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "c.pem"
    certificate(path, 1)
    show_kafka_certificates({"ssl_certfile": str(path)})
    renewed = certificate(path, 90)
    assert shown("kafka-client") == renewed
    path.write_text("no certificate")
    assert math.isnan(shown("kafka-client"))
    path.unlink()
    assert math.isnan(shown("kafka-client"))
