"""A real librarian over a real index, store and broker: what is said of a case ends in the index."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from job_kit import JobLab, drafts_of, event_of, scanned
from tiny_model import write_slide
from waiting import until

from histgen_lib.bus import BusSettings, open_publisher
from histgen_lib.catalogue.keys import ReportOwner
from histgen_lib.catalogue.sign_off import SignOff, Wish
from histgen_lib.events import Event
from histgen_lib.retrieval import CaseEntry, CaseIndex, CaseIndexSettings, open_case_index
from histgen_lib.stack.children import dying_with_parent
from histgen_lib.storage import StorageSettings

MINUTES_S = 180.0


@dataclass
class Library:
    """Drafts of a few slides, and what the librarian of this lab needs."""

    folder: Path
    model: Path
    lab: JobLab
    bus: BusSettings
    drafts: list[Event] = field(default_factory=list)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def index_url(self) -> str:
        return f"file:{self.folder / 'index'}"

    def index(self) -> CaseIndex:
        return open_case_index(CaseIndexSettings(StorageSettings(self.index_url)))

    def entry(self, slide_id: str) -> CaseEntry | None:
        with closing(self.index()) as opened:
            return opened.find(slide_id)

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start a librarian."""
        outside = {name: value for name, value in os.environ.items() if not name.startswith("HISTGEN_")}
        ours = {
            "HISTGEN_BUS": self.bus.url,
            "HISTGEN_STORE": f"file:{self.folder / 'store'}",
            "HISTGEN_CASE_INDEX": self.index_url,
            "HISTGEN_MODEL": str(self.model),
            "HISTGEN_THREADS": "1",
            "HISTGEN_TOKEN_FILE": str(self.folder / "token"),
            "HISTGEN_BUS_SESSION_S": "2",
        }
        command = dying_with_parent([sys.executable, "-P", "-m", "services.librarian"])
        with (self.folder / f"librarian-{len(self.running)}.log").open("wb") as log:
            process = subprocess.Popen(command, env=outside | ours | environment, stdout=log, stderr=log)
        self.running.append(process)
        return process

    def publish(self, *events: Event) -> None:
        with closing(open_publisher(self.bus)) as publisher:
            for event in events:
                publisher.publish(event.type, event.key, event)

    def sign_off(self, act: Callable[[SignOff], object]) -> None:
        with closing(open_publisher(self.bus)) as publisher:
            act(SignOff(self.lab.store, publisher))


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
    lab = JobLab.copy_of(original, tmp_path, model)
    made = Library(tmp_path, model, lab, BusSettings(f"embedded:{tmp_path / 'bus.db'}"), drafts)
    yield made
    for process in made.running:
        process.kill()
        process.wait(MINUTES_S)


def test_a_case_is_indexed_signed_and_withdrawn(library: Library):
    library.publish(*library.drafts)
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
