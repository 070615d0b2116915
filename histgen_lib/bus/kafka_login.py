"""Access to Kafka: settings with a password from a file, and users created in a broker."""

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
"""Neither side of a connection sends the password, and each proves that it knows it (RFC 5802): a program
that took over a broker's port learns nothing, and cannot pass for the broker."""
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
            "required, in ASCII and at most 4,096 bytes.",
            hint='For example {"sasl_plain_username": "histgen", "sasl_plain_password": "…"}, with mode 600.',
        )
    return found


def kafka_settings(
    settings: Mapping[str, str | int | bool], file: Path | None
) -> tuple[tuple[str, str | int | bool], ...]:
    """Return `BusSettings.kafka`: `settings`, completed and overridden by those in a file.

    The addresses of servers are left out. Raises as `read_kafka_file`.
    """
    found = {**settings, **(read_kafka_file(file) if file else {})}
    return tuple(sorted((name, value) for name, value in found.items() if name != SERVERS))


def _usable(found: object) -> TypeGuard[KafkaSettings]:
    return isinstance(found, dict) and all(
        isinstance(value, int) or (isinstance(value, str) and "\ufffd" not in value)
        for value in found.values()
    )


def make_user(settings: BusSettings, user: str, password: str) -> None:
    """Create a user who logs in to a broker by `MECHANISM`, or change the password of an existing one.

    Raises TransientError("bus-unavailable") and as `open_publisher`.
    """
    import kafka
    from kafka.admin import UserScramCredentialUpsertion
    from kafka.errors import KafkaError

    from histgen_lib.bus import _servers
    from histgen_lib.bus._kafka_client import connect, talking

    credential = UserScramCredentialUpsertion(user, MECHANISM, password)
    admin = connect(kafka.KafkaAdminClient, settings, _servers(settings))
    with talking(), contextlib.closing(admin):
        errors = admin.alter_user_scram_credentials([credential])
        if errors.get(user) is not None:
            raise KafkaError("The broker creates no user.")


def let_in(settings: BusSettings) -> bool:
    """Return whether a broker accepts these settings. Raises TransientError("bus-unavailable")."""
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
