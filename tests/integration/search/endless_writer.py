"""A process that writes entries into an index, again and again, until it is killed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.synchronize import Event

from histgen_lib.retrieval import CaseEntry, CaseIndexSettings, open_case_index


def killed_writer(settings: CaseIndexSettings, entries: Sequence[CaseEntry]) -> None:
    """Start one, and kill it after its first write."""
    spawn = multiprocessing.get_context("spawn")
    begun = spawn.Event()
    writer = spawn.Process(target=_write, args=(settings, entries, begun), daemon=True)
    writer.start()
    assert begun.wait(60)
    writer.kill()
    writer.join()


def _write(settings: CaseIndexSettings, entries: Sequence[CaseEntry], begun: Event) -> None:
    index = open_case_index(settings)
    while True:
        for entry in entries:
            index.put([entry])
            begun.set()
