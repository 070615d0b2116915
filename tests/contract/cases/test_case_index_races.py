"""What happens between two steps of a writer: others write, compact, or it is killed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from case_entries import MODEL, entry, like
from waiting import until

from histgen_lib.retrieval import CaseEntry, CaseIndex, CaseIndexSettings, open_case_index
from histgen_lib.retrieval import _lance_writer as writing
from histgen_lib.retrieval._lance import LanceCaseIndex
from histgen_lib.retrieval._lance_versions import Version, new_table
from histgen_lib.retrieval._shard import Shard
from histgen_lib.storage import StorageSettings

GONE = entry("gone", 4711, text="A text that nobody may read any more.")


class KilledError(BaseException):
    """The process ends here."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def opened(folder: Path) -> Iterator[Callable[..., LanceCaseIndex]]:
    """Return a function that opens the index as another process would."""
    all_opened: list[LanceCaseIndex] = []

    def open_one(*, resident: bool = False) -> LanceCaseIndex:
        storage = StorageSettings(f"file:{folder}")
        index = open_case_index(CaseIndexSettings(storage, resident=resident))
        assert isinstance(index, LanceCaseIndex)
        all_opened.append(index)
        return index

    yield open_one
    for index in all_opened:
        index.close()


def slides(index: CaseIndex) -> list[str]:
    return sorted(hit.entry.slide_id for hit in index.search(like(entry("q"), count=1000)))


def left_in(folder: Path, found: CaseEntry) -> list[str]:
    """Return the files that hold the text or the first region of an entry."""
    traces = (found.text.encode(), found.vectors.regions[0].astype("<f2").tobytes())
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(trace in path.read_bytes() for trace in traces)]


