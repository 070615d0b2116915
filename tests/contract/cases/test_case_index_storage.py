"""What the index on LanceDB promises of its storage: outages, damage, other processes, bytes that go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from case_entries import MODEL, entry, like
from servers.s3_servers import S3ProxyServer, S3Server
from waiting import until

from histgen_lib.catalogue.keys import ReportOwner, signed_key, withdrawn_key
from histgen_lib.errors import FatalError, HistgenError, TransientError
from histgen_lib.retrieval import CaseEntry, CaseIndex, CaseIndexSettings, Filters, open_case_index
from histgen_lib.storage import StorageSettings, open_store

WRITER = Path(__file__).with_name("case_writer.py")
TESTS = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["file", "moto", "s3proxy"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> StorageSettings:
    if request.param == "file":
        return StorageSettings(f"file:{tmp_path / 'index'}")
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    return server.settings(server.make_bucket(), "index")


@pytest.fixture
def opener() -> Iterator[Callable[..., CaseIndex]]:
    opened: list[CaseIndex] = []

    def open_one(storage: StorageSettings, *, resident: bool = False) -> CaseIndex:
        opened.append(open_case_index(CaseIndexSettings(storage, resident=resident)))
        return opened[-1]

    yield open_one
    for index in opened:
        index.close()


def every_byte(storage: StorageSettings) -> dict[str, bytes]:
    """Return all objects of an index; unfinished files of a folder, too."""
    if storage.url.startswith("file:"):
        root = Path(storage.url.removeprefix("file:"))
        return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    store = open_store(storage)
    return {info.key: store.get(info.key) for info in store.list()}


def traces(found: CaseEntry) -> dict[str, bytes]:
    """Return what must be gone of an entry: its names, its text, each vector as float16 and float32."""
    arrays = {"slide": found.vectors.slide, "words": found.words}
    arrays |= {f"region {n}": region for n, region in enumerate(found.vectors.regions)}
    return {
        "slide id": found.slide_id.encode(),
        "text": found.text.encode(),
        **{
            f"{name} {kind}": array.astype(kind).tobytes()
            for name, array in arrays.items()
            for kind in ("<f2", "<f4")
        },
    }


def left_of(storage: StorageSettings, wanted: dict[str, bytes]) -> list[tuple[str, str]]:
    files = every_byte(storage)
    return [(name, key) for name, pattern in wanted.items() for key, data in files.items() if pattern in data]


def test_nothing_is_left_of_a_withdrawn_case_after_compaction(
    storage: StorageSettings, opener: Callable[..., CaseIndex]
) -> None:
    """Not in old versions, replaced rows, deletion files, transactions, nor in what a killed put has left."""
    index = opener(storage)
    gone = entry("the-withdrawn-slide", 1, text="A melanoma nobody may read any more.")
    index.put([entry(f"kept-{n}", 10 + n, text=f"kept text {n}") for n in range(5)])
    index.put([gone])
    index.put([entry("the-withdrawn-slide", 1, text="A melanoma nobody may read any more.", signed=True)])
    there = {name for name, _ in left_of(storage, traces(gone))}
    assert {"slide id", "text", "slide <f2", "words <f2", "region 0 <f2", "region 2 <f2"} <= there
    assert index.withdraw(["the-withdrawn-slide"]) == 1
    index.compact()
    assert left_of(storage, traces(gone)) == []
    assert index.state().slides == 5
    np.testing.assert_allclose(
        index.find("kept-0").vectors.regions, entry("kept-0", 10).vectors.regions, atol=1e-3
    )


def test_compaction_removes_what_killed_processes_left(
    tmp_path: Path, opener: Callable[..., CaseIndex]
) -> None:
    storage = StorageSettings(f"file:{tmp_path / 'index'}")
    index = opener(storage)
    index.put([entry("a", 1)])
    (table,) = (tmp_path / "index" / "tables").iterdir()
    orphan = table / "data" / "orphan.lance"
    orphan.write_bytes(b"of a put that was killed before its commit")
    dropped = tmp_path / "index" / "tables" / "cases-0123456789abcdef.lance" / "data" / "x.lance"
    dropped.parent.mkdir(parents=True)
    dropped.write_bytes(b"of a writer that slept while its table was removed")
    index.put([entry("b", 2)])
    index.compact()
    assert not orphan.exists()
    assert not dropped.exists()
    assert index.state().slides == 2


def test_a_rebuild_whose_process_was_killed_is_cleared_up(
    tmp_path: Path, opener: Callable[..., CaseIndex]
) -> None:
    """Its table stays as long as it may still be alive, and then goes; the index is the one before."""
    folder = tmp_path / "index"
    storage = StorageSettings(f"file:{folder}")
    index = opener(storage)
    index.put([entry("a", 1)])
    run_writer(storage, "die-rebuilding")
    assert len(list((folder / "tables").iterdir())) == 2
    with pytest.raises(TransientError) as caught:
        index.rebuild(MODEL, lambda: [entry("b", 2)], progress=lambda _: None)
    assert caught.value.code == "case-index-unavailable"
    index.put([entry("c", 3)])
    (announcement,) = (folder / "versions").glob("*.next")
    long_ago = time.time() - 3600
    os.utime(announcement, (long_ago, long_ago))
    index.compact()
    assert len(list((folder / "tables").iterdir())) == 1
    assert not list((folder / "versions").glob("*.next"))
    assert sorted(hit.entry.slide_id for hit in index.search(like(entry("q")))) == ["a", "c"]
    index.rebuild(MODEL, lambda: [entry("b", 2)], progress=lambda _: None)
    assert [hit.entry.slide_id for hit in index.search(like(entry("q")))] == ["b"]


def test_a_rebuild_that_was_taken_for_dead_cannot_switch(
    tmp_path: Path, opener: Callable[..., CaseIndex]
) -> None:
    folder = tmp_path / "index"
    index, other = (opener(StorageSettings(f"file:{folder}")) for _ in range(2))
    index.put([entry("a", 1)])

    def entries() -> Iterator[CaseEntry]:
        (announcement,) = (folder / "versions").glob("*.next")
        os.utime(announcement, (0, 0))
        other.compact()
        other.put([entry("put later", 2)])
        yield entry("b", 3)

    with pytest.raises(TransientError):
        index.rebuild(MODEL, entries, progress=lambda _: None)
    assert sorted(hit.entry.slide_id for hit in index.search(like(entry("q")))) == ["a", "put later"]


def test_a_searcher_in_another_process_sees_what_is_put_and_withdrawn(
    storage: StorageSettings, opener: Callable[..., CaseIndex]
) -> None:
    """Also across compactions and rebuilds, which put another table in the place of the one that it knows."""
    writer, searcher = opener(storage), opener(storage, resident=True)

    def sees(*slides: str) -> None:
        until(
            lambda: sorted(hit.entry.slide_id for hit in searcher.search(like(entry("q")))) == list(slides),
            30,
            f"the searcher sees {slides}",
        )

    sees()
    writer.put([entry("a", 1), entry("b", 2, owner="case/b")])
    sees("a", "b")
    assert searcher.state().slides == 2
    writer.withdraw(["case/b"])
    sees("a")
    assert searcher.find("b") is None
    writer.compact()
    writer.put([entry("c", 3)])
    sees("a", "c")
    writer.rebuild(MODEL, lambda: [entry("c", 3), entry("d", 4)], progress=lambda _: None)
    sees("c", "d")
    assert searcher.search(like(entry("q"), filters=Filters(organ="x"))) == []


def run_writer(storage: StorageSettings, *arguments: object) -> None:
    """Run case_writer.py to its end."""
    assert start_writer(storage, *arguments).wait(120) in (0, -signal.SIGKILL)


def start_writer(storage: StorageSettings, *arguments: object) -> subprocess.Popen[bytes]:
    settings = json.dumps({"url": storage.url, "endpoint": storage.endpoint, "region": storage.region})
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return subprocess.Popen(
        [sys.executable, str(WRITER), settings, *map(str, arguments)], env={**os.environ, "PYTHONPATH": path}
    )


@pytest.mark.parametrize(("place", "turns"), [("file", 2), ("moto", 1)])
def test_writers_that_are_killed_lose_and_double_nothing(
    place: str, turns: int, request: pytest.FixtureRequest, tmp_path: Path, opener: Callable[..., CaseIndex]
) -> None:
    """Three processes put the same slides and withdraw, one compacts again and again; each is killed.

    What a process had acknowledged in its diary is there; no slide is there twice; no entry is half there.
    """
    storage = StorageSettings(f"file:{tmp_path / 'index'}")
    if place == "moto":
        server = request.getfixturevalue("moto_server")
        storage = server.settings(server.make_bucket(), "index")
    index = opener(storage)
    index.put([entry("a first one", 0)])
    diaries = [tmp_path / f"diary-{n}" for n in range(3)]
    compacted = tmp_path / "compacted"
    for turn in range(turns):
        running = [start_writer(storage, "put", diary, turn) for diary in diaries]
        running.append(start_writer(storage, "compact", compacted))
        before = [written(path) for path in (*diaries, compacted)]
        until(partial(have_grown, (*diaries, compacted), before), 90, "all have written")
        for process in running:
            process.kill()
            process.wait()
    acknowledged = {
        line for diary in diaries for line in diary.read_text().splitlines() if line.endswith(".")
    }
    found = {hit.entry.slide_id: hit.entry for hit in index.search(like(entry("q"), count=10_000))}
    for slide in {line.split()[1] for line in acknowledged if line.startswith("put ")}:
        assert slide in found
        assert len(found[slide].vectors.regions) == 3
        assert found[slide].text in {f"{slide} by {diary.name}" for diary in diaries}
    for slide in {line.split()[1] for line in acknowledged if line.startswith("withdrawn ")}:
        assert slide not in found
    state = index.state()
    assert state.slides == len(found) == state.cases
    assert raw_rows(index) == state.slides, "a slide has two rows"


def raw_rows(index: CaseIndex) -> int:
    """Count the rows of the table in use, as LanceDB has them."""
    reader = index._reader  # type: ignore[attr-defined]
    return int(reader.current(lambda table, _: index._link.run(table.count_rows), 0))  # type: ignore[attr-defined]


def have_grown(diaries: Sequence[Path], before: Sequence[int]) -> bool:
    return all(written(diary) > lines for diary, lines in zip(diaries, before, strict=True))


def written(diary: Path) -> int:
    return diary.read_text().count("\n") if diary.exists() else 0


def error_of(act: Callable[[], object]) -> HistgenError | None:
    try:
        act()
    except HistgenError as error:
        return error
    return None


def every_act(index: CaseIndex) -> dict[str, Callable[[], object]]:
    return {
        "put": lambda: index.put([entry("b", 2)]),
        "find": lambda: index.find("a"),
        "withdraw": lambda: index.withdraw(["a"]),
        "search": lambda: index.search(like(entry("q"))),
        "compact": index.compact,
        "state": index.state,
        "rebuild": lambda: index.rebuild(MODEL, lambda: [entry("c")], progress=lambda _: None),
    }


def assert_all_fail(index: CaseIndex, kind: type[HistgenError], code: str) -> None:
    for name, act in every_act(index).items():
        error = error_of(act)
        assert error is not None, name
        assert (type(error), error.code) == (kind, code), (name, error)


def test_an_outage_is_transient_and_a_resident_searcher_goes_on(
    s3proxy_server: S3ProxyServer, opener: Callable[..., CaseIndex]
) -> None:
    storage = s3proxy_server.settings(s3proxy_server.make_bucket(), timeout_s=0.5)
    index, searcher = opener(storage), opener(storage, resident=True)
    index.put([entry("a", 1)])
    assert len(searcher.search(like(entry("q")))) == 1
    s3proxy_server.kill()
    assert_all_fail(index, TransientError, "case-index-unavailable")
    assert len(searcher.search(like(entry("q")))) == 1
    assert searcher.find("a") is not None
    s3proxy_server.start()
    index.put([entry("b", 2)])
    until(lambda: len(searcher.search(like(entry("q")))) == 2, 30, "the searcher sees what is new")


@pytest.mark.timeout(120)
def test_a_server_that_does_not_answer_does_not_hang_a_search(
    moto_server: S3Server, opener: Callable[..., CaseIndex]
) -> None:
    storage = moto_server.settings(moto_server.make_bucket(), timeout_s=0.3)
    index, unused = opener(storage), opener(storage, resident=True)
    index.put([entry("a", 1)])
    moto_server.pause()
    assert_all_fail(index, TransientError, "case-index-unavailable")
    assert error_of(lambda: unused.search(like(entry("q")))).code == "case-index-unavailable"
    moto_server.resume()
    assert index.find("a") is not None


def test_a_missing_bucket_is_the_installations_fault(
    s3_server: S3Server, opener: Callable[..., CaseIndex]
) -> None:
    index = opener(s3_server.settings("no-such-bucket"))
    for name, act in every_act(index).items():
        if name not in ("put", "rebuild", "withdraw", "compact") or s3_server.name == "moto":
            error = error_of(act)
            assert error is not None, name
            assert (type(error), error.code) == (FatalError, "case-index-unusable"), name


@pytest.mark.parametrize("damage", ["truncated data", "missing data", "bad manifests", "bad version"])
def test_damage_is_the_installations_fault(
    damage: str, tmp_path: Path, opener: Callable[..., CaseIndex]
) -> None:
    folder = tmp_path / "index"
    opener(StorageSettings(f"file:{folder}")).put([entry("a", 1)])
    for path in folder.rglob("*"):
        if damage.endswith("data") and path.parent.name == "data":
            os.truncate(path, 100) if damage.startswith("truncated") else path.unlink()
        if (damage, path.suffix) in (("bad manifests", ".manifest"), ("bad version", ".json")):
            path.write_bytes(b"x" * 60)
    for resident in (False, True):
        index = opener(StorageSettings(f"file:{folder}"), resident=resident)
        for name in ("find", "search"):
            error = error_of(every_act(index)[name])
            assert (type(error), error.code) == (FatalError, "case-index-unusable"), name


@pytest.mark.parametrize("url", ["nowhere", "s3:/x", "file:"])
def test_an_url_that_is_none_is_refused_when_the_index_is_opened(
    url: str, opener: Callable[..., CaseIndex]
) -> None:
    error = error_of(lambda: opener(StorageSettings(url)))
    assert error is not None
    assert (type(error), error.code) == (FatalError, "case-index-unusable")


def test_an_index_opened_before_a_fork_says_so_in_the_child(
    tmp_path: Path, opener: Callable[..., CaseIndex]
) -> None:
    """LanceDB would wait for ever, for threads that are not there."""
    storage = StorageSettings(f"file:{tmp_path / 'index'}")
    run_writer(storage, "fork")


def test_what_people_said_survives_in_a_store_that_lies_in_the_same_place(tmp_path):
    """The services refuse such a place; whoever names it on a command line must lose nothing."""
    storage = StorageSettings(f"file:{tmp_path}")
    store = open_store(storage)
    kept = [withdrawn_key(ReportOwner("S")), signed_key(ReportOwner("S"), "ab" * 32)]
    for key in kept:
        store.put(key, b"{}")
    with closing(open_case_index(CaseIndexSettings(storage))) as index:
        index.put([entry("a", 1), entry("b", 2)])
        index.withdraw(["a"])
        index.compact()
    assert all(store.head(key) for key in kept)
