"""A client of the search service's pages, without a network."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from search_lab import SearchLab
from service_access import bearer, locked

from histgen_lib.runtime.stopping import Stop
from histgen_lib.telemetry import metrics
from services.search.app import SearchBoard
from services.search.http import SearchApi
from services.search.keeping import Holding


class SearchClient:
    """Talks to the API over a lab."""

    def __init__(self, lab: SearchLab, *, loaded: bool = True, **options: Any) -> None:
        self.lab, self.stop, self.board, self.now = lab, Stop(), SearchBoard(), 0.0
        self.holding = Holding(lambda _: lab.searcher, lambda: self.now)
        if loaded:
            self.holding.take(lab.index, lab.index.state())
            self.holding.leave_out(frozenset(), 0.0)
        self.api = SearchApi(self.holding, self.board, self.stop, **options)
        self.door = locked(self.api.app())

    async def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.door)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:1", timeout=30
        ) as client:
            return await client.request(method, path, headers=bearer() | more.pop("headers", {}), **more)

    async def slide(self, slide_id: str) -> httpx.Response:
        return await self.send("POST", "/search", json={"slide": slide_id})

    def search(self, body: Any = None, **values: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(values if body is None else body).encode()
        return asyncio.run(self.send("POST", "/search", content=content))

    def get(self, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(self.send("GET", path, **more))


def searches(task: str, outcome: str) -> float:
    """Return how many searches ended so."""
    return float(metrics.SEARCHES.labels(task, outcome)._value.get())
