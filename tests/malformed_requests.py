"""Random malformed requests, reproducible from a seed."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Iterator
from typing import Any

Chance = random.Random
_METHODS = ("GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "TRACE", "get", "P\0ST", "")
_PATHS = (
    *(
        "/slides",
        "/s3-events",
        "/status",
        "/metrics",
        "/healthz",
        "/readyz",
        "*",
        "/",
        "//slides",
        "/slides/..",
    ),
    *("http://evil.example/slides", "/%00", "/\xff", "/" + "a" * 20_000, "/slides?" + "x=1&" * 500, ""),
)
_HOSTS = ("localhost", "127.0.0.1:1", "evil.example", "", "[::1", "a" * 300, "localhost\tx", "\x7f")
_URIS = (
    *(
        "file:///etc/passwd",
        "file:///proc/kmsg",
        "file:///dev/zero",
        "s3://other/a.svs",
        "file:///%2e%2e/x.svs",
    ),
    *(
        "file:////",
        "file:///" + "../" * 300 + "etc/shadow",
        "s3://lab",
        "http://h/a.svs",
        "\ud800",
        "\0",
        "a" * 5000,
    ),
)
_CHUNKED = "transfer-encoding: chunked\r\n"


def malformed(count: int, key: str, seed: int = 4711) -> Iterator[bytes]:
    """Yield `count` requests: complete ones, truncated ones, and several in one.

    `key`: the authorization header that most of them send.
    """
    chance = random.Random(seed)
    kinds = (_noise, _odd_heads, _odd_bodies, _odd_json, _odd_chunks, _several)
    for _ in range(count):
        request = chance.choice(kinds)(chance, key)
        yield _damaged(chance, request) if chance.random() < 0.3 else request


def _noise(chance: Chance, _: str) -> bytes:
    return chance.randbytes(chance.choice((0, 1, 7, 100, 5000, 100_000))) + chance.choice((b"", b"\r\n\r\n"))


def _head(chance: Chance, key: str, more: str = "", *, method: str = "", path: str = "") -> bytes:
    version = "1.1" if method else chance.choice(("1.1", "1.0", "9", ""))
    further = chance.choice((0, 0, 0, 0, 1, 90) if method else (0, 1, 150))
    lines = [
        f"{method or chance.choice(_METHODS)} {path or chance.choice(_PATHS)} HTTP/{version}",
        f"host: {chance.choice(_HOSTS) if not method else 'localhost'}",
        *([f"authorization: {key}"] if chance.random() < 0.7 else []),
        *(f"{_header(chance)}: {_text(chance, 40)}" for _ in range(further)),
    ]
    return ("\r\n".join(lines) + "\r\n" + more + "\r\n").encode("latin-1", "replace")


def _odd_heads(chance: Chance, key: str) -> bytes:
    more = (
        "content-length: -1\r\n",
        "content-length: 1\r\ncontent-length: 2\r\n",
        _CHUNKED + "content-length: 3\r\n",
    )
    others = (
        "expect: 100-continue\r\n",
        "upgrade: websocket\r\nconnection: upgrade\r\n",
        " folded\r\n",
        "\0: x\r\n",
    )
    return _head(chance, key, chance.choice((*more, *others)))


def _odd_bodies(chance: Chance, key: str) -> bytes:
    body = chance.randbytes(chance.choice((0, 10, 70_000)))
    length = max(0, len(body) + chance.choice((-5, 0, 0, 5, 1 << 40)))
    return _post(chance, key, f"content-length: {length}\r\n") + body


def _odd_json(chance: Chance, key: str) -> bytes:
    body = json.dumps(_value(chance, 4) if chance.random() < 0.3 else _slide(chance)).encode()
    if chance.random() < 0.2:
        body = chance.choice(
            (b"[" * 30_000, b'{"uri":' * 5000, b"1e999999", b"\xef\xbb\xbf{}", b'{"uri": NaN}')
        )
    return _post(chance, key, f"connection: close\r\ncontent-length: {len(body)}\r\n") + body


def _odd_chunks(chance: Chance, key: str) -> bytes:
    chunks = (
        b"zz\r\n",
        b"5\r\nabc",
        b"-1\r\n",
        b"ffffffffffffffffff\r\n",
        b"1;" + b"x" * 30_000,
        b"3\r\nabc\r\n" * 9000,
    )
    return _post(chance, key, _CHUNKED) + chance.choice(chunks)


def _several(chance: Chance, key: str) -> bytes:
    return b"".join(_head(chance, key, method="GET", path="/healthz") for _ in range(20)) + _noise(
        chance, key
    )


def _post(chance: Chance, key: str, more: str) -> bytes:
    return _head(chance, key, more, method="POST", path=chance.choice(("/slides", "/s3-events")))


def _slide(chance: Chance) -> dict[str, Any]:
    more: dict[str, Callable[[], Any]] = {
        "mpp": lambda: chance.choice((0, -1, 1e308, "0.5", None, True)),
        "slide_id": lambda: chance.choice(("../x", "", "a" * 500, 7, "\x1b[2J")),
        "case": lambda: _value(chance, 2),
        _text(chance, 9): lambda: _value(chance, 2),
    }
    chosen = chance.sample(list(more), chance.randrange(len(more)))
    return {"uri": chance.choice(_URIS), **{name: more[name]() for name in chosen}}


def _value(chance: Chance, depth: int) -> Any:
    if depth == 0 or chance.random() < 0.3:
        return chance.choice((None, True, 0, -1.5, 10**40, "", _text(chance, 30)))
    if chance.random() < 0.5:
        return [_value(chance, depth - 1) for _ in range(3)]
    return {_text(chance, 8): _value(chance, depth - 1) for _ in range(3)}


def _header(chance: Chance) -> str:
    return _text(chance, 9) if chance.random() < 0.1 else f"x-{chance.randrange(1000)}"


def _text(chance: Chance, most: int) -> str:
    return "".join(chance.choices(string.printable + "\0\x1b\x9bäß\xff", k=chance.randint(1, most)))


def _damaged(chance: Chance, request: bytes) -> bytes:
    """Cut a request off or change some of its bytes."""
    if chance.random() < 0.5:
        return request[: chance.randint(0, len(request))]
    damaged = bytearray(request)
    for _ in range(min(5, len(damaged))):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    return bytes(damaged)
