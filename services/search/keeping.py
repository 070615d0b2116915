"""What the service holds, and the loops that keep it current: the index, the withdrawals, the model.

While a server is away for a while, the service goes on with what it has. But not for longer than it may take
until nobody finds a withdrawn case any more: who cannot ask whether anything is withdrawn does not answer.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace

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

_MODEL_S = 10.0

UNASKED_S = 45.0
"""For so long the store need not have said what is withdrawn. After a minute nobody may find it."""
LATE_S = 10.0
"""An index that is so far behind its storage shows as an outage, though it is searched."""

_log = get_logger()


class Holding:
    """What searches use. The loops replace its parts as a whole; requests read them.

    `searcher`: makes what answers, with an index. `clock`: monotonic seconds.
    """

    def __init__(
        self, searcher: Callable[[CaseIndex], Searcher], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._make, self.clock = searcher, clock
        self._searcher: Searcher | None = None
        self._state: IndexState | None = None
        self._withdrawn: frozenset[str] = frozenset()
        self._asked_at = float("-inf")

    @property
    def searcher(self) -> Searcher:
        """What answers.

        Raises TransientError: "case-index-loading" before there is an index, "withdrawals-unknown".
        """
        if self._searcher is None:
            raise _LOADING
        if self.clock() - self._asked_at > UNASKED_S:
            raise _UNKNOWN
        return self._searcher

    @property
    def state(self) -> IndexState:
        """The index's state as last known. Raises TransientError("case-index-loading")."""
        if self._state is None:
            raise _LOADING
        return self._state

    @property
    def behind_s(self) -> float:
        """Seconds since the index that is searched was known to be current."""
        return self._searcher.index.behind_s() if self._searcher else 0.0

    def take(self, index: CaseIndex, state: IndexState) -> None:
        """Search in this index from now on."""
        self.know(state)
        made = self._make(index)
        self._searcher = replace(made, state=lambda: self.state, withdrawn=lambda: self._withdrawn)

    def know(self, state: IndexState) -> None:
        """Note the state of the index in use, as it is now."""
        self._state = state
        metrics.show_case_index(
            cases=state.cases,
            slides=state.slides,
            regions=state.regions,
            size_bytes=state.size_bytes,
            version=state.version,
        )

    def leave_out(self, owners: frozenset[str], asked_at: float) -> None:
        """Note whose reports are withdrawn, by the store when it was asked (by the clock)."""
        self._withdrawn, self._asked_at = owners, asked_at

    def close(self) -> None:
        """Release the index."""
        if self._searcher:
            self._searcher.index.close()


class _Keeping(Loop):
    """A loop that looks at a server again and again.

    An outage shows at once. It keeps the service from being ready before the server was ever there, and
    again after `patience_s` without it.
    """

    patience_s = float("inf")

    def __init__(self, context: LoopContext, clock: Callable[[], float], every_s: float) -> None:
        super().__init__(context)
        self._clock, self._every_s = clock, every_s
        self._met_at: float | None = None
        self._trouble = ""

    @abstractmethod
    def look(self) -> None:
        """Look once, in a thread of its own. Raises TransientError while the server is away."""

    def turn(self) -> None:
        """Look until the stop."""
        while True:
            try:
                self.background(self.look)
            except TransientError as error:
                self._miss(error)
            else:
                self._met_at, self._trouble = self._clock(), ""
                self._board.has(self.name)
            self.pause(self._every_s)

    def _miss(self, error: TransientError) -> None:
        if error.code != self._trouble:
            _log.warning("A server is not available; searches go on with what is known.", exc_info=error)
        self._trouble = error.code
        metrics.DEPENDENCY_UP.labels(NAME, self.name).set(0)
        if self._met_at is None or self._clock() - self._met_at > self.patience_s:
            self._board.lacks(self.name, error)


class IndexKeeping(_Keeping):
    """Opens the index, and keeps its state at hand. `open_index`: takes as long as reading all vectors."""

    name = "index"

    def __init__(
        self, context: LoopContext, holding: Holding, open_index: Callable[[], CaseIndex], every_s: float
    ) -> None:
        super().__init__(context, holding.clock, every_s)
        self._holding, self._open = holding, open_index
        self._index: CaseIndex | None = None
        metrics.CASE_INDEX_BEHIND.set_function(lambda: holding.behind_s)

    def look(self) -> None:
        """See `_Keeping`."""
        if self._index is None:
            index = self._open()
            self._holding.take(index, index.state())
            self._index = index
        self._holding.know(self._index.state())
        if self._index.behind_s() > LATE_S:
            raise _LATE


class WithdrawalKeeping(_Keeping):
    """Keeps at hand whose reports are withdrawn, so that no search returns them whatever the index says."""

    name = "store"
    patience_s = UNASKED_S

    def __init__(self, context: LoopContext, holding: Holding, store: ObjectStore, every_s: float) -> None:
        super().__init__(context, holding.clock, every_s)
        self._holding, self._store = holding, store

    def look(self) -> None:
        """See `_Keeping`."""
        asked_at = self._clock()
        owners = frozenset(owner.name for owner in withdrawn_owners(self._store))
        self._holding.leave_out(owners, asked_at)


class ModelKeeping(_Keeping):
    """Has the server load the networks, and shows whether it is there.

    Stored slides are compared without it, so nothing waits for it.
    """

    name = "model"

    def __init__(
        self,
        context: LoopContext,
        server: InferenceServer,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = _MODEL_S,
    ) -> None:
        super().__init__(context, clock, every_s)
        self._server, self._warm = server, False
        self._met_at = clock()

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
_UNKNOWN = TransientError(
    "withdrawals-unknown",
    "The store has not said for a while which cases are withdrawn, so none is shown.",
    hint="Check the store; searches are answered again as soon as it is there.",
)
_LATE = TransientError(
    "case-index-unavailable",
    "The case index could not be compared with its storage for a while.",
    hint="Check its storage; what it held is searched meanwhile.",
)
_NO_MODEL = TransientError(
    "inference-unavailable",
    "The retrieval network is not available.",
    hint="Slides that are in the index can be searched for meanwhile.",
)
