"""A Kafka broker with TLS listeners, and the certificate authority behind them, made by openssl."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from histgen_lib.stack.children import free_port
from histgen_lib.stack.kafka import KafkaProcess

_LISTENERS = """
listeners=PLAINTEXT://127.0.0.1:{port},MUTUAL://127.0.0.1:{mutual},LOCKED://127.0.0.1:{locked},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},MUTUAL://127.0.0.1:{mutual},LOCKED://127.0.0.1:{locked}
controller.quorum.voters=1@127.0.0.1:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,MUTUAL:SSL,LOCKED:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={authority}
listener.name.mutual.ssl.client.auth=required
listener.name.locked.sasl.enabled.mechanisms=PLAIN
listener.name.locked.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required user_lab="histology";
"""


class Authority:
    """A certificate authority for 127.0.0.1; all files are PEM."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.certificate, self._key = folder / "authority.pem", folder / "authority-key.pem"
        _openssl(
            "req", "-x509", *_NEW_KEY, "-subj", "/CN=lab", "-keyout", self._key, "-out", self.certificate
        )

    def sign(self, name: str) -> tuple[Path, Path]:
        """Issue a certificate; return its file and its key's."""
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}-key.pem"
        signing = ["-CA", self.certificate, "-CAkey", self._key, "-addext", "subjectAltName=IP:127.0.0.1"]
        _openssl(
            "req", "-x509", *_NEW_KEY, "-subj", f"/CN={name}", *signing, "-keyout", key, "-out", certificate
        )
        return certificate, key


class TlsKafka(KafkaProcess):
    """One listener wants a certificate of the authority, one user "lab" with the password "histology"."""

    def __init__(self, home: Path, data: Path, authority: Authority) -> None:
        data.mkdir()
        keystore = data / "keystore.pem"
        keystore.write_text("".join(path.read_text() for path in authority.sign("broker")))
        port, self.mutual_port, self.locked_port = free_port(), free_port(), free_port()
        settings = _LISTENERS.format(
            port=port,
            mutual=self.mutual_port,
            locked=self.locked_port,
            controller=free_port(),
            keystore=keystore,
            authority=authority.certificate,
        )
        super().__init__(home, data, port, settings=settings)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Create a certificate authority."""
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def tls_kafka(
    kafka_home: Path, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TlsKafka]:
    """Run a broker for the module's tests."""
    broker = TlsKafka(kafka_home, tmp_path_factory.mktemp("tls") / "kafka", authority)
    broker.start()
    yield broker
    broker.kill()


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


def _openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
