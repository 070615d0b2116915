"""Who may speak to a Kafka: settings with a password from a file, and users that are made in a broker."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

from histgen_lib.bus import BusSettings
from histgen_lib.errors import FatalError
from histgen_lib.secret import given_secret

MECHANISM = "SCRAM-SHA-512"
"""Neither side of a connection tells the other the password, and each proves that it knows it (RFC 5802): a
program that took the port of a broker learns nothing, and is told from the broker."""
SERVERS = "bootstrap_servers"

KafkaSettings = dict[str, str | int | bool]


def read_kafka_file(path: Path) -> KafkaSettings:
    """Return the settings for kafka-python in a JSON file; `SERVERS` may be among them.

    Raises FatalError("settings-invalid"), and as `given_secret`.
    """
    try:
        found = json.loads(given_secret(path))
    except ValueError:
        found = None
    if not _usable(found):
        raise FatalError(
            "settings-invalid",
            f"The Kafka settings in {path} cannot be used: a JSON object of texts, numbers and booleans is "
            "wanted, in ASCII and at most 4,096 bytes.",
            hint='For example {"sasl_plain_username": "histgen", "sasl_plain_password": "…"}, with mode 600.',
        )
    return found


def kafka_settings(
    stated: Mapping[str, str | int | bool], file: Path | None
) -> tuple[tuple[str, str | int | bool], ...]:
    """Return `BusSettings.kafka`: what is stated, and what a file says beside or instead. Raises as above.

    Which broker is meant is said elsewhere.
    """
    found = {**stated, **(read_kafka_file(file) if file else {})}
    return tuple(sorted((name, value) for name, value in found.items() if name != SERVERS))


def _usable(found: object) -> TypeGuard[KafkaSettings]:
    return isinstance(found, dict) and all(
        isinstance(value, int) or (isinstance(value, str) and "\ufffd" not in value)
        for value in found.values()
    )


def make_user(settings: BusSettings, user: str, password: str) -> None:
    """Have a broker let a user in by `MECHANISM`, or give one that is there another password.

    Raises TransientError("bus-unavailable") and as `open_publisher`.
    """
    import kafka
    from kafka.admin import UserScramCredentialUpsertion
    from kafka.errors import KafkaError

    from histgen_lib.bus import _servers
    from histgen_lib.bus._kafka_client import connect, talking

    made = UserScramCredentialUpsertion(user, MECHANISM, password)
    admin = connect(kafka.KafkaAdminClient, settings, _servers(settings))
    with talking(), contextlib.closing(admin):
        told = admin.alter_user_scram_credentials([made])
        if told.get(user) is not None:
            raise KafkaError("The broker makes no user.")


def let_in(settings: BusSettings) -> bool:
    """Say whether a broker lets these settings in. Raises TransientError("bus-unavailable") if it is away."""
    import kafka

    from histgen_lib.bus import _servers
    from histgen_lib.bus._kafka_client import connect

    try:
        connect(kafka.KafkaAdminClient, settings, _servers(settings)).close()
    except FatalError as error:
        if error.code == "bus-refused":
            return False
        raise
    return True
