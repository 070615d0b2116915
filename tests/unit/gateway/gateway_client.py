"""A client of the gateway's pages, without a network."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from gateway_fakes import GatewayLab
from service_access import bearer, locked

from histgen_lib.catalogue.sign_off import SignOff
from histgen_lib.runtime.stopping import Stop
from services.gateway.app import GatewayBoard
from services.gateway.http import HttpApi
from services.gateway.replaying import Replaying

JSON = {"content-type": "application/json"}


class Client:
    """Talks to the API without a network."""

    def __init__(self, lab: GatewayLab, **options: Any) -> None:
        self.lab, self.stop, self.board = lab, Stop(), GatewayBoard()
        self.touched: list[str] = []
        replaying = Replaying(lab.store, lab.bus, self.touched.append)
        sign_off = SignOff(lab.store, lab.bus)
        self.api = HttpApi(lab.intake, self.board, self.stop, replaying, sign_off, **options)
        self.door = locked(self.api.app())

    async def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.door)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as client:
            return await client.request(method, path, headers=bearer() | more.pop("headers", {}), **more)

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = JSON | more.pop("headers", {})
        return asyncio.run(self.send("POST", path, content=content, headers=headers, **more))

    def slide(self, uri: str, **more: Any) -> httpx.Response:
        return self.post("/slides", {"uri": uri, **more})


def error_of(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "hint"}
    assert error["message"]
    assert error["hint"]
    return answer.status_code, error["code"]
