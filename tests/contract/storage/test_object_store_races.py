"""Of several writers of a key exactly one is first, and readers see only complete objects.

S3Proxy over a folder keeps the second promise but only half of the first: it checks a write's condition and
writes in two steps, and ignores the condition at the end of a multipart upload. With it, several racing
writers may learn that they were first; the object is one of theirs, and later writers find it.
"""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

from store_openers import open_again

from histgen_lib.storage import ObjectStore, StorageSettings

WRITERS = 12


def race(stores: list[ObjectStore], key: str, pieces: list[bytes]) -> list[bool]:
    """Let all stores put their pieces under `key` at once; return the answers."""
    start = threading.Barrier(len(stores))

    def put(store: ObjectStore, data: bytes) -> bool:
        start.wait()
        return store.put(key, data)

    with ThreadPoolExecutor(len(stores)) as pool:
        return list(pool.map(put, stores, pieces))


def assert_one_won(store: ObjectStore, key: str, pieces: list[bytes], answers: list[bool], kind: str) -> None:
    assert sum(answers) >= 1 if kind == "s3proxy" else sum(answers) == 1
    found = store.get(key)
    assert found in [piece for piece, won in zip(pieces, answers, strict=True) if won]
    assert not store.put(key, b"late")
    assert store.get(key) == found


def test_of_twelve_racing_writers_exactly_one_wins(
    store: ObjectStore, settings: StorageSettings, kind: str
) -> None:
    """Half of them share a store, as threads do; the others have their own, as processes do."""
    stores = [store] * (WRITERS // 2) + [open_again(settings) for _ in range(WRITERS // 2)]
    pieces = [bytes([65 + number]) * 20_000 for number in range(WRITERS)]
    for turn in range(10):
        answers = race(stores, f"bags/{turn}", pieces)
        assert_one_won(store, f"bags/{turn}", pieces, answers, kind)


def test_of_several_racing_large_objects_one_stays_complete(store: ObjectStore, kind: str) -> None:
    pieces = [random.Random(number).randbytes(6 << 20) for number in range(4)]
    answers = race([store] * len(pieces), "bag", pieces)
    assert_one_won(store, "bag", pieces, answers, kind)
    assert [info.size_bytes for info in store.list()] == [6 << 20]


def test_a_reader_sees_only_complete_objects_during_overwrites(store: ObjectStore) -> None:
    pieces = [bytes([letter]) * 300_000 for letter in b"abc"]
    store.put("latest.json", pieces[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for piece in pieces:
                store.put("latest.json", piece, if_absent=False)

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        try:
            for _ in range(30):
                assert store.get("latest.json") in pieces
                found = store.head("latest.json")
                assert found is not None
                assert found.size_bytes == 300_000
                assert {info.size_bytes for info in store.list("latest")} <= {300_000}
        finally:
            stop.set()
        writer.result()


def test_objects_may_be_put_while_their_neighbours_are_deleted(store: ObjectStore) -> None:
    """Removing a folder that a deletion has emptied must not lose what is being put there."""

    def come_and_go(name: str) -> None:
        for turn in range(20):
            assert store.put(f"attempts/tiler/{name}", str(turn).encode())
            assert store.get(f"attempts/tiler/{name}") == str(turn).encode()
            store.delete(f"attempts/tiler/{name}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(come_and_go, "abcd"))
    assert list(store.list()) == []