def copies_made(index: LanceCaseIndex, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that grows with every copy that this index makes of itself."""
    made: list[Any] = []
    fill = index._writer._fill

    def counted(*arguments: Any) -> int:
        made.append(arguments)
        return fill(*arguments)

    monkeypatch.setattr(index._writer, "_fill", counted)
    return made


def compact_and_die_before_clearing_up(index: LanceCaseIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = index._writer._versions
    fill = index._writer._fill

    def fill_and_die(*arguments: Any) -> None:
        fill(*arguments)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(index._writer, "_fill", fill_and_die)
        with suppress(KilledError):
            index.compact()
    assert versions.standing().current is not None


def test_a_compaction_copies_the_version_that_it_follows(
    opened: Callable[..., LanceCaseIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process compacts in between, and is killed before it removes the version before.

    What is put and withdrawn then is in the new version only: it is neither lost, nor does it come back.
    """
    index, other = opened(), opened()
    index.put([entry("a", 1), GONE])
    changes = index._writer._changes

    def and_then(version: Any) -> bool:
        answer = changes(version)
        compact_and_die_before_clearing_up(other, monkeypatch)
        other.put([entry("new", 3)])
        other.withdraw(["gone"])
        return answer

    monkeypatch.setattr(index._writer, "_changes", and_then)
    index.compact()
    assert slides(opened()) == ["a", "new"]


def test_a_compaction_whose_table_another_process_replaces_looks_at_the_new_one(
    opened: Callable[..., LanceCaseIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, other = opened(), opened()
    index.put([entry("a", 1)])
    changes = index._writer._changes

    def but_before(version: Any) -> bool:
        monkeypatch.undo()
        other.compact()
        other.put([entry("new", 3)])
        return changes(version)

    monkeypatch.setattr(index._writer, "_changes", but_before)
    index.compact()
    assert slides(opened()) == ["a", "new"]


def test_what_is_withdrawn_while_a_version_is_finished_goes_with_the_next_compaction(
    folder: Path, opened: Callable[..., LanceCaseIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, other = opened(), opened()
    index.put([*(entry(f"s{n}", n) for n in range(50)), GONE])
    tidy = index._writer._tidy

    def and_then(table: Any) -> None:
        tidy(table)
        other.withdraw(["gone"])
        index._link.run(table.checkout_latest)

    with monkeypatch.context() as patch:
        patch.setattr(index._writer, "_tidy", and_then)
        index.compact()
    assert left_in(folder, GONE)
    other.drop_withdrawn()
    assert not left_in(folder, GONE)
    assert len(slides(opened())) == 50


def test_of_many_that_are_withdrawn_in_a_row_not_each_costs_a_copy(
    folder: Path, opened: Callable[..., LanceCaseIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one that is dropped takes along what is withdrawn by then; nothing is left for the others."""
    index = opened()
    names = [f"w{n}" for n in range(10)]
    index.put([entry("kept", 1), *(entry(name, 10 + n) for n, name in enumerate(names))])
    copies = copies_made(index, monkeypatch)
    dropped: list[int] = []
    for name in names:
        index.withdraw([name])
        dropped.append(index.drop_withdrawn(lambda: names))
        index.put([entry("kept", 1)])
    assert len(copies) == 1
    assert dropped == [9, *[0] * 9]
    assert slides(opened()) == ["kept"]
    assert not any(left_in(folder, entry(name, 10 + n)) for n, name in enumerate(names))


def test_who_signs_again_while_withdrawn_cases_are_dropped_is_not_dropped(
    opened: Callable[..., LanceCaseIndex],
) -> None:
    index, other = opened(), opened()
    index.put([entry("a", 1), entry("again", 2), GONE])
    index.withdraw(["gone"])

    def withdrawn() -> list[str]:
        other.put([entry("again", 2, signed=True)])
        return ["again", "gone"]

    index.drop_withdrawn(withdrawn)
    assert slides(opened()) == ["a", "again"]


def test_what_was_withdrawn_and_put_again_during_a_compaction_stays(
    opened: Callable[..., LanceCaseIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a draft, in place of a signature that is gone: the copy of the signature does not replace it."""
    index, other = opened(), opened()
    index.put([entry("a", 1), entry("s", 2, signed=True)])
    merge = index._writer._merge_copied

    def and_before(*arguments: Any) -> None:
        other.withdraw(["s"])
        other.put([entry("s", 2)])
        merge(*arguments)

    monkeypatch.setattr(index._writer, "_merge_copied", and_before)
    index.compact()
    assert slides(opened()) == ["a", "s"]
    assert not opened().find("s").signed


def test_a_put_that_was_killed_half_way_shows_in_the_version_that_lacks_it(
    opened: Callable[..., LanceCaseIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that its event is not taken for done: the next version would lack the case."""
    index, other = opened(), opened()
    index.put([entry("a", 1)])
    assert [copy.slide_id for copy in index.copies("a")] == ["a"]
    assert opened().copies("b") == [None]
    merge, written = other._writer._merge, []

    def once(*arguments: Any) -> int:
        if written:
            raise KilledError
        written.append(arguments)
        return merge(*arguments)

    def entries() -> Iterator[CaseEntry]:
        yield entry("a", 1)
        with monkeypatch.context() as patch:
            patch.setattr(other._writer, "_merge", once)
            with suppress(KilledError):
                other.put([entry("b", 2)])
        assert other.find("b") is not None
        assert [copy and copy.slide_id for copy in other.copies("b")] == ["b", None]
        other.put([entry("b", 2)])
        assert [copy and copy.slide_id for copy in other.copies("b")] == ["b", "b"]

    index.rebuild(MODEL, entries, progress=lambda _: None)
    assert slides(opened()) == ["a", "b"]


def test_a_version_that_was_announced_and_not_made_yet_holds_nothing(
    opened: Callable[..., LanceCaseIndex],
) -> None:
    index = opened()
    index.put([entry("a", 1)])
    assert index._writer._versions.announce(Version(2, new_table()))
    assert [copy and copy.slide_id for copy in index.copies("a")] == ["a", None]


def test_a_searcher_follows_an_index_that_was_removed_and_built_anew(
    folder: Path, opened: Callable[..., LanceCaseIndex]
) -> None:
    """Its versions have the numbers of those that the searcher knows, and other tables."""
    searcher, first = opened(resident=True), opened()
    first.put([entry("a", 1)])
    until(lambda: slides(searcher) == ["a"], 30, "the first index is seen")
    shutil.rmtree(folder)
    opened().put([entry("b", 2)])
    until(lambda: slides(searcher) == ["b"], 30, "the second index is seen")


def test_a_searcher_goes_on_after_rows_that_it_cannot_read(
    opened: Callable[..., LanceCaseIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And then forgets what it has read of them, which would mix up the vectors of all that come later."""
    searcher, writer = opened(resident=True), opened()
    writer.put([entry("a", 1)])
    until(lambda: slides(searcher) == ["a"], 30, "the searcher sees the first slide")
    broken: list[str] = []

    def fail(*_: Any) -> None:
        broken.append("once")
        monkeypatch.undo()
        raise ValueError("cannot reshape array")

    monkeypatch.setattr(Shard, "_add_vectors", fail)
    writer.put([entry("b", 2)])
    until(lambda: slides(searcher) == ["a", "b"], 30, "the searcher sees the second slide")
    assert broken
    for name, seed in (("a", 1), ("b", 2)):
        (best, *_) = searcher.search(like(entry(name, seed)))
        assert best.entry.slide_id == name
        assert best.score == pytest.approx(1.0, abs=1e-2)


def test_a_rebuild_says_that_it_lives_however_slowly_its_entries_come(
    opened: Callable[..., LanceCaseIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each slide is read from a slow store and encoded: 500 of them may take a quarter of an hour."""
    index = opened()
    index.put([entry("a", 1)])
    now = [0.0]
    renewed: list[float] = []
    monkeypatch.setattr(index._writer, "_clock", lambda: now[0])
    versions = index._writer._versions
    renew = versions.renew

    def noted(version: Any) -> None:
        renewed.append(now[0])
        renew(version)

    monkeypatch.setattr(versions, "renew", noted)

    def entries() -> Iterator[CaseEntry]:
        for n in range(20):
            now[0] += 10.0
            yield entry(f"s{n}", n)

    index.rebuild(MODEL, entries, progress=lambda _: None)
    pauses = [after - before for before, after in zip([0.0, *renewed], renewed, strict=False)]
    assert max(pauses) <= 3 * writing._RENEW_S
    assert len(slides(opened())) == 20
