"""Calls to a Triton server over gRPC, with every failure translated into our errors."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.inference.wire import decode_error

T = TypeVar("T")

_SHORT_S = 5.0
"""Deadline of a call that computes nothing."""
_LIVE_S = 2.0
_SHORTEST_S = 1.0
"""Deadline of a call that may happen while a process ends."""
_LOAD_S = 120.0
_SCHEME = "triton"
_SECRET_HEADER = "triton-grpc-protocol-histgen-secret"
"""The header that Triton checks if started with
`--grpc-restricted-protocol=<protocols>:histgen-secret=<secret>`."""
_RESTRICTED = "protocol is restricted"
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

# A restarted server is found again within a second: with the defaults it takes up to two minutes.
_CHANNEL = (
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    # A machine that vanished is noticed within seven minutes, however long a call may take. Servers forbid
    # pings more often than every five minutes.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.http2.max_pings_without_data", 0),
)

_AWAY = frozenset({"UNAVAILABLE", "CANCELLED", "ABORTED", "RESOURCE_EXHAUSTED", "UNKNOWN", "INTERNAL"})
_DEAD = "is not healthy"
"""Triton's words for a model whose process has died."""
_QUOTED = 300
"""How much of a Triton message is repeated; it contains names, types and sizes."""
_UNANSWERED = frozenset({"UNAVAILABLE", "CANCELLED", "ABORTED", "UNKNOWN", "DEADLINE_EXCEEDED"})


