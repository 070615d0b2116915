"""One verification of a store: walks it to the end, however often it is stopped, and notes the damage."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from histgen_lib.catalogue.damage import Damage, forget, note, notes
from histgen_lib.catalogue.objects import JSON
from histgen_lib.catalogue.verifying import Tally, walk
from histgen_lib.files import sealed_json, unsealed
from histgen_lib.storage import ObjectStore

CURSOR, LAST = "verify/cursor.json", "verify/last.json"
_SAVE_S = 5.0


@dataclass
class Progress:
    """How far a verification is. `after`: the key up to which all is looked at; times: seconds since 1970."""

    began_at: float
    seconds: float = 0.0
    after: str = ""


class Verification:
    """Goes on with one that was stopped, unless it is to begin `anew`. `now`: seconds since 1970.

    `healed`: once it has run, whose objects are damaged no more.
    """

    def __init__(
        self, store: ObjectStore, *, anew: bool = False, now: Callable[[], float] = time.time
    ) -> None:
        self._store, self._now = store, now
        saved = None if anew else _read(store.find(CURSOR))
        self.resumed = saved is not None
        self.healed: set[str] = set()
        self.progress, self.tally = saved or (Progress(now()), Tally())

    def run(self) -> Generator[list[Damage], None, None]:
        """Yield, step by step, what is damaged. Raises as the store; what was done by then is kept."""
        began, saved_s, start = time.monotonic(), self.progress.seconds, self.progress.after
        found: set[str] = set()
        save_at = began + _SAVE_S
        try:
            for after, damages in walk(self._store, self.tally, after=start):
                for damage in damages:
                    note(self._store, damage)
                    found.add(damage.key)
                self.progress.after = after
                self.progress.seconds = saved_s + time.monotonic() - began
                if time.monotonic() > save_at:
                    self._save(CURSOR)
                    save_at = time.monotonic() + _SAVE_S
                yield damages
        except BaseException:
            self._save(CURSOR)
            raise
        for damage in [one for one in notes(self._store) if one.key > start and one.key not in found]:
            forget(self._store, damage)
            self.healed |= {damage.owner} - {""}
        self._save(LAST)
        self._store.delete(CURSOR)

    def summary(self) -> dict[str, Any]:
        """Return what is to be told of it, as JSON values."""
        tally = self.tally
        return {
            "objects": tally.objects,
            "size_bytes": tally.size_bytes,
            "undigested": tally.undigested,
            "damaged": dict(sorted(tally.damaged.items())),
            "seconds": round(self.progress.seconds, 3),
        }

    def _save(self, key: str) -> None:
        told = vars(self.progress) | vars(self.tally) | {"damaged": dict(self.tally.damaged)}
        state = {"schema": 1, **told, "at": self._now()}
        self._store.put(key, sealed_json(state), if_absent=False, content_type=JSON)


def _read(data: bytes | None) -> tuple[Progress, Tally] | None:
    try:
        value = unsealed(data or b"")
        tally = Tally(
            int(value["objects"]),
            int(value["size_bytes"]),
            int(value["undigested"]),
            Counter({str(kind): int(count) for kind, count in value["damaged"].items()}),
        )
        return Progress(float(value["began_at"]), float(value["seconds"]), str(value["after"])), tally
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
