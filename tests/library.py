"""Librarians as real processes, over a real index, store and broker; a test may kill them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from histgen_lib.bus import BusSettings, open_publisher
from histgen_lib.catalogue.sign_off import SignOff
from histgen_lib.events import Event
from histgen_lib.retrieval import CaseEntry, CaseIndex, CaseIndexSettings, open_case_index
from histgen_lib.stack.children import dying_with_parent
from histgen_lib.storage import ObjectStore, StorageSettings, open_store

MINUTES_S = 180.0


@dataclass
class Library:
    """What the librarians of a lab need, which lies in `folder`; the index, too, unless `index_at` says."""

    folder: Path
    model: Path
    bus: BusSettings
    index_at: StorageSettings | None = None
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def store(self) -> ObjectStore:
        return open_store(StorageSettings(f"file:{self.folder / 'store'}"))

    @property
    def index_settings(self) -> StorageSettings:
        return self.index_at or StorageSettings(f"file:{self.folder / 'index'}")

    def index(self) -> CaseIndex:
        return open_case_index(CaseIndexSettings(self.index_settings))

    def entry(self, slide_id: str) -> CaseEntry | None:
        with closing(self.index()) as opened:
            return opened.find(slide_id)

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start a librarian."""
        outside = {name: value for name, value in os.environ.items() if not name.startswith("HISTGEN_")}
        ours = {
            "HISTGEN_BUS": self.bus.url,
            "HISTGEN_BUS_PARTITIONS": str(self.bus.partitions),
            "HISTGEN_BUS_SESSION_S": str(self.bus.session_s),
            "HISTGEN_STORE": f"file:{self.folder / 'store'}",
            "HISTGEN_STORE_ENDPOINT": self.index_settings.endpoint or "",
            "HISTGEN_STORE_REGION": self.index_settings.region or "",
            "HISTGEN_CASE_INDEX": self.index_settings.url,
            "HISTGEN_MODEL": str(self.model),
            "HISTGEN_THREADS": "1",
            "HISTGEN_TOKEN_FILE": str(self.folder / "token"),
        }
        command = dying_with_parent([sys.executable, "-P", "-m", "services.librarian"])
        with (self.folder / f"librarian-{len(self.running)}.log").open("wb") as log:
            process = subprocess.Popen(command, env=outside | ours | environment, stdout=log, stderr=log)
        self.running.append(process)
        return process

    def publish(self, *events: Event) -> None:
        with closing(open_publisher(self.bus)) as publisher:
            for event in events:
                publisher.publish(event.type, event.key, event)

    def sign_off(self, act: Callable[[SignOff], object]) -> None:
        """Have somebody sign or withdraw."""
        with closing(open_publisher(self.bus)) as publisher:
            act(SignOff(self.store, publisher))

    def kill(self) -> None:
        """End all librarians at once."""
        for process in self.running:
            process.kill()
            process.wait(MINUTES_S)
