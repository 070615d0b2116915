"""What the gateway shows of itself, beside what every worker shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, get_args

from histgen_lib.runtime.board import Board
from histgen_lib.telemetry import metrics
from services.gateway.codes import GATEWAY, REFUSALS
from services.gateway.submission import Via

NAME = "gateway"


class Turning(Protocol):
    """A loop, as far as it is shown. `waiting`: slides it knows of that are not dealt with."""

    @property
    def waiting(self) -> int:
        """Count them."""
        ...

    def live(self) -> bool:
        """Tell whether it turned lately."""
        ...


@dataclass
class GatewayBoard(Board):
    """The gateway. `requests`: how many are in hand; `announced`: how many slides went out."""

    worker: str = NAME
    missing: dict[str, str] = field(default_factory=lambda: {"store": "starting"})
    loops: Sequence[Turning] = ()
    requests: int = 0
    announced: Callable[[], int] = lambda: 0
    letters: Sequence[str] = GATEWAY.letters
    retries: Sequence[str] = GATEWAY.retries

    def __post_init__(self) -> None:
        super().__post_init__()
        metrics.show_gateway(get_args(Via), REFUSALS)

    def hold(self, requests: int) -> None:
        """Note how many requests are in hand."""
        self.requests = requests
        metrics.IN_FLIGHT.labels(self.worker).set(requests)

    def live(self) -> bool:
        """Tell whether every loop turned lately."""
        return super().live() and all(loop.live() for loop in self.loops)

    def status(self) -> dict[str, Any]:
        """Return what /status shows. `jobs_done`: slides announced; `waiting`: those in the folder."""
        waiting = sum(loop.waiting for loop in self.loops)
        more = {"jobs_done": self.announced(), "requests": self.requests, "waiting": waiting}
        return super().status() | more
