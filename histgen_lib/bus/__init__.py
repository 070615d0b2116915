"""The port to the broker: publish events durably; take records one at a time, and finish or reject each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from histgen_lib.bus._port import Backlog, BusSettings, Delivery, Publisher, Reason, Subscription, Waiting
from histgen_lib.errors import FatalError

__all__ = [
    "Backlog",
    "BusSettings",
    "Delivery",
    "Publisher",
    "Reason",
    "Subscription",
    "Waiting",
    "finished_records",
    "open_backlog",
    "open_publisher",
    "open_subscription",
    "open_subscriptions",
]


def open_publisher(settings: BusSettings) -> Publisher:
    """Return a publisher, which connects when first used. Raises FatalError("bus-url")."""
    if _scheme(settings) == "embedded":
        from histgen_lib.bus._embedded import EmbeddedPublisher

        return EmbeddedPublisher(settings, _path(settings))
    from histgen_lib.bus._kafka_client import KafkaPublisher

    return KafkaPublisher(settings, _servers(settings))


def open_subscription(settings: BusSettings, topic: str, group: str) -> Subscription:
    """Return a member of `group` on `topic`; when first used, it joins and creates a missing topic.

    Raises as `open_publisher`.
    """
    if _scheme(settings) == "embedded":
        from histgen_lib.bus._embedded import embedded_subscription

        return embedded_subscription(settings, _path(settings), topic, group)
    from histgen_lib.bus._kafka import KafkaSubscription

    return KafkaSubscription(settings, _servers(settings), topic, group)


def open_subscriptions(settings: BusSettings, groups: Mapping[str, str]) -> Subscription:
    """Return a member of a group on each of several topics, as one subscription; otherwise as the former.

    `groups`: the group on each topic. A broker knows a group by its name alone: each topic needs one of its
    own, or every change of one topic's members would stir up those of the others.
    """
    members = {topic: open_subscription(settings, topic, group) for topic, group in groups.items()}
    if len(members) == 1:
        return next(iter(members.values()))
    from histgen_lib.bus._several import SeveralSubscription

    return SeveralSubscription(members)


def open_backlog(settings: BusSettings) -> Backlog:
    """Return what tells how much waits for groups; connects when first used. Raises as `open_publisher`."""
    if _scheme(settings) == "embedded":
        from histgen_lib.bus._embedded import EmbeddedBacklog

        return EmbeddedBacklog(_path(settings))
    from histgen_lib.bus._kafka_backlog import KafkaBacklog

    return KafkaBacklog(settings, _servers(settings))


def finished_records(settings: BusSettings, before: datetime, *, remove: bool) -> Iterator[tuple[str, int]]:
    """Yield topic and size in bytes of records published `before` that every group has finished.

    With `remove`, each has been removed when it is yielded. Kafka removes records by its own rules, so
    nothing is yielded for it. Raises as `Publisher.publish`.
    """
    if _scheme(settings) == "embedded":
        from histgen_lib.bus import _embedded_log

        yield from _embedded_log.finished_records(_path(settings), before, remove=remove)


def _scheme(settings: BusSettings) -> str:
    scheme, colon, rest = settings.url.partition(":")
    if scheme not in {"embedded", "kafka"} or not colon or not rest.strip("/"):
        raise _unusable()
    return scheme


def _path(settings: BusSettings) -> Path:
    return Path(settings.url.removeprefix("embedded:")).absolute()


def _servers(settings: BusSettings) -> list[str]:
    """Split "kafka://a:1,b:2"; a host without a port has Kafka's own."""
    names = settings.url.removeprefix("kafka:").removeprefix("//").rstrip("/").split(",")
    servers = [name if re.search(r":\d+$", name) else f"{name}:9092" for name in names]
    if not all(re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}", server) for server in servers):
        raise _unusable()
    return servers


def _unusable() -> FatalError:
    return FatalError(
        "bus-url",
        "The broker's URL cannot be used.",
        hint='HISTGEN_BUS is "embedded:/path/to/bus.db" or "kafka://host:port[,host:port]".',
    )
