"""A real Apache Kafka on this machine: one KRaft broker, started from its jars, closed to other accounts.

A loopback port is open to every account of the machine. So every listener requires SASL: the clients', the
broker's own and the controller's.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import struct
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from histgen_lib.bus import BusSettings
from histgen_lib.bus.kafka_login import MECHANISM, SERVERS, KafkaSettings, let_in, make_user
from histgen_lib.client.api import refuse_stranger
from histgen_lib.errors import FatalError, HistgenError, TransientError
from histgen_lib.files import write_atomic
from histgen_lib.secret import OWNER_ONLY, own_secret
from histgen_lib.stack.children import (
    accepts,
    describe_exit,
    dying_with_parent,
    end,
    free_port,
    is_retryable,
    written_since,
)
from histgen_lib.stack.processes import Process

USER = "histgen"
PRIVATE = 0o600
"""The mode of files that hold the password."""
_TAKEN_IN_S = 20.0
"""How long the broker may take to admit a new user: until it has read its own log that far."""

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
# For Kafka's own tools: --bootstrap-server {servers}, with this file as --command-config or similar.
bootstrap.servers={servers}
security.protocol=SASL_PLAINTEXT
sasl.mechanism={mechanism}
sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required \\
  username="{user}" password="{password}";
"""
_START_S, _MOST_START_S = 60.0, 960.0
"""How long a start may take; doubled each time that was too short for this machine."""
_GRACE_S = 20.0
_ANSWER_S = 2.0
_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 0, -1)
"""A request that a broker answers before login: its length, API key 18, version 0, a correlation id, and no
client id (Kafka protocol guide, "ApiVersions")."""

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
log.dirs={data}/logs
num.network.threads=2
num.io.threads=4
num.partitions=12
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# An acknowledged record also survives a power cut, not only the end of the broker.
log.flush.interval.messages=1
# A group that was away for a year continues where it stopped.
offsets.retention.minutes=525600
# By default Kafka removes records after a week, even unfinished ones.
log.retention.hours=8760
# After a crash the controller waits this long for the old broker before it admits the new one.
broker.session.timeout.ms=6000
broker.heartbeat.interval.ms=2000
# By default the controller writes a no-op record to disk twice a second.
metadata.max.idle.interval.ms=0
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
"""
_OPEN = """\
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
"""


@dataclass(frozen=True)
class KafkaAuth:
    """How clients of a local Kafka log in.

    `secret`: the file with the password, created if missing. `client`: a JSON file of kafka-python settings;
    beside it, with the ending ".properties", lie the same settings for Kafka's own tools.
    """

    secret: Path
    client: Path

    def listeners(self, *, port: int, inner: int, controller: int) -> str:
        """Return lines for server.properties; they hold the password. Raises as `own_secret`."""
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

    def write_clients(self, port: int) -> None:
        """Write the client files, readable by the owner only."""
        servers = f"127.0.0.1:{port}"
        settings = {SERVERS: servers} | self._login(MECHANISM)
        write_atomic(self.client, json.dumps(settings, indent=2).encode() + b"\n", PRIVATE)
        properties = _CLIENT.format(
            servers=servers, mechanism=MECHANISM, user=USER, password=settings["sasl_plain_password"]
        )
        write_atomic(self.client.with_suffix(".properties"), properties.encode(), PRIVATE)

    def admit_clients(self, *, port: int, inner: int) -> None:
        """Return once a broker that has just started admits clients with the password.

        A broker from before there were passwords, or whose secret was removed, knows no user; it is created
        through the broker's own listener. Raises TransientError: "kafka-ended", "bus-unavailable".
        """
        client = self._bus(port, MECHANISM)
        if let_in(client):
            return
        try:
            refuse_stranger("127.0.0.1", inner)  # the password is sent there in the clear
        except OSError as error:
            raise _not_admitted() from error
        make_user(self._bus(inner, "PLAIN"), USER, own_secret(self.secret))
        end = time.monotonic() + _TAKEN_IN_S
        while not let_in(client):
            if time.monotonic() > end:
                raise _not_admitted()

    def _bus(self, port: int, mechanism: str) -> BusSettings:
        return BusSettings(f"kafka://127.0.0.1:{port}", kafka=tuple(self._login(mechanism).items()))

    def _login(self, mechanism: str) -> KafkaSettings:
        return {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": mechanism,
            "sasl_plain_username": USER,
            "sasl_plain_password": own_secret(self.secret),
        }


def _not_admitted() -> TransientError:
    return TransientError(
        "kafka-ended",
        "Apache Kafka does not admit this account.",
        hint="It will be restarted; if this persists, check whether another program listens on its ports.",
    )


class KafkaProcess(Process):
    """One broker of our own, bound to 127.0.0.1; its data survive `stop` and `kill` for the next `start`.

    `home` holds the jars (deploy/kafka/pom.xml fetches them); a new `data` folder is formatted. The broker
    dies with the thread that called `start`. `auth`: how clients log in; without it every account of the
    machine may read and write. `settings`: further lines for server.properties.
    """

    def __init__(
        self,
        home: Path,
        data: Path,
        port: int | None = None,
        heap_mb: int = 512,
        *,
        auth: KafkaAuth | None = None,
        settings: str = "",
    ) -> None:
        self._home, self._data, self._heap_mb, self._settings = home, data.absolute(), heap_mb, settings
        self._auth = auth
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._start_s, self._was_up, self._log_start = _START_S, False, 0

    @property
    def url(self) -> str:
        """The broker's URL for `BusSettings`."""
        return f"kafka://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The broker's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def log_path(self) -> Path:
        """Where the broker's own log lies."""
        return self._data / "broker.log"

    def start(self, ended: threading.Event | None = None) -> None:
        """Start, and return when it accepts connections, or when `ended` is set.

        Raises FatalError: "kafka-missing" without Java or the jars, "kafka-failed" if it refuses to run;
        TransientError("kafka-ended") if it was killed, is slow, or what it lacks may be there later.
        """
        if self.pid is not None:
            return
        java = self._java()
        self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        inner = free_port()
        properties = self._data / "server.properties"
        write_atomic(properties, self._properties(inner).encode(), PRIVATE)
        if not (self._data / "logs" / "meta.properties").exists():
            self._format(java, properties)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                dying_with_parent([*java, f"-Xmx{self._heap_mb}m", "kafka.Kafka", str(properties)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal reaches every process of the group, but the broker is to stop last.
                start_new_session=True,
                umask=OWNER_ONLY,
            )
        self._await(self._process, ended or threading.Event())
        if self._auth:
            self._admit_clients(self._auth, inner)

    def fault(self) -> HistgenError:
        """Return why it ended."""
        return self._failed(self._process.poll() if self._process else None)

    def answers(self) -> bool:
        """Return whether it answers a request."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=_ANSWER_S) as connection:
                connection.sendall(_API_VERSIONS)
                return bool(connection.recv(4))
        except OSError:
            return False

    def stop(self) -> None:
        """Stop it cleanly; kill it if that takes long."""
        if self._process is not None:
            end(self._process, grace_s=_GRACE_S)
            self._process = None

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _properties(self, inner: int) -> str:
        controller = free_port()
        properties = _PROPERTIES.format(controller=controller, data=self._data)
        if self._auth:
            self._auth.write_clients(self.port)
            properties += self._auth.listeners(port=self.port, inner=inner, controller=controller)
        else:
            properties += _OPEN.format(port=self.port, controller=controller)
        return properties + self._settings

    def _admit_clients(self, auth: KafkaAuth, inner: int) -> None:
        if self.pid is None:
            return  # it was stopped meanwhile, or has ended
        try:
            auth.admit_clients(port=self.port, inner=inner)
        except BaseException:
            self.kill()
            raise

    def _java(self) -> list[str]:
        java = shutil.which("java")
        if java is None or not any(self._home.glob("kafka_*.jar")):
            raise FatalError(
                "kafka-missing",
                "Apache Kafka cannot be started: "
                + ("its jars are missing." if java else "Java is not installed."),
                hint="Install Java 17 and Maven, then run: mvn -q -B -f deploy/kafka/pom.xml package",
            )
        return [
            java,
            "-XX:+UseSerialGC",  # the default collector's threads suit larger heaps
            "-XX:-UsePerfData",  # else it samples counters twenty times a second
            "-Xlog:disable",
            "-Djava.awt.headless=true",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
            "-cp",
            f"{self._home}/*",
        ]

    def _format(self, java: list[str], properties: Path) -> None:
        # 22 characters of base64, without a dash, which would make it look like an option.
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode().replace("-", "_")
        command = [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)]
        with self.log_path.open("ab") as log:
            exit_code = _run(dying_with_parent(command), log, self._start_s)
        if exit_code != 0:
            raise self._failed(exit_code)

    def _await(self, process: subprocess.Popen[bytes], ended: threading.Event) -> None:
        end_at = time.monotonic() + self._start_s
        while not accepts(self.port):
            exit_code = process.poll()
            if exit_code is not None or time.monotonic() > end_at:
                self.kill()
                raise self._failed(exit_code)
            if ended.wait(0.05):
                return
        self._was_up = True

    def _failed(self, exit_code: int | None) -> HistgenError:
        if exit_code is None:
            self._start_s = min(2 * self._start_s, _MOST_START_S)
        hint = f"The last lines of {self.log_path} say why."
        if is_retryable(exit_code, written_since(self.log_path, self._log_start), was_up=self._was_up):
            return TransientError("kafka-ended", f"Apache Kafka {describe_exit(exit_code)}.", hint=hint)
        return FatalError("kafka-failed", "Apache Kafka did not start.", hint=hint)


def _run(command: list[str], log: IO[bytes], limit_s: float) -> int | None:
    """Run a program to its end; return its exit code, or None if it was killed for taking too long."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            umask=OWNER_ONLY,
            check=False,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        return None
    return done.returncode
