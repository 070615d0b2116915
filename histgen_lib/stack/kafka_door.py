"""The doors of a local Kafka: whoever comes in, a broker's own threads included, knows the home's secret.

A loopback port is open to everybody on the machine. So no listener takes anything before SASL: neither the
clients', nor the one of the broker itself, nor the controller's.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from histgen_lib.bus import BusSettings
from histgen_lib.bus.kafka_login import MECHANISM, SERVERS, KafkaSettings, let_in, make_user
from histgen_lib.client.asking import refuse_stranger
from histgen_lib.errors import TransientError
from histgen_lib.files import write_atomic
from histgen_lib.secret import own_secret

USER = "histgen"
PRIVATE = 0o600
"""The mode of whatever holds the password."""
_TAKEN_IN_S = 20.0
"""A new user is let in as soon as the broker has read its own log that far."""

_LISTENERS = """\
listeners=CLIENT://127.0.0.1:{port},INNER://127.0.0.1:{inner},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=CLIENT://127.0.0.1:{port},INNER://127.0.0.1:{inner}
listener.security.protocol.map=CLIENT:SASL_PLAINTEXT,INNER:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT
inter.broker.listener.name=INNER
sasl.mechanism.inter.broker.protocol=PLAIN
sasl.mechanism.controller.protocol=PLAIN
listener.name.client.sasl.enabled.mechanisms={mechanism}
listener.name.client.{scram}.sasl.jaas.config={proof}
listener.name.inner.sasl.enabled.mechanisms=PLAIN
listener.name.inner.plain.sasl.jaas.config={plain}
listener.name.controller.sasl.enabled.mechanisms=PLAIN
listener.name.controller.plain.sasl.jaas.config={plain}
"""
_PROOF = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_PLAIN = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required"
    ' username="{user}" password="{password}" user_{user}="{password}";'
)
_CLIENT = """\
# For Kafka's own tools: --bootstrap-server {servers}, and this file as --command-config or the like.
bootstrap.servers={servers}
security.protocol=SASL_PLAINTEXT
sasl.mechanism={mechanism}
sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required \\
  username="{user}" password="{password}";
"""


@dataclass(frozen=True)
class KafkaDoor:
    """Where the password lies, and where it is told how to connect.

    `secret`: the file with the password, made if it is missing. `client`: a JSON file in kafka-python's
    words, beside which the same lies in Kafka's own words, named ".properties".
    """

    secret: Path
    client: Path

    def listeners(self, *, port: int, inner: int, controller: int) -> str:
        """Return the lines of server.properties; they hold the secret. Raises as `own_secret`."""
        plain = _PLAIN.format(user=USER, password=own_secret(self.secret))
        return _LISTENERS.format(
            port=port,
            inner=inner,
            controller=controller,
            mechanism=MECHANISM,
            scram=MECHANISM.lower(),
            proof=_PROOF,
            plain=plain,
        )

    def tell(self, port: int) -> None:
        """Write down, for the owner only, how to connect."""
        servers = f"127.0.0.1:{port}"
        told = {SERVERS: servers} | self._login(MECHANISM)
        write_atomic(self.client, json.dumps(told, indent=2).encode() + b"\n", PRIVATE)
        words = _CLIENT.format(
            servers=servers, mechanism=MECHANISM, user=USER, password=told["sasl_plain_password"]
        )
        write_atomic(self.client.with_suffix(".properties"), words.encode(), PRIVATE)

    def open(self, *, port: int, inner: int) -> None:
        """Return once a broker that just started lets clients in who know the secret.

        It learns of the user by its own listener: a broker from before there were passwords, or whose secret
        was removed, knows none. Raises TransientError: "kafka-ended", "bus-unavailable".
        """
        client = self._bus(port, MECHANISM)
        if let_in(client):
            return
        try:
            refuse_stranger("127.0.0.1", inner)  # what is said there is the password itself
        except OSError as error:
            raise _not_open() from error
        make_user(self._bus(inner, "PLAIN"), USER, own_secret(self.secret))
        end = time.monotonic() + _TAKEN_IN_S
        while not let_in(client):
            if time.monotonic() > end:
                raise _not_open()

    def _bus(self, port: int, mechanism: str) -> BusSettings:
        return BusSettings(f"kafka://127.0.0.1:{port}", kafka=tuple(self._login(mechanism).items()))

    def _login(self, mechanism: str) -> KafkaSettings:
        return {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": mechanism,
            "sasl_plain_username": USER,
            "sasl_plain_password": own_secret(self.secret),
        }


def _not_open() -> TransientError:
    return TransientError(
        "kafka-ended",
        "Apache Kafka does not let this account in.",
        hint="It is started again; if that lasts, see whether another program listens on its ports.",
    )
