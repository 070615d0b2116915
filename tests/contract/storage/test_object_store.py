"""What every object store promises."""

from __future__ import annotations

import itertools
import pickle
import random
import time
import tracemalloc
from pathlib import Path

import pytest
from store_openers import find_by_uri, open_again

from histgen_lib.errors import HistgenError, InvalidInputError
from histgen_lib.storage import ObjectStore, StorageSettings

AWKWARD_KEYS = [
    "plain",
    "a/b/c/d/e/f",
    "with space/and+plus",
    "100%25/%2F",
    "question?mark=1&x#fragment",
    "Präparat/Gewebe µm ×40",
    "e\u0301/é",
    "日本/切片",
    "😀/😀",
    "quote'\"<xml>&amp;",
    "back\\slash:colon|pipe*",
    ".hidden/..double/...",
    "trailing./dot.",
    "~tilde/{brace}[bracket]",
    "p" * 200 + "/" + "q" * 200,
]
BAD_KEYS = [
    "",
    "/",
    "/absolute",
    "folder/",
    "a//b",
    ".",
    "..",
    "../escape",
    "a/../b",
    "a/./b",
    "nul\0",
    "line\nbreak",
    "half\ud800",
    ".incoming/x",
    "x" * 256,
    "a/" * 512 + "b",
]


def large_bytes(seed: int = 1, size: int = 12 << 20) -> bytes:
    """Return random bytes, by default enough for three parts."""
    return random.Random(seed).randbytes(size)


def test_get_returns_what_was_put(store: ObjectStore) -> None:
    assert store.put("slides/s-1/scanned.json", b'{"a": 1}')
    assert store.get("slides/s-1/scanned.json") == b'{"a": 1}'


def test_an_object_may_be_empty(store: ObjectStore) -> None:
    assert store.put("empty", b"")
    assert store.get("empty") == b""
    assert list(store.chunks("empty")) == []
    found = store.head("empty")
    assert found is not None
    assert found.size_bytes == 0


def test_the_first_writer_wins_and_its_bytes_stay(store: ObjectStore) -> None:
    assert store.put("k", b"first")
    before = store.head("k")
    assert not store.put("k", b"second")
    assert store.get("k") == b"first"
    assert store.head("k") == before


def test_objects_are_overwritten_only_on_request(store: ObjectStore) -> None:
    store.put("latest.json", b"old")
    before = store.head("latest.json")
    assert store.put("latest.json", b"new", if_absent=False)
    assert store.get("latest.json") == b"new"
    after = store.head("latest.json")
    assert before is not None
    assert after is not None
    assert before.etag != after.etag


def test_an_object_has_its_time_of_writing(store: ObjectStore) -> None:
    before = time.time()
    store.put("k", b"new")
    found = store.head("k")
    assert found is not None
    assert int(before) - 1 <= found.modified_at <= time.time() + 1
    assert [int(info.modified_at) for info in store.list()] == [int(found.modified_at)]


def test_a_file_is_stored_like_its_bytes(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "bag.parquet").write_bytes(b"features")
    assert store.put("bag", tmp_path / "bag.parquet", content_type="application/vnd.apache.parquet")
    assert not store.put("bag", tmp_path / "bag.parquet")
    assert store.get("bag") == b"features"


