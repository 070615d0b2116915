"""What the service holds, and the loops that keep it current: the index, the withdrawals, the model.

None of them stands between a question and its answer. While a server is away, the service goes on with what
it has; only before it has anything is it not ready.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

from histgen_lib.catalogue.signing import withdrawn_owners
from histgen_lib.errors import TransientError
from histgen_lib.inference import InferenceServer
from histgen_lib.retrieval import CaseIndex, IndexState
from histgen_lib.retrieval.encoding import IMAGE, TEXT
from histgen_lib.retrieval.searching import Searcher
from histgen_lib.runtime.loops import Loop, LoopContext
from histgen_lib.storage import ObjectStore
from histgen_lib.telemetry import get_logger, metrics
from services.search import NAME

WITHDRAWALS_S = 15.0
"""How often the store is asked what was withdrawn: a quarter of the minute after which nobody may find it."""
_MODEL_S = 10.0

_log = get_logger()


@dataclass(frozen=True)
class _Known:
    """The index' state, and when (monotonic seconds) it was last known to be current."""

    state: IndexState
    at: float


class Holding:
    """What searches use. The loops replace its parts as a whole; requests read them.

    `searcher`: what it is to have, with any index. `clock`: monotonic seconds.
    """

    def __init__(self, searcher: Callable[[CaseIndex], Searcher], clock: Callable[[], float]) -> None:
        self._make, self._clock = searcher, clock
        self._searcher: Searcher | None = None
        self._known: _Known | None = None
        self.withdrawn: frozenset[str] = frozenset()

    @property
    def searcher(self) -> Searcher:
        """What answers. Raises TransientError("case-index-loading") before there is an index."""
        if self._searcher is None:
            raise _LOADING
        return self._searcher

    @property
    def state(self) -> IndexState:
        """The index' state as last known. Raises as `searcher`."""
        if self._known is None:
            raise _LOADING
        return self._known.state

    @property
    def behind_s(self) -> float:
        """Seconds since the index that is searched was known to be current."""
        return self._clock() - self._known.at if self._known else 0.0

    def take(self, index: CaseIndex, state: IndexState) -> None:
        """Search in this index from now on."""
        self.know(state)
        made = self._make(index)
        self._searcher = replace(made, state=lambda: self.state, withdrawn=lambda: self.withdrawn)

    def know(self, state: IndexState) -> None:
        """Note the state of the index in use, as it is now."""
        self._known = _Known(state, self._clock())
        metrics.show_case_index(
            cases=state.cases,
            slides=state.slides,
            regions=state.regions,
            size_bytes=state.size_bytes,
            version=state.version,
        )

    def close(self) -> None:
        """Release the index."""
        if self._searcher:
            self._searcher.index.close()


class _Keeping(Loop):
    """A loop that looks at a server again and again. Once it has seen it, an outage is shown, no more."""

    seen = False

    def __init__(self, context: LoopContext, every_s: float) -> None:
        super().__init__(context)
        self._every_s, self._away = every_s, ""

    @abstractmethod
    def look(self) -> None:
        """Look once, in a thread of its own."""

    def turn(self) -> None:
        """Look, then pause. Raises TransientError if the server was never there."""
        try:
            self.background(self.look)
        except TransientError as error:
            if not self.seen:
                raise
            self._show(error)
        else:
            self.seen = True
            self._show(None)
        self.pause(self._every_s)

    def _show(self, error: TransientError | None) -> None:
        metrics.DEPENDENCY_UP.labels(NAME, self.name).set(0 if error else 1)
        code = error.code if error else ""
        if error and code != self._away:
            _log.warning("A server is not available; searches go on with what is known.", exc_info=error)
        self._away = code


class IndexKeeping(_Keeping):
    """Opens the index, and keeps its state at hand. `open_index`: takes as long as reading all vectors."""

    name = "index"

    def __init__(
        self, context: LoopContext, holding: Holding, open_index: Callable[[], CaseIndex], every_s: float
    ) -> None:
        super().__init__(context, every_s)
        self._holding, self._open = holding, open_index
        self._index: CaseIndex | None = None
        metrics.CASE_INDEX_BEHIND.set_function(lambda: holding.behind_s)

    def look(self) -> None:
        """See `_Keeping`."""
        if self._index is None:
            self._index = self._open()
        state = self._index.state()
        if self.seen:
            self._holding.know(state)
        else:
            self._holding.take(self._index, state)


class WithdrawalKeeping(_Keeping):
    """Keeps at hand whose reports are withdrawn, so that no search returns them whatever the index says.

    While the store does not answer nothing can be withdrawn either: that begins with an object in it.
    """

    name = "store"

    def __init__(self, context: LoopContext, holding: Holding, store: ObjectStore, every_s: float) -> None:
        super().__init__(context, every_s)
        self._holding, self._store = holding, store

    def look(self) -> None:
        """See `_Keeping`."""
        self._holding.withdrawn = frozenset(owner.name for owner in withdrawn_owners(self._store))


class ModelKeeping(_Keeping):
    """Has the server load the networks, and shows whether it is there.

    Stored slides are compared without it, so it is never waited for.
    """

    name = "model"
    seen = True

    def __init__(self, context: LoopContext, server: InferenceServer, every_s: float = _MODEL_S) -> None:
        super().__init__(context, every_s)
        self._server, self._warm = server, False

    def look(self) -> None:
        """See `_Keeping`."""
        if not self._warm:
            for name in (TEXT, IMAGE):
                self._server.warm(name)
            self._warm = True
        if not all(map(self._server.ready, (TEXT, IMAGE))):
            raise _NO_MODEL


_LOADING = TransientError(
    "case-index-loading",
    "The case index is not loaded yet.",
    hint="Search again in a few seconds; /readyz says what is missing.",
)
_NO_MODEL = TransientError(
    "inference-unavailable",
    "The retrieval network is not available.",
    hint="Slides that are in the index can be searched for meanwhile.",
)
CLOCK = time.monotonic