class CallFailedError(Exception):
    """A call failed: `error` is what to raise.

    `again`: the same call may succeed in a moment. `unanswered`: the server may still read the shared memory
    of the request. `region_lost`: the server does not know that memory. `model_gone`: the model is not loaded
    now. `died`: the model's process has died.
    """

    def __init__(
        self,
        error: HistgenError,
        *,
        again: bool = False,
        unanswered: bool = False,
        region_lost: bool = False,
        model_gone: bool = False,
        died: bool = False,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.again, self.unanswered = again, unanswered
        self.region_lost, self.model_gone, self.died = region_lost, model_gone, died


class Connection:
    """One server's gRPC endpoint, for several threads. Connects when first used.

    `secret` is sent with every call. Raises FatalError("inference-url") for any other URL; all methods raise
    CallFailedError.
    """

    def __init__(self, url: str, secret: str | None = None) -> None:
        self.url, self._secret = url, secret
        parts = urlsplit(url)
        self._socket = _socket(url)
        if not self._socket and (
            parts.scheme != _SCHEME or not parts.hostname or _port(url) is None or parts.path.strip("/")
        ):
            raise FatalError(
                "inference-url",
                f"{url} is not the address of a model server.",
                hint='Give "onnx", "triton://host:port" or "triton:///folder/socket".',
            )
        self.is_local = self._socket is not None or parts.hostname in _LOOPBACK
        self._address = f"unix:{self._socket}" if self._socket else parts.netloc
        self._lock = threading.Lock()
        self._client: Any = None
        self._calls = 0

    def infer(
        self, model: str, inputs: Sequence[Any], *, timeout_s: float, parameters: Mapping[str, str]
    ) -> Any:
        """Run a model; return tritonclient's InferResult."""
        return self._call(
            lambda client: client.infer(model, inputs, client_timeout=timeout_s, parameters=dict(parameters))
        )

    def config(self, model: str) -> Any:
        """Return a loaded model's configuration (the ModelConfig message)."""
        return self._call(lambda client: client.get_model_config(model, client_timeout=_SHORT_S).config)

    def models(self) -> dict[str, tuple[str, str]]:
        """Return state and reason of every model in the server's repository."""
        index = self._call(lambda client: client.get_model_repository_index(client_timeout=_SHORT_S))
        return {one.name: (one.state, one.reason) for one in index.models}

    def executions(self, model: str) -> int:
        """Return how often a loaded model has run."""
        found = self._call(lambda client: client.get_inference_statistics(model, client_timeout=_SHORT_S))
        return sum(one.execution_count for one in found.model_stats)

    def live(self) -> bool:
        """Return whether the server is alive; it answers within a moment, or not at all."""
        return bool(self._call(lambda client: client.is_server_live(client_timeout=_LIVE_S)))

    def load(self, model: str) -> None:
        """Load a model of the repository; return when it is loaded."""
        self._call(lambda client: client.load_model(model, client_timeout=_LOAD_S))

    def unload(self, model: str) -> None:
        """Start to unload a model; it finishes what it has begun."""
        self._call(lambda client: client.unload_model(model, client_timeout=_SHORT_S))

    def register(self, name: str, key: str, size_bytes: int) -> None:
        """Have the server map a shared memory region."""
        self._call(
            lambda client: client.register_system_shared_memory(
                name, key, size_bytes, client_timeout=_SHORT_S
            )
        )

    def unregister(self, name: str) -> None:
        """Have the server unmap a region. Fails while a request uses it."""
        self._call(lambda client: client.unregister_system_shared_memory(name, client_timeout=_SHORTEST_S))

    def regions(self) -> list[str]:
        """Return the names of the regions that the server has mapped."""
        found = self._call(lambda client: client.get_system_shared_memory_status(client_timeout=_SHORT_S))
        return list(found.regions)

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def rest(self) -> None:
        """Close the connection unless a call is in progress: an open one wakes gRPC 17 times a second."""
        with self._lock:
            if self._calls:
                return
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _call(self, call: Callable[[Any], T]) -> T:
        from tritonclient.utils import InferenceServerException

        try:
            with self._in_use() as client:
                return call(client)
        except InferenceServerException as error:
            raise failure(str(error.status() or ""), str(error.message() or "")) from error
        except ValueError as error:  # gRPC: another thread has closed the channel
            away = TransientError("inference-unavailable", "The connection to the model server was closed.")
            raise CallFailedError(away, unanswered=True) from error

    @contextmanager
    def _in_use(self) -> Iterator[Any]:
        with self._lock:
            client = self._opened()
            self._calls += 1
        try:
            yield client
        finally:
            with self._lock:
                self._calls -= 1

    def _opened(self) -> Any:
        from tritonclient.grpc import InferenceServerClient

        if self._client is None:
            self._check_owner()
            local = [("grpc.enable_http_proxy", 0)] if self.is_local else []
            self._client = InferenceServerClient(self._address, channel_args=[*_CHANNEL, *local])
            if self._secret:
                self._client.register_plugin(_with_header(_SECRET_HEADER, self._secret))
        return self._client

    def _check_owner(self) -> None:
        """Refuse to send tiles to a socket that another account has put in the place of ours."""
        if self._socket is None:
            return
        try:
            owner = self._socket.lstat().st_uid
        except OSError:  # there is none yet: gRPC will say so
            return
        if owner not in {0, os.geteuid()}:
            stranger = FatalError(
                "inference-not-triton",
                f"The socket {self._socket} belongs to another account.",
                hint="Give the address of your own Triton's socket.",
            )
            raise CallFailedError(stranger)


def _with_header(name: str, value: str) -> Any:
    """Make the tritonclient plugin that adds a header to each request."""
    from tritonclient.grpc import InferenceServerClientPlugin

    class _Header(InferenceServerClientPlugin):  # type: ignore[misc]
        def __call__(self, request: Any) -> None:
            request.headers[name] = value

    return _Header()


def failure(status: str, message: str) -> CallFailedError:
    """Translate a failed call: `status` is gRPC's ("StatusCode.UNAVAILABLE"), `message` Triton's."""
    code = status.removeprefix("StatusCode.")
    ours = _locked() if _RESTRICTED in message else decode_error(message)
    if ours is not None:
        return CallFailedError(ours, again=ours.code == "inference-other-model")
    if code == "DEADLINE_EXCEEDED":
        late = TransientError("inference-deadline", "The model server did not answer in time.")
        return CallFailedError(late, unanswered=True)
    if "Unable to find" in message and "shared memory region" in message:
        return CallFailedError(_unavailable(message), again=True, region_lost=True)
    if code == "NOT_FOUND" or "unknown model" in message:
        return CallFailedError(_unavailable(message), model_gone=True)
    if code in _AWAY:
        return CallFailedError(
            _unavailable(message),
            again=code == "UNAVAILABLE",
            unanswered=code in _UNANSWERED,
            died=_DEAD in message,
        )
    return CallFailedError(_refused(code, message))


def _refused(code: str, message: str) -> HistgenError:
    if code == "INVALID_ARGUMENT":
        return InvalidInputError(
            "inference-refused", f"The model server refuses the request: {message[:_QUOTED]}"
        )
    return FatalError(
        "inference-not-triton",
        f"The model server does not answer as Triton does ({code or message[:_QUOTED]}).",
        hint="Give the address of Triton's gRPC port.",
    )


def _locked() -> FatalError:
    return FatalError(
        "inference-secret",
        "The model server requires a secret; none was sent, or a wrong one.",
        hint="Set HISTGEN_INFERENCE_SECRET to the file with the server's secret; see docs/stream.md.",
    )


def _unavailable(message: str) -> TransientError:
    return TransientError(
        "inference-unavailable",
        f"The model server cannot answer now: {message[:_QUOTED]}",
        hint="It is retried. If this lasts, check its log, and that the address is that of its gRPC port.",
    )


def _socket(url: str) -> Path | None:
    """Return the path that "triton:///folder/socket" names."""
    rest = url.removeprefix(f"{_SCHEME}://")
    return Path(rest) if rest != url and rest.startswith("/") and rest.strip("/") else None


def _port(url: str) -> int | None:
    try:
        return urlsplit(url).port
    except ValueError:
        return None
