"""Stand-ins for the stream's surroundings, in this process: a broker, an object store, a model server.

They keep the same contracts as the real ones (tests/contract runs the same suites on all), start at once and
leave nothing behind. Use them to test code that publishes, stores or infers. There is a case index, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histgen_lib.lazy import lazily

if TYPE_CHECKING:
    from histgen_lib.testing.bus import MemoryBus
    from histgen_lib.testing.cases import MemoryCaseIndex
    from histgen_lib.testing.inference import FakeInference
    from histgen_lib.testing.storage import MemoryStore

__all__ = ["FakeInference", "MemoryBus", "MemoryCaseIndex", "MemoryStore"]

__getattr__ = lazily(
    __name__,
    {"bus": "MemoryBus", "cases": "MemoryCaseIndex", "inference": "FakeInference", "storage": "MemoryStore"},
)
