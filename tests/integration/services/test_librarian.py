"""A real librarian over a real index, store and broker: what is said of a case ends in the index."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from job_kit import JobLab, drafts_of, event_of, scanned
from library import MINUTES_S, Library
from tiny_model import write_slide
from waiting import until

from histgen_lib.bus import BusSettings
from histgen_lib.catalogue.keys import ReportOwner
from histgen_lib.catalogue.sign_off import Wish
from histgen_lib.events import Event


@pytest.fixture(scope="module")
def drafted(tmp_path_factory) -> tuple[Path, list[Event]]:
    """Draft three slides, once."""
    from tiny_retrieval import tiny_retrieval_model

    folder = tmp_path_factory.mktemp("drafted")
    lab = JobLab.at(folder, tiny_retrieval_model())
    slides = [write_slide(folder / f"S{number}.tif", side_px=512, seed=number) for number in range(3)]
    return folder, drafts_of(lab, [event_of(scanned(slide)) for slide in slides])


@pytest.fixture
def library(drafted, tmp_path) -> Iterator[Library]:
    from tiny_retrieval import tiny_retrieval_model

    original, drafts = drafted
    model = tiny_retrieval_model()
    JobLab.copy_of(original, tmp_path, model)
    made = Library(tmp_path, model, BusSettings(f"embedded:{tmp_path / 'bus.db'}", session_s=2.0))
    made.publish(*drafts)
    yield made
    made.kill()


def test_a_case_is_indexed_signed_and_withdrawn(library: Library):
    librarian = library.start()
    until(lambda: all(library.entry(f"S{n}") for n in range(3)), MINUTES_S, "three entries")
    owner = ReportOwner("S1")
    library.sign_off(lambda desk: desk.sign(Wish(owner, "Dr. A", text="Colon, biopsy:\n  Adenoma")))
    entry = until(lambda: (e := library.entry("S1")) and e.signed and e, MINUTES_S, "the signed entry")
    assert entry.text == "Colon, biopsy:\n  Adenoma"
    vector = entry.vectors.slide.tobytes()
    library.sign_off(lambda desk: desk.withdraw(owner, by="Dr. A"))
    until(lambda: library.entry("S1") is None, MINUTES_S, "the entry to go")
    until(lambda: not holding(library.folder / "index", vector[:16]), MINUTES_S, "its bytes to go")
    librarian.send_signal(signal.SIGTERM)
    assert librarian.wait(MINUTES_S) == 0
    with closing(library.index()) as index:
        assert (index.state().cases, index.state().slides) == (2, 2)


def test_without_a_retrieval_network_it_does_not_start(library: Library, model_dir):
    librarian = library.start(HISTGEN_MODEL=str(model_dir))
    assert librarian.wait(MINUTES_S) == 78
    assert b"model-without-retrieval" in (library.folder / "librarian-0.log").read_bytes()


def holding(folder: Path, piece: bytes) -> list[Path]:
    """Return the files below a folder that hold these bytes."""
    return [path for path in folder.rglob("*") if path.is_file() and piece in path.read_bytes()]
