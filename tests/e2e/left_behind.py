"""Everything a stream leaves or shows: pages while it runs, files and records once it has stopped."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import httpx
from harness import Stream

PAGES = ("/metrics", "/status", "/healthz", "/readyz")


def pages(stream: Stream, key: dict[str, str]) -> dict[str, bytes]:
    """Return what every service shows of itself with the key."""
    return {
        f"{name} {page}": httpx.get(service.url + page, headers=key, timeout=30).content
        for name, service in stream.services.items()
        for page in PAGES
    }


def left_in(folder: Path, *, but: bytes | None = None) -> dict[str, bytes]:
    """Return each file in a stopped stream's folder, and each record on its bus but those with this body."""
    files = {
        str(path.relative_to(folder.parent)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "bus.db" not in path.name
    }
    with sqlite3.connect(folder / "bus.db") as log:
        rows = log.execute("SELECT topic, position, headers, body FROM record").fetchall()
    return files | {
        f"event {topic}/{at}": headers.encode() + body for topic, at, headers, body in rows if body != but
    }
