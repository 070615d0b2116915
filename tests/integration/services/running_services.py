"""Services as real processes, for the tests of this folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from service_access import bearer_of
from waiting import until

from histgen_lib.bus import BusSettings, open_publisher
from histgen_lib.events import Event
from histgen_lib.stack.children import dying_with_parent
from histgen_lib.storage import StorageSettings, open_store

MINUTES_S = 180.0


class Services:
    """Tiler and reporter, or one of them, over an embedded broker and a folder; `settings`: HISTGEN_ ones."""

    def __init__(
        self, folder: Path, model_dir: Path, names: Sequence[str] = ("tiler", "reporter"), **settings: str
    ) -> None:
        self.folder = folder
        self.bus, self.store_url = f"embedded:{folder / 'bus.db'}", f"file:{folder / 'store'}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HISTGEN_")},
            "HISTGEN_BUS": self.bus,
            "HISTGEN_STORE": self.store_url,
            "HISTGEN_MODEL": str(model_dir),
            "HISTGEN_THREADS": "1",
            "HISTGEN_RUN_DIR": str(folder / "run"),
            "HISTGEN_ROOTS": str(folder),
            "HISTGEN_TOKEN_FILE": str(folder / "token"),
            "OMP_NUM_THREADS": "1",
            **{f"HISTGEN_{name.upper()}": value for name, value in settings.items()},
        }
        self.store = open_store(StorageSettings(self.store_url))
        self.processes = {name: self.start(name) for name in names}

    def start(self, name: str, **changes: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            command = dying_with_parent([sys.executable, "-m", f"services.{name}"])
            return subprocess.Popen(command, env=self.environment | changes, stdout=log, stderr=log)

    def publish(self, *events: Event) -> None:
        publisher = open_publisher(BusSettings(self.bus))
        for event in events:
            publisher.publish(event.type, event.key, event)
        publisher.close()

    def url(self, name: str) -> str:
        found = until(
            lambda: list((self.folder / "run").glob(f"{name}-*.json")), MINUTES_S, f"{name} listens"
        )
        return str(json.loads(found[0].read_text())["url"])

    def get(self, name: str, path: str) -> str:
        request = urllib.request.Request(self.url(name) + path, headers=bearer_of(self.folder / "token"))
        with urllib.request.urlopen(request, timeout=30) as response:
            return str(response.read().decode())

    def drafted(self, owner: str) -> bool:
        keys = (f"{room}/{owner}/latest.json" for room in ("reports", "case-reports"))
        return any(self.store.head(key) for key in keys)

    def stop(self) -> list[int]:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        return [process.wait(60) for process in self.processes.values()]

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
