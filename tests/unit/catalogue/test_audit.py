"""The audit log has every writer's entries in one chain, and no change to it goes unnoticed."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
from job_kit import WatchedStore

from histgen_lib.catalogue.audit import Audit, Entry, entries, entry_key, verify
from histgen_lib.errors import TransientError
from histgen_lib.files import canonical_json, sha256_hex
from histgen_lib.storage import StorageSettings, open_store

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path):
    return WatchedStore(open_store(StorageSettings(f"file:{tmp_path}")))


def write(store, count: int) -> list[Entry]:
    audit = Audit(store, now=lambda: NOW)
    return [audit.append("submitted", "lab (uid 7)", {"slide_id": f"s{n}"}) for n in range(count)]


def read(store) -> list[Entry | None]:
    return [Entry.from_bytes(data) for _, data in entries(store)]


def rewrite(store, number: int, **changes) -> None:
    """Change an entry as someone who knows the format would."""
    entry = Entry.from_bytes(store.get(entry_key(number)))
    store.put(entry_key(number), canonical_json(entry.to_json() | changes), if_absent=False)


def test_each_entry_holds_the_digest_of_the_one_before_and_reads_back_as_written(store):
    written = write(store, 3)
    assert read(store) == written
    assert [entry.number for entry in written] == [1, 2, 3]
    assert [entry.previous for entry in written[1:]] == [sha256_hex(e.to_bytes()) for e in written[:2]]
    assert verify(store).faults == []
    assert verify(store).head == f"3:{sha256_hex(written[2].to_bytes())}"


@pytest.mark.parametrize("count", range(18))
def test_a_new_process_continues_after_the_last_entry_without_listing_all(store, monkeypatch, count):
    write(store, count)
    with monkeypatch.context() as patched:
        patched.setattr(store, "list", None)
        assert write(store, 1)[0].number == count + 1
    assert verify(store).entries == count + 1
    assert verify(store).faults == []


def test_concurrent_writers_build_one_chain(store):
    writers = [Audit(store, now=lambda: NOW) for _ in range(4)]

    def work(audit: Audit) -> None:
        for _ in range(25):
            audit.append("replayed", "someone", {"event_id": "e"})

    threads = [threading.Thread(target=work, args=[audit]) for audit in writers * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    verdict = verify(store)
    assert (verdict.entries, verdict.number, verdict.faults) == (200, 200, [])


def test_an_entry_whose_answer_was_lost_is_not_written_twice(store, monkeypatch):
    put = store.put
    monkeypatch.setattr(store, "put", lambda *args, **more: put(*args, **more) and False)
    write(store, 2)
    assert verify(store).entries == 2


def test_an_outage_of_the_store_is_raised_and_the_chain_continues_afterwards(store, monkeypatch):
    audit = Audit(store, now=lambda: NOW)
    audit.append("pruned", "x", {})
    with monkeypatch.context() as away:
        away.setattr(store, "put", lambda *_, **__: (_ for _ in ()).throw(TransientError("x", "Away.")))
        with pytest.raises(TransientError):
            audit.append("pruned", "x", {})
    audit.append("pruned", "x", {})
    assert (verify(store).entries, verify(store).faults) == (2, [])


def test_a_changed_entry_is_found(store):
    write(store, 4)
    rewrite(store, 2, by="someone else")
    assert verify(store).faults == [(entry_key(3), "not-chained")]


def test_a_removed_entry_is_found(store):
    write(store, 4)
    store.delete(entry_key(2))
    assert verify(store).faults == [(entry_key(2), "missing")]


def test_removed_first_entries_are_found(store):
    write(store, 4)
    store.delete(entry_key(1))
    assert (entry_key(1), "missing") in verify(store).faults


def test_an_inserted_entry_is_found(store):
    write(store, 4)
    store.delete(entry_key(4))
    store.put(entry_key(4), store.get(entry_key(2)))
    assert verify(store).faults == [(entry_key(4), "unreadable")]


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff\x00", b'{"schema": 1}', b"[" * 100_000])
def test_a_damaged_entry_is_found_and_the_others_are_still_read(store, damage):
    write(store, 3)
    store.put(entry_key(2), damage, if_absent=False)
    assert (entry_key(2), "unreadable") in verify(store).faults
    assert verify(store).entries == 3
    assert write(store, 1)[0].number == 4


def test_an_object_that_is_not_an_entry_is_found(store):
    write(store, 1)
    store.put("audit/notes.txt", b"")
    store.put("audit/2.json", b"")
    assert verify(store).faults == [("audit/2.json", "stranger"), ("audit/notes.txt", "stranger")]


def test_a_kept_end_reveals_a_log_that_was_cut_short_or_rewritten(store):
    write(store, 3)
    kept = {3: verify(store).digest}
    assert verify(store, expected=kept).faults == []
    store.delete(entry_key(3))
    assert verify(store).faults == []
    assert verify(store, expected=kept).faults == [(entry_key(3), "missing")]

    write(store, 2)
    assert verify(store, expected=kept).faults == [(entry_key(3), "not-expected")]
