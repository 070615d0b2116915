"""Who did what: an append-only log in the store, where each entry holds the digest of the one before.

Entries lie at audit/<number>.json, numbered from 1. They hold ids of slides and events, and no URI, text or
code of a slide. An entry that was changed, inserted or removed from among the others breaks the chain. That
its end was cut off, or that all of it was written anew, shows only to those who kept the number and digest of
an entry elsewhere.
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from histgen_lib.catalogue.keys import AUDIT
from histgen_lib.files import canonical_json, sha256_hex
from histgen_lib.storage import JSON, ObjectStore

SCHEMA = 1
_DIGITS = 12
_PARTS = {"schema", "number", "time", "action", "by", "what", "previous", "nonce"}

Action = Literal[
    "submitted", "replayed", "announced-again", "pruned", "repaired", "signed", "withdrawn", "reinstated"
]
What = Mapping[str, str | int]


@dataclass(frozen=True)
class Entry:
    """One act. `by`: who did it; `previous`: the SHA-256 of the entry before, "" for the first.

    `nonce` tells apart the entries of two writers who do the same at the same time.
    """

    number: int
    time: datetime
    action: str
    by: str
    what: What
    previous: str
    nonce: str

    @property
    def key(self) -> str:
        """Its key."""
        return entry_key(self.number)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "schema": SCHEMA,
            "number": self.number,
            "time": self.time.isoformat(),
            "action": self.action,
            "by": self.by,
            "what": dict(self.what),
            "previous": self.previous,
            "nonce": self.nonce,
        }

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.to_json())

    @classmethod
    def from_bytes(cls, data: bytes) -> Entry | None:
        """Read what `to_bytes` wrote; None for anything else."""
        try:
            value = json.loads(data)
            entry = cls(**{**value, "time": datetime.fromisoformat(value["time"])}) if _fits(value) else None
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        return entry if entry and entry.to_bytes() == data else None


def _fits(value: dict[str, Any]) -> bool:
    return set(value) == _PARTS and value.pop("schema") == SCHEMA


class Audit:
    """Appends to the log of a store. Safe to use from several threads; several processes may share a store.

    `now`: UTC. All methods raise what the store raises.
    """

    def __init__(
        self, store: ObjectStore, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._store, self._now, self._lock = store, now, threading.Lock()
        self._end: tuple[int, str] | None = None

    def append(self, action: Action, by: str, what: What) -> Entry:
        """Record what `by` is about to do; durable when this returns."""
        with self._lock:
            while True:
                number, previous = self._end or self._find_end()
                entry = Entry(number + 1, self._now(), action, by, what, previous, secrets.token_hex(8))
                data = entry.to_bytes()
                placed = self._store.put(entry.key, data, content_type=JSON)
                # else it is another writer's, or ours and the answer was lost
                stored = data if placed else self._store.find(entry.key)
                self._end = (entry.number, sha256_hex(stored)) if stored is not None else None
                if stored == data:
                    return entry

    def _find_end(self) -> tuple[int, str]:
        """Find the last entry without listing all: they are numbered without a gap."""
        last, step = 0, 1
        while self._has(last + step):
            last, step = last + step, step * 2
        while step := step // 2:
            last += step if self._has(last + step) else 0
        return last, sha256_hex(self._store.get(entry_key(last))) if last else ""

    def _has(self, number: int) -> bool:
        return self._store.head(entry_key(number)) is not None


@dataclass(frozen=True)
class Verdict:
    """What `verify` found: the number of entries, the last one's number and digest, and what is wrong where.

    `faults`: (key, "missing" | "unreadable" | "not-chained" | "stranger" | "not-expected").
    """

    entries: int = 0
    number: int = 0
    digest: str = ""
    faults: list[tuple[str, str]] = field(default_factory=list)

    @property
    def head(self) -> str:
        """The end of the chain, to be kept where those who can write the store cannot write."""
        return f"{self.number}:{self.digest}"


def entries(store: ObjectStore) -> Iterator[tuple[str, bytes]]:
    """Yield key and bytes of each object in the log, by number."""
    for info in store.list(AUDIT):
        if (data := store.find(info.key)) is not None:  # else removed since it was listed
            yield info.key, data


def verify(store: ObjectStore, *, expected: Mapping[int, str] | None = None) -> Verdict:
    """Check the whole log. `expected`: digests that entries had at an earlier time, by number."""
    unseen, faults = dict(expected or {}), list[tuple[str, str]]()
    count, number, digest = 0, 0, ""
    for key, data in entries(store):
        at = _number(key)
        if at is None:
            faults.append((key, "stranger"))
            continue
        if at != number + 1:
            faults.append((entry_key(number + 1), "missing"))
        faults += [(key, fault) for fault in _faults(at, data, digest if at == number + 1 else None)]
        count, number, digest = count + 1, at, sha256_hex(data)
        if unseen.pop(at, digest) != digest:
            faults.append((key, "not-expected"))
    faults += [(entry_key(at), "missing") for at in sorted(unseen)]
    return Verdict(count, number, digest, faults)


def _faults(number: int, data: bytes, previous: str | None) -> Iterator[str]:
    """Yield what is wrong with an entry. `previous`: the digest of the one before, if that is there."""
    entry = Entry.from_bytes(data)
    if entry is None or entry.number != number:
        yield "unreadable"
    elif previous is not None and entry.previous != previous:
        yield "not-chained"


def entry_key(number: int) -> str:
    """Return the key of the entry with this number."""
    return f"{AUDIT}{number:0{_DIGITS}d}.json"


def _number(key: str) -> int | None:
    name = key.removeprefix(AUDIT).removesuffix(".json")
    return int(name) if name.isdecimal() and name.isascii() and key == entry_key(int(name)) else None


def this_account() -> str:
    """Return the name of the account that this process runs as, for `by`."""
    return account(os.geteuid())


def account(uid: int) -> str:
    """Return the name and uid of an account of this machine."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:  # in a container
        return f"uid {uid}"