def test_a_missing_source_file_is_not_an_error_of_the_store(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.put("bag", tmp_path / "nothing")
    assert store.head("bag") is None


def test_another_process_sees_what_was_put(store: ObjectStore, settings: StorageSettings) -> None:
    store.put("k", b"v")
    assert open_again(settings).get("k") == b"v"


@pytest.mark.parametrize("from_file", [False, True])
def test_a_large_object_is_read_back_unchanged(store: ObjectStore, tmp_path: Path, from_file: bool) -> None:
    data = large_bytes()
    (tmp_path / "large").write_bytes(data)
    assert store.put("large", tmp_path / "large" if from_file else data)
    assert not store.put("large", large_bytes(seed=2))
    assert store.get("large") == data
    assert b"".join(store.chunks("large", 1 << 20)) == data
    store.fetch("large", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == data
    assert [(info.key, info.size_bytes) for info in store.list()] == [("large", len(data))]


def test_a_large_object_is_overwritten_as_a_whole(store: ObjectStore) -> None:
    store.put("large", large_bytes())
    assert store.put("large", large_bytes(seed=2), if_absent=False)
    assert store.get("large") == large_bytes(seed=2)


@pytest.mark.parametrize("kind", ["file", "moto", "s3proxy"])
def test_a_large_object_is_never_in_memory_as_a_whole(store: ObjectStore, tmp_path: Path) -> None:
    """48 MiB go up and down within 24 MiB of memory: one part and the client's own needs."""
    whole = 48 << 20
    with (tmp_path / "large").open("wb") as file:
        for seed in range(16):
            file.write(large_bytes(seed, whole // 16))
    tracemalloc.start()
    try:
        store.put("large", tmp_path / "large")
        store.fetch("large", tmp_path / "copy")
        read = sum(map(len, store.chunks("large")))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read == whole
    assert (tmp_path / "copy").stat().st_size == whole
    assert peak < 24 << 20


def test_a_fetched_file_replaces_another_only_once_it_is_complete(store: ObjectStore, tmp_path: Path) -> None:
    store.put("k", b"new")
    (tmp_path / "copy").write_bytes(b"old")
    with pytest.raises(InvalidInputError):
        store.fetch("other", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"old"
    store.fetch("k", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) in (["copy"], ["copy", "store"])


def test_a_missing_object_is_reported_as_missing(store: ObjectStore, tmp_path: Path) -> None:
    assert store.head("nothing") is None
    assert store.head("nothing/below") is None
    assert store.find("nothing") is None
    assert store.find("nothing/below") is None
    assert list(store.list("nothing/")) == []
    store.delete("nothing")
    for read in (
        lambda: store.get("nothing"),
        lambda: store.fetch("nothing", tmp_path / "copy"),
        lambda: list(store.chunks("nothing")),
    ):
        with pytest.raises(InvalidInputError) as caught:
            read()
        assert caught.value.code == "object-missing"
        assert_pickles(caught.value)


def test_find_returns_an_object_or_none(store: ObjectStore) -> None:
    """An empty object is not a missing one."""
    store.put("empty", b"")
    store.put("k", bytes(range(256)))
    assert store.find("empty") == b""
    assert store.find("k") == bytes(range(256))
    store.delete("k")
    assert store.find("k") is None


def test_a_deleted_object_is_gone_and_can_be_put_again(store: ObjectStore) -> None:
    store.put("attempts/tiler/e-1/1", b"")
    store.put("attempts/tiler/e-1/2", b"")
    store.delete("attempts/tiler/e-1/1")
    store.delete("attempts/tiler/e-1/2")
    assert list(store.list()) == []
    assert store.put("attempts/tiler/e-1/1", b"again")
    assert [info.key for info in store.list()] == ["attempts/tiler/e-1/1"]


def test_awkward_keys_are_kept_unchanged(store: ObjectStore) -> None:
    for key in AWKWARD_KEYS:
        assert store.put(key, key.encode()), key
    assert {info.key for info in store.list()} == set(AWKWARD_KEYS)
    for key in AWKWARD_KEYS:
        assert store.get(key) == key.encode()
        found = store.head(key)
        assert found is not None
        assert (found.key, found.size_bytes) == (key, len(key.encode()))


def test_an_object_is_found_again_by_its_uri(store: ObjectStore, settings: StorageSettings) -> None:
    for key in AWKWARD_KEYS:
        store.put(key, key.encode())
        other, found_key = find_by_uri(store.uri(key), settings)
        assert other.get(found_key) == key.encode()


def test_every_method_refuses_an_invalid_key(store: ObjectStore, tmp_path: Path) -> None:
    acts = {
        "put": lambda key: store.put(key, b""),
        "get": store.get,
        "find": store.find,
        "fetch": lambda key: store.fetch(key, tmp_path / "copy"),
        "chunks": lambda key: list(store.chunks(key)),
        "head": store.head,
        "delete": store.delete,
        "uri": store.uri,
    }
    for key, (name, act) in itertools.product(BAD_KEYS, acts.items()):
        with pytest.raises(InvalidInputError) as caught:
            act(key)
        assert caught.value.code == "object-key", (key, name)
        assert_pickles(caught.value)
    assert list(store.list()) == []


def test_an_invalid_prefix_is_refused(store: ObjectStore) -> None:
    for prefix in ("/", "../", "a//", "./x", ".incoming/"):
        with pytest.raises(InvalidInputError) as caught:
            list(store.list(prefix))
        assert caught.value.code == "object-key", prefix


def test_listings_are_sorted_by_key_and_filtered_by_any_prefix(store: ObjectStore) -> None:
    keys = ["a", "a-b", "a.b/c", "ab/c/d", "ab/c/e", "ab/c0", "ab/c-1/x", "b/a", "b/ä", "b/z", "B/a", "c"]
    for key in reversed(keys):
        store.put(key, key.encode())
    assert [info.key for info in store.list()] == sorted(keys)
    for prefix in ("a", "ab", "ab/", "ab/c", "ab/c/", "b/ä", "nothing", "ab/c/d", "ab/c/d/"):
        expected = [key for key in sorted(keys) if key.startswith(prefix)]
        assert [info.key for info in store.list(prefix)] == expected, prefix


def test_a_listing_agrees_with_head(store: ObjectStore) -> None:
    for size in (0, 1, 1000):
        store.put(f"objects/{size}", b"x" * size)
    assert [store.head(info.key) for info in store.list()] == list(store.list())


def assert_pickles(error: HistgenError) -> None:
    """Check that an error survives the way from a child process to its parent."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.code, str(copy)) == (type(error), error.code, str(error))
