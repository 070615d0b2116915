"""What Triton and gRPC say is put into our words, and our errors survive the way through Triton."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.inference import TensorSpec, TritonServer
from histgen_lib.inference._connection import failure
from histgen_lib.inference.wire import decode_error, encode_error, joined, wire_names


@pytest.mark.parametrize("kind", [TransientError, InvalidInputError, FatalError])
def test_an_error_of_ours_survives_the_way_through_triton(kind: type[HistgenError]) -> None:
    error = kind("a-code", 'It says "no" in ünïcode.', hint="Try:\nthis")
    found = decode_error(f"in ensemble 'x', Stub: {encode_error(error)}\n\nAt:\n  model.py(3)")
    assert type(found) is kind
    assert (found.code, found.message, found.hint) == (error.code, error.message, error.hint)


@pytest.mark.parametrize(
    "text", ["", "plain", "histgen-error:", "histgen-error:{}", 'histgen-error:{"kind": 1}']
)
def test_other_errors_are_not_mistaken_for_ours(text: str) -> None:
    assert decode_error(text) is None


@pytest.mark.parametrize(
    ("status", "message", "kind", "code"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses", TransientError, "inference-unavailable"),
        ("UNAVAILABLE", "This protocol is restricted, expecting header 'x'", FatalError, "inference-secret"),
        ("UNAVAILABLE", "Exceeds maximum queue size", TransientError, "inference-unavailable"),
        ("CANCELLED", "", TransientError, "inference-unavailable"),
        ("UNKNOWN", "Stream removed", TransientError, "inference-unavailable"),
        ("INTERNAL", "Stub process 'm_0_0' is not healthy.", TransientError, "inference-unavailable"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", TransientError, "inference-deadline"),
        ("INVALID_ARGUMENT", "unexpected shape", InvalidInputError, "inference-refused"),
        ("UNIMPLEMENTED", "", FatalError, "inference-not-triton"),
        ("UNAUTHENTICATED", "", FatalError, "inference-not-triton"),
        ("", "odd", FatalError, "inference-not-triton"),
    ],
)
def test_every_failure_of_a_call_has_a_code(
    status: str, message: str, kind: type[HistgenError], code: str
) -> None:
    error = failure(f"StatusCode.{status}", message).error
    assert type(error) is kind
    assert error.code == code


def test_only_errors_that_may_pass_in_a_moment_are_retried_at_once() -> None:
    expected = {
        ("UNAVAILABLE", "failed to connect"): True,
        ("INVALID_ARGUMENT", "Unable to find shared memory region: 'x'"): True,
        ("INTERNAL", "Stub process 'm_0_0' is not healthy."): False,
        ("DEADLINE_EXCEEDED", ""): False,
        ("INVALID_ARGUMENT", "unexpected shape"): False,
    }
    assert {key: failure(*key).again for key in expected} == expected


@pytest.mark.parametrize(
    "url",
    [
        "", "onnx", "http://host:1", "triton://host", "triton://:8001", "triton://h:x", "triton://h:1/path",
        "triton://", "triton:///", "unix:///run/triton",
    ],
)  # fmt: skip
def test_an_invalid_address_is_refused(url: str) -> None:
    with pytest.raises(FatalError) as caught:
        TritonServer(url)
    assert caught.value.code == "inference-url"


def test_no_tile_is_sent_to_a_socket_of_another_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        os.chown(tmp_path / "s", os.getuid() or 65534, -1)
        with TritonServer(f"triton://{tmp_path}/s") as client, pytest.raises(FatalError) as caught:
            client.metadata("histgen")
    assert caught.value.code == "inference-not-triton"
    assert "another account" in caught.value.message


def test_a_tensor_of_two_dtypes_travels_under_two_names() -> None:
    one, other = TensorSpec("features", "float16|float32", (-1, 8)), TensorSpec("xy", "int32", (-1, 2))
    named = [
        TensorSpec(name, dtype, spec.shape, optional=spec is one)
        for spec in (one, other)
        for name, dtype in wire_names(spec)
    ]
    assert [spec.name for spec in named] == ["features", "features_float32", "xy"]
    assert joined(named) == (one, other)
