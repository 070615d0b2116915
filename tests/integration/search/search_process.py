"""A real search service in a process of its own, on an index and a store in folders or in S3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from service_access import bearer_of
from waiting import until

from histgen_lib.retrieval import CaseIndex, CaseIndexSettings, open_case_index
from histgen_lib.stack.children import dying_with_parent
from histgen_lib.storage import ObjectStore, StorageSettings, open_store

ROOT = Path(__file__).resolve().parents[3]


class SearchProcess:
    """One service. `index`, `store`: where they are; folders of `home` if None."""

    def __init__(
        self,
        home: Path,
        model: Path,
        *,
        index: StorageSettings | None = None,
        store: StorageSettings | None = None,
        **settings: Any,
    ) -> None:
        self.home, self.log = home, home / "search.log"
        self.index_at = index or StorageSettings(f"file:{home}/index")
        self.store_at = store or StorageSettings(f"file:{home}/store")
        values = {
            "bus": f"embedded:{home}/bus.db",
            "store": self.store_at.url,
            "store_endpoint": self.index_at.endpoint or self.store_at.endpoint or "",
            "store_region": self.index_at.region or self.store_at.region or "",
            "case_index": self.index_at.url,
            "model": model,
            "inference": "onnx",
            "threads": 1,
            "run_dir": home / "run",
            "token_file": home / "token",
            "search_look_s": 0.1,
            "search_withdrawals_s": 0.2,
        }
        self._environment = {f"HISTGEN_{k.upper()}": str(v) for k, v in (values | settings).items()}
        self._token = Path(str((values | settings)["token_file"]))
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def store(self) -> ObjectStore:
        return open_store(self.store_at)

    def open_index(self) -> CaseIndex:
        """Open the index as another process would."""
        return open_case_index(CaseIndexSettings(self.index_at))

    def start(self) -> SearchProcess:
        """Start it; return when it is ready."""
        settings = {name: value for name, value in os.environ.items() if not name.startswith("HISTGEN_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                dying_with_parent([sys.executable, "-m", "services.search"]),
                env=settings | self._environment | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.url = until(self._announced, 60, f"the service listens, see {self.log}")
        until(lambda: self.get("/readyz").status_code == 200, 60, f"it is ready, see {self.log}")
        return self

    def ask(self, **asked: Any) -> httpx.Response:
        """POST /search."""
        headers = bearer_of(self._token)
        return httpx.post(f"{self.url}/search", json=asked, headers=headers, timeout=60)

    def found(self, **asked: Any) -> list[dict[str, Any]]:
        """Return the hits of a search that succeeds."""
        answer = self.ask(**asked)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["hits"])

    def get(self, path: str, **more: Any) -> httpx.Response:
        return httpx.get(self.url + path, headers=bearer_of(self._token), timeout=60, **more)

    def stop(self) -> int:
        """Ask it to stop; return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _announced(self) -> str:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        path = self.home / "run" / f"search-{self._process.pid}.json"
        return str(json.loads(path.read_text())["url"]) if path.exists() else ""
