"""Kafka clients as we want them, and a publisher with one.

Settings are passed through, waits are bounded, logs are quiet, errors are our own.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import kafka
from kafka import errors as kafka_errors

from histgen_lib.bus._port import BusSettings, sized
from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.events import Event

ANSWER_S = 8.0
"""How long a broker may take to answer before it counts as unavailable."""

_OURS: dict[str, object] = {
    "request_timeout_ms": int(ANSWER_S * 1000),
    "bootstrap_timeout_ms": 5_000,
    "reconnect_backoff_max_ms": 1_000,  # soon back when the broker is
    "retry_backoff_ms": 100,
    "metadata_max_age_ms": 60_000,
    "metrics_enabled": False,  # nobody reads kafka-python's own
}
_KINDS = (kafka.KafkaConsumer, kafka.KafkaProducer, kafka.KafkaAdminClient)
_KEPT_MS = 90 * 24 * 3600 * 1000
"""Records of topics created here are kept for 90 days: longer than any slide is left unfinished."""

_REFUSALS = (
    kafka_errors.AuthorizationError,
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.IllegalSaslStateError,
)
_TLS_REFUSAL = re.compile(r"CERTIFICATE|WRONG_VERSION_NUMBER|ALERT|certificate|no protocols available")
_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)
_UNUSABLE = (kafka_errors.KafkaConfigurationError, kafka_errors.InvalidSessionTimeoutError)
_UNUSABLE_AT_START = (*_UNUSABLE, FileNotFoundError, AssertionError, LookupError, TypeError, ValueError)
"""What kafka-python raises for wrong settings while a client is made; later these errors mean something
else."""


class _Ear(logging.Filter):
    """Remembers why a connection failed, which kafka-python only logs, and keeps its log quiet.

    While a broker is unavailable, it would repeat itself several times a second; on its lower levels it logs
    passwords.
    """

    def __init__(self) -> None:
        super().__init__()
        self._heard: deque[tuple[float, BaseException]] = deque(maxlen=100)

    def filter(self, record: logging.LogRecord) -> bool:
        """Remember the exception in a log record, and drop the record."""
        for value in record.args if isinstance(record.args, tuple) else ():
            if isinstance(value, BaseException):
                self._heard.append((time.monotonic(), value))
        return False

    def since(self, start: float) -> list[BaseException]:
        """Return what was heard after `start`."""
        return [error for at, error in tuple(self._heard) if at >= start]


_EAR = _Ear()


def _listen() -> None:
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    for name in ("kafka.net.manager", "kafka.net.connection"):
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).addFilter(_EAR)


def _hear_out(transport: type[Any]) -> None:
    """Have data that arrives together with the end of a connection read before the end.

    kafka-python 3.0.12 discards it. A broker that refuses a password says so and closes at once: it would be
    taken for one that is unavailable.
    """
    receive = transport._sock_recv

    def last_words_first(self: Any) -> tuple[bytes, BaseException | None]:
        data, error = receive(self)
        return data, None if data else error  # the next read meets the end again

    transport._sock_recv = last_words_first


with contextlib.suppress(ImportError, AttributeError):  # a kafka-python that is built differently
    _transport = importlib.import_module("kafka.net.transport")
    for _kind in (_transport.KafkaTCPTransport, _transport.KafkaSSLTransport):
        _hear_out(_kind)


def connect(kind: type[Any], settings: BusSettings, servers: list[str], **ours: object) -> Any:
    """Make a client; whatever a failed attempt has started is stopped again. Raises as `talking`.

    kafka-python reports a broker that is killed in mid-handshake as it reports wrong settings. So it is tried
    twice: wrong settings fail again.
    """
    _listen()
    try:
        return _new_client(kind, settings, servers, ours)
    except FatalError as error:
        if error.code != "bus-settings":
            raise
    return _new_client(kind, settings, servers, ours)


def _new_client(kind: type[Any], settings: BusSettings, servers: list[str], ours: dict[str, object]) -> Any:
    theirs = dict(settings.kafka)
    unknown = [name for name in theirs if not any(name in other.DEFAULT_CONFIG for other in _KINDS)]
    if unknown:
        raise _unusable(f"kafka-python knows no {', '.join(sorted(unknown))}")
    config = {name: value for name, value in (_OURS | ours | theirs).items() if name in kind.DEFAULT_CONFIG}
    started: list[Any] = []

    def start(**config: Any) -> Any:
        started.append(kind.DEFAULT_CONFIG["kafka_client"](**config))
        return started[-1]

    with talking(_UNUSABLE_AT_START):
        try:
            return kind(bootstrap_servers=servers, kafka_client=start, **config)
        except BaseException:
            for client in started:
                client.close()
            raise


@contextlib.contextmanager
def talking(unusable: tuple[type[BaseException], ...] = _UNUSABLE) -> Iterator[None]:
    """Translate what kafka-python raises.

    TransientError("bus-unavailable") for outages and everything else that may pass;
    InvalidInputError("event-too-large") if the broker takes less than we do; FatalError("bus-refused") if the
    broker denies us access; FatalError("bus-settings") for impossible settings (`unusable`).
    """
    start = time.monotonic()
    try:
        yield
    except Exception as error:
        if isinstance(error, HistgenError) or raised_by_us(error):
            raise
        raise _translated(error, _EAR.since(start), unusable) from error


def _translated(
    error: BaseException, heard: list[BaseException], unusable: tuple[type[BaseException], ...]
) -> HistgenError:
    """Translate `error` into our own; `heard` are the reasons why connections failed."""
    if isinstance(error, _TOO_LARGE):
        return InvalidInputError(
            "event-too-large",
            "An event is larger than this broker takes.",
            hint="Set the topic's max.message.bytes to at least 1 MiB, Kafka's default.",
        )
    for cause in (error, *heard):
        if isinstance(cause, _REFUSALS) or _TLS_REFUSAL.search(str(cause)):
            return FatalError(
                "bus-refused",
                f"The broker denies access ({type(cause).__name__}).",
                hint="Check user, password, certificates and rights: HISTGEN_KAFKA and the broker's log.",
            )
        if isinstance(cause, unusable):
            return _unusable(type(cause).__name__)
    return TransientError(
        "bus-unavailable",
        f"The broker does not answer ({type(error).__name__}).",
        hint="It is retried; if this lasts, check that the broker runs, that HISTGEN_BUS names it, and that "
        "HISTGEN_KAFKA has its security_protocol.",
    )


def raised_by_us(error: BaseException) -> bool:
    """Return whether an exception is a bug in our own code, which must not be taken for an outage."""
    if isinstance(error, kafka_errors.KafkaError):
        return False
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and str(traceback.tb_frame.f_globals["__name__"]).startswith("histgen_lib.")


def ensure_topic(settings: BusSettings, servers: list[str], topic: str) -> None:
    """Create a topic if it is missing, and wait until it can be used. Raises as `talking`."""
    admin = connect(kafka.KafkaAdminClient, settings, servers)
    config = {"num_partitions": settings.partitions, "configs": {"retention.ms": str(_KEPT_MS)}}
    with talking(), contextlib.closing(admin):
        found = admin.describe_topics([topic])
        if any(one["error_code"] == kafka_errors.UnknownTopicOrPartitionError.errno for one in found):
            with contextlib.suppress(kafka_errors.TopicAlreadyExistsError):  # another process was faster
                admin.create_topics({topic: config})
            admin.wait_for_topics([topic], timeout_ms=ANSWER_S * 1000)


class KafkaPublisher:
    """A `Publisher` to Kafka: acknowledged by all in-sync replicas, idempotent within an attempt."""

    def __init__(self, settings: BusSettings, servers: list[str]) -> None:
        self._settings, self._servers = settings, servers
        self._lock = threading.Lock()
        self._producer: Any = None
        self._topics: set[str] = set()

    def publish(self, topic: str, key: str, event: Event) -> None:
        """See `Publisher.publish`."""
        headers = [(name, value.encode()) for name, value in event.headers().items()]
        self._send(topic, key, headers, event.body())

    def publish_raw(self, topic: str, key: str, body: bytes) -> None:
        """See `Publisher.publish_raw`."""
        self._send(topic, key, [], body)

    def close(self) -> None:
        """See `Publisher.close`."""
        self._drop(self._producer)

    def _send(self, topic: str, key: str, headers: list[tuple[str, bytes]], body: bytes) -> None:
        body = sized(body)
        producer = self._ready(topic)
        try:
            with talking():
                sent = producer.send(topic, value=body, key=key.encode(), headers=headers)
                sent.get(timeout=ANSWER_S + 1)
        except BaseException:
            self._drop(producer)  # or the record might still arrive, after those published next
            raise

    def _ready(self, topic: str) -> Any:
        with self._lock:
            if topic not in self._topics:
                ensure_topic(self._settings, self._servers, topic)
                self._topics.add(topic)
            if self._producer is None:
                self._producer = connect(
                    kafka.KafkaProducer,
                    self._settings,
                    self._servers,
                    acks="all",
                    enable_idempotence=True,
                    allow_auto_create_topics=False,
                    max_block_ms=int(ANSWER_S * 1000),
                    delivery_timeout_ms=int(ANSWER_S * 1000),
                    request_timeout_ms=int(ANSWER_S * 1000) - 1,
                )
            return self._producer

    def _drop(self, producer: Any) -> None:
        with self._lock:
            if producer is self._producer:
                self._producer = None
                self._topics.clear()
        if producer is not None:
            with contextlib.suppress(kafka_errors.KafkaError):
                producer.close(timeout=1)


def _unusable(what: str) -> FatalError:
    return FatalError(
        "bus-settings",
        f"The broker's settings cannot be used ({what}).",
        hint="Check HISTGEN_KAFKA, and that the broker allows a session of HISTGEN_BUS_SESSION_S.",
    )
