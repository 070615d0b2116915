"""A real gateway in a process of its own, by default on the embedded broker and a folder."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from service_access import bearer_of
from waiting import until

from histgen_lib.bus import BusSettings, open_subscription
from histgen_lib.errors import TransientError
from histgen_lib.events import DEAD_LETTER, SLIDE_SCANNED, Event
from histgen_lib.stack.children import dying_with_parent
from histgen_lib.storage import ObjectStore, StorageSettings, open_store

ROOT = Path(__file__).resolve().parents[3]
SERVICE = ("-m", "services.gateway")


class GatewayProcess:
    """One gateway. `folder` is a root, and is watched if `watch` is true."""

    def __init__(self, home: Path, *, watch: bool = False, **settings: Any) -> None:
        self.folder = home / "scans"
        self.folder.mkdir(exist_ok=True)
        self.home, self.log = home, home / "gateway.log"
        values = {
            "bus": f"embedded:{home}/bus.db",
            "store": f"file:{home}/store",
            "roots": str(self.folder),
            "run_dir": home / "run",
            "token_file": home / "token",
            "settle_s": 0.3,
            "look_s": 0.1,
            "notifications": "",
        }
        values |= ({"watch": self.folder} if watch else {}) | settings
        self._environment = {f"HISTGEN_{name.upper()}": str(value) for name, value in values.items()}
        self.bus = BusSettings(str(values["bus"]))
        self.url, self.verify = "", True if "tls_cert" not in values else _trusting(home / "ca.crt")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, program: tuple[str, ...] = SERVICE) -> GatewayProcess:
        """Start it; return when it listens."""
        settings = {name: value for name, value in os.environ.items() if not name.startswith("HISTGEN_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                dying_with_parent([sys.executable, *program]),
                env=settings | self._environment | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.url = until(self._announced, 60, f"the gateway listens, see {self.log}")
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def terminate(self) -> None:
        """Ask it to stop, as a supervisor does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = 30) -> int:
        """Wait for its end; return the exit code."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def store(self) -> ObjectStore:
        return open_store(
            StorageSettings(
                self._environment["HISTGEN_STORE"],
                endpoint=self._environment.get("HISTGEN_STORE_ENDPOINT"),
                region=self._environment.get("HISTGEN_STORE_REGION"),
            )
        )

    @property
    def key(self) -> dict[str, str]:
        """The header with its token."""
        return bearer_of(self.home / "token")

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        options = {"headers": self.key, "verify": self.verify, "timeout": 30} | more
        return httpx.post(self.url + path, json=body, **options)

    def slide(self, path: Path, **more: Any) -> httpx.Response:
        return self.post("/slides", {"uri": path.as_uri(), **more})

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=10, headers=self.key, verify=self.verify)

    def lines(self) -> list[dict[str, Any]]:
        """Read its log; every line is JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def _announced(self) -> str:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        path = self.home / "run" / f"gateway-{self.pid}.json"
        return json.loads(path.read_text())["url"] if path.exists() else ""


def _trusting(authority: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority)


class Listener:
    """Consumes every event of a topic."""

    def __init__(self, bus: BusSettings, topic: str = SLIDE_SCANNED, group: str = "listener") -> None:
        self._subscription = open_subscription(bus, topic, group)
        self.events: list[Event] = []

    def hear(self) -> list[Event]:
        """Consume what is there now; return all events so far."""
        try:
            while delivery := self._subscription.next(0.2):
                self.events += [delivery.event] if delivery.event else []
                self._subscription.done(delivery)
        except TransientError:
            pass
        return self.events

    def until_heard(self, count: int, timeout_s: float = 30) -> list[Event]:
        """Wait for that many events in all."""
        return until(lambda: len(self.hear()) >= count and self.events, timeout_s, f"{count} events")

    def close(self) -> None:
        self._subscription.close()


def letters(bus: BusSettings, group: str = "letters") -> Listener:
    """Listen to dead letters."""
    return Listener(bus, DEAD_LETTER, group)
