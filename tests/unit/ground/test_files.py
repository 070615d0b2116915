"""Files appear whole or not at all."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from histgen_lib.files import (
    atomic_path,
    canonical_json,
    decode_text,
    sealed_json,
    sha256_file,
    sha256_hex,
    umask,
    unsealed,
    write_atomic,
)


def test_a_finished_write_replaces_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "new" / "draft.json"
    write_atomic(target, b"old")
    write_atomic(target, b"new")
    assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


def test_a_failed_write_leaves_the_old_file_and_nothing_half_written(tmp_path: Path) -> None:
    target = tmp_path / "draft.json"
    write_atomic(target, b"old")
    with pytest.raises(RuntimeError, match="crash"), atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise RuntimeError("crash")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_equal_values_give_equal_json_whatever_the_order_of_keys() -> None:
    assert (
        canonical_json({"b": 1, "a": "µ"}) == canonical_json({"a": "µ", "b": 1}) == '{"a":"µ","b":1}'.encode()
    )


def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x") == sha256_hex(b"abc")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_read_by_its_byte_order_mark_which_is_dropped(encoding: str) -> None:
    assert decode_text("né\n".encode(encoding)) == "né\n"


@pytest.mark.parametrize(("mark", "encoding"), [(b"\xfe\xff", "utf-16-be"), (b"\0\0\xfe\xff", "utf-32-be")])
def test_text_in_the_other_byte_order_is_read_too(mark: bytes, encoding: str) -> None:
    assert decode_text(mark + "é".encode(encoding)) == "é"


@pytest.mark.parametrize("data", [b"\xe9t\xe9", b"\xff\xfe\x41", b"\xff"])
def test_other_encodings_are_refused(data: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        decode_text(data)


def test_a_flipped_bit_anywhere_breaks_a_seal():
    sealed = sealed_json({"a": "µ", "digest": "0" * 64, "n": [1, {"b": None}]})
    assert unsealed(sealed) == {"a": "µ", "digest": "0" * 64, "n": [1, {"b": None}]}
    for at in range(len(sealed)):
        for bit in range(8):
            with pytest.raises(ValueError):  # noqa: PT011 - or one below it: JSON, UTF-8
                unsealed(sealed[:at] + bytes([sealed[at] ^ (1 << bit)]) + sealed[at + 1 :])


def test_what_an_earlier_version_wrote_without_a_seal_is_read():
    assert unsealed(b'{"digest":"' + b"0" * 64 + b'"}') == {"digest": "0" * 64}
    assert unsealed(b"[1]") == [1]


@pytest.mark.parametrize("proc", [True, False], ids=["with-proc", "without"])
def test_threads_that_ask_for_the_umask_leave_it_as_it_is(
    monkeypatch: pytest.MonkeyPatch, proc: bool
) -> None:
    """Asked by setting it and putting back what was found, it would end up as another thread's 077."""

    def away(*_: object, **__: object) -> str:
        raise FileNotFoundError

    if not proc:
        monkeypatch.setattr(Path, "read_text", away)
    before, interval = os.umask(0o027), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: umask(), range(4000))) == {0o027}
    finally:
        sys.setswitchinterval(interval)
        assert os.umask(before) == 0o027
