"""How far a verification is, and what it has counted: kept in the store, so that one that stops can go on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from histgen_lib.files import unsealed


@dataclass
class Progress:
    """How far a verification is. `after`: the key up to which all is checked; times: seconds since 1970."""

    began_at: float
    seconds: float = 0.0
    after: str = ""


@dataclass
class Tally:
    """What was checked so far. `undigested`: objects whose digest no version wrote down."""

    objects: int = 0
    size_bytes: int = 0
    undigested: int = 0
    damaged: Counter[str] = field(default_factory=Counter)


def state_json(progress: Progress, tally: Tally, at: float) -> dict[str, Any]:
    """Return both as JSON values. `at`: seconds since 1970."""
    return {"schema": 1, **vars(progress), **vars(tally), "damaged": dict(tally.damaged), "at": at}


def read_state(data: bytes | None) -> tuple[Progress, Tally] | None:
    """Read what `state_json` returned, sealed; None for anything else."""
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
