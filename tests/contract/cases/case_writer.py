"""A process that writes to a case index, to be killed: `case_writer.py SETTINGS ACT …`."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from case_entries import MODEL, entry, like

from histgen_lib.errors import FatalError, TransientError
from histgen_lib.retrieval import CaseEntry, CaseIndex, CaseIndexSettings, open_case_index
from histgen_lib.storage import StorageSettings

SLIDES = 12


def put(index: CaseIndex, diary: str, turn: str) -> None:
    """Put slides that others put, too, and withdraw some; note each once it is acknowledged."""
    name, choice = Path(diary).name, random.Random(diary + turn)
    with open(diary, "a", encoding="utf-8") as file:  # noqa: PTH123
        while True:
            slide = f"s{choice.randrange(SLIDES):02}"
            index.put([entry(slide, choice.randrange(1000), text=f"{slide} by {name}")])
            file.write(f"put {slide} .\n")
            gone = f"w-{name}-{choice.randrange(10**9)}"
            index.put([entry(gone, 1)])
            index.withdraw([gone])
            file.write(f"withdrawn {gone} .\n")
            file.flush()


def compact(index: CaseIndex, diary: str) -> None:
    """Compact again and again; others may be at it, or may have been killed at it a moment ago."""
    while True:
        with suppress(TransientError):
            index.compact()
        with open(diary, "a", encoding="utf-8") as file:  # noqa: PTH123
            file.write(".\n")


def die_rebuilding(index: CaseIndex) -> None:
    def entries() -> Iterator[CaseEntry]:
        yield from (entry(f"s{n}", n) for n in range(600))  # more than are written in one go
        os.kill(os.getpid(), signal.SIGKILL)

    index.rebuild(MODEL, entries, progress=lambda _: None)


def fork(index: CaseIndex) -> None:
    index.put([entry("a", 1)])
    if os.fork():
        _, status = os.wait()
        sys.exit(os.waitstatus_to_exitcode(status))
    try:
        index.search(like(entry("q")))
    except FatalError as error:
        os._exit(0 if error.code == "case-index-unusable" else 2)
    os._exit(1)


if __name__ == "__main__":
    opened = open_case_index(CaseIndexSettings(StorageSettings(**json.loads(sys.argv[1]))))
    acts = {"put": put, "compact": compact, "die-rebuilding": die_rebuilding, "fork": fork}
    acts[sys.argv[2]](opened, *sys.argv[3:])
