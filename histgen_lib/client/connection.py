"""Finding a stack: one that lives in a folder of this machine, or a store and a broker by URL."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from histgen_lib.bus import BusSettings
from histgen_lib.bus.kafka_login import SERVERS, kafka_settings, read_kafka_file
from histgen_lib.catalogue.index import Index, open_index, store_name
from histgen_lib.client.api import CA_FILE, get_json, post_json
from histgen_lib.client.home import StackHome, default_home
from histgen_lib.errors import FatalError, TransientError
from histgen_lib.runtime.web.guard import is_loopback
from histgen_lib.secret import read_secret
from histgen_lib.storage import ObjectStore, StorageSettings, open_store


@dataclass(frozen=True)
class Target:
    """Which stack a person means, by the options of the command line."""

    home: Path | None = None
    store: str | None = None
    store_endpoint: str | None = None
    bus: str | None = None
    gateway: str | None = None


@dataclass(frozen=True)
class Connection:
    """How to reach a stack. `home`: its folder, if it is on this machine.

    `gateway`, `bus` and `token_file` (the gateway's token) are None, and `roots` (what slides may be taken
    from) is empty, if unknown. `ca_file`: PEM file of the authorities trusted for the gateway's certificate;
    the system's if None.
    """

    storage: StorageSettings
    bus: BusSettings | None
    gateway: str | None
    home: StackHome | None = None
    token_file: Path | None = None
    roots: tuple[str, ...] = ()
    ca_file: Path | None = None

    @property
    def run_dir(self) -> Path | None:
        """Where its services announce themselves; None if it does not run on this machine."""
        return self.home.run_dir if self.home and self.home.running() else None

    def store(self) -> ObjectStore:
        """Open its store."""
        return open_store(self.storage)

    def token(self) -> str | None:
        """Return the gateway's token; None if we have none.

        Raises FatalError: "token-unreadable" and as `read_secret`.
        """
        return _read_token(self.token_file)

    def index(self) -> Index | None:
        """Open the index of its slides; None if there is none that can be read."""
        return open_index(self.home.index_path, store_name(self.storage)) if self.home else None

    def touch_index(self, slide_ids: Iterable[str]) -> None:
        """Mark slides as changed in the index, if there is one: its keeper did not see the change."""
        if index := self.index():
            with closing(index), suppress(sqlite3.Error):  # it finds them when it next lists the store
                index.touch(slide_ids)

    def need_bus(self) -> BusSettings:
        """Return the broker. FatalError("bus-unstated") if it is unknown."""
        if self.bus is None:
            raise FatalError(
                "bus-unstated",
                "The broker of this store is unknown.",
                hint="Name it with --bus or HISTGEN_BUS.",
            )
        return self.bus

    def need_gateway(self) -> str:
        """Return the URL of the gateway. TransientError("stack-not-running") if there is none now."""
        if self.gateway is None or (self.home and not self.home.running()):
            raise not_running(self.home)
        return self.gateway


@dataclass(frozen=True)
class RemoteGateway:
    """A gateway whose store and broker are out of reach, or none of the client's business."""

    url: str
    token_file: Path | None
    ca_file: Path | None

    def token(self) -> str | None:
        """See `Connection.token`."""
        return _read_token(self.token_file)

    def post(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """POST to it. Raises as `post_json` and `token`."""
        return post_json(f"{self.url.rstrip('/')}{path}", body, self.token(), ca_file=self.ca_file)

    def get(self, path: str) -> Any:
        """GET a quick answer. Raises OSError, ValueError, and as `token`."""
        return get_json(f"{self.url.rstrip('/')}{path}", self.token() or "", ca_file=self.ca_file)


def remote_gateway(url: str, environment: Mapping[str, str]) -> RemoteGateway:
    """Return a gateway, or any service, by its URL alone."""
    return RemoteGateway(url, _token_file(url, None, environment), _ca_file(environment))


_TOKEN = re.compile(r"[!-~]+")
"""A header can carry nothing else; anything longer than a line is not a token."""


def _read_token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        token = read_secret(path)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if not _TOKEN.fullmatch(token):
        raise _unreadable(path, "it does not hold one token and nothing else")
    return token


def _unreadable(path: Path, why: str) -> FatalError:
    return FatalError(
        "token-unreadable",
        f"The gateway's token cannot be read from {path}: {why}.",
        hint="Run this from the account that started the stack; or copy the token to a file of this "
        "account (mode 600), and name that file in HISTGEN_TOKEN_FILE.",
    )


def _ca_file(environment: Mapping[str, str]) -> Path | None:
    path = environment.get(CA_FILE)
    return Path(path) if path else None


def connect(target: Target, environment: Mapping[str, str]) -> Connection:
    """Find a stack: by the target's URLs, else in its folder, else by HISTGEN_STORE and HISTGEN_BUS.

    Raises TransientError("stack-not-running") if there is none; FatalError: "store-unstated",
    "settings-invalid".
    """
    if target.store or (target.gateway and target.home is None):
        return _remote(target, environment)
    home = StackHome(target.home or default_home(environment))
    if record := home.read():
        storage = StorageSettings(
            record.store, record.store_endpoint, environment.get("HISTGEN_STORE_REGION")
        )
        bus = _bus(target.bus or record.bus, environment, home)
        gateway = target.gateway or record.gateway
        token_file = home.token_path if gateway == record.gateway else _token_file(gateway, home, environment)
        ca_file = _ca_file(environment)
        return Connection(storage, bus, gateway, home, token_file, record.roots, ca_file)
    if target.home is None and environment.get("HISTGEN_STORE"):
        return _remote(target, environment)
    raise not_running(home)


def not_running(home: StackHome | None) -> TransientError:
    """Return the error that no stack runs there."""
    return TransientError(
        "stack-not-running",
        f"No stack runs in {home.folder}." if home else "No gateway is known.",
        hint="Start one with histgen up, or name another folder with --home; --help lists the options for "
        "remote stacks.",
    )


def _remote(target: Target, environment: Mapping[str, str]) -> Connection:
    store = target.store or environment.get("HISTGEN_STORE")
    endpoint = target.store_endpoint or environment.get("HISTGEN_STORE_ENDPOINT") or None
    bus = target.bus or environment.get("HISTGEN_BUS")
    if not store:
        raise FatalError(
            "store-unstated",
            "The store of this gateway is unknown.",
            hint="Name it with --store or HISTGEN_STORE.",
        )
    storage = StorageSettings(store, endpoint, environment.get("HISTGEN_STORE_REGION") or None)
    gateway = target.gateway or environment.get("HISTGEN_GATEWAY") or None
    token_file = _token_file(gateway, None, environment)
    return Connection(
        storage,
        _bus(bus, environment) if bus else None,
        gateway,
        token_file=token_file,
        ca_file=_ca_file(environment),
    )


def _token_file(gateway: str | None, home: StackHome | None, environment: Mapping[str, str]) -> Path | None:
    """Return where the token for a gateway lies. A home's own token never leaves this machine."""
    if path := environment.get("HISTGEN_TOKEN_FILE"):
        return Path(path)
    if gateway is None or not _on_this_machine(gateway):
        return None
    token = (home or StackHome(default_home(environment))).token_path
    return token if token.exists() else None


def _on_this_machine(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


def _bus(url: str, environment: Mapping[str, str], home: StackHome | None = None) -> BusSettings:
    """Make the broker's settings, with TLS and SASL from the variables that services read.

    A home's own login is used for the Kafka that was started in it, and for no other. Raises FatalError:
    "settings-invalid" and as `kafka_settings`.
    """
    if home and _is_own(url, home.kafka_client_path):
        return BusSettings(url, kafka=kafka_settings({}, home.kafka_client_path))
    try:
        settings = dict(json.loads(environment.get("HISTGEN_KAFKA") or "{}"))
    except (ValueError, TypeError):
        raise FatalError(
            "settings-invalid",
            "HISTGEN_KAFKA is not a JSON object.",
            hint='Write it like {"security_protocol": "SSL", "ssl_cafile": "/etc/ssl/lab.pem"}.',
        ) from None
    file = environment.get("HISTGEN_KAFKA_FILE")
    return BusSettings(url, kafka=kafka_settings(settings, Path(file) if file else None))


def _is_own(url: str, client: Path) -> bool:
    """Return whether that is the Kafka that was started in a home."""
    return client.exists() and url == f"kafka://{read_kafka_file(client).get(SERVERS)}"
