"""Services of any version and model that come and go one by one while slides arrive in a watched folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from chaos_slides import write_good
from harness import Place, Stream, kind
from history import LETTERS
from processes import Service, thaw
from waiting import until

from histgen_lib.bus import open_publisher
from histgen_lib.catalogue import replay
from histgen_lib.events import REPORT_DRAFTED

RECORDED = Path(__file__).resolve().parents[2] / "recorded" / "version.tar.xz"
WAIT_S = 240.0
_COMPILED = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": ""}
"""Leaves compiled modules beside the code, which shows what was run."""


def version_before(folder: Path) -> Path:
    """Unpack the sources of the version before."""
    with tarfile.open(RECORDED) as tar:
        tar.extractall(folder, filter="data")
    return folder


class Fleet(Stream):
    """A gateway, tilers and reporters, called "<service>-<what you like>"; `drop` gives them slides."""

    def __init__(self, place: Place, folder: Path, model: Path, slides: int = 0, **settings: str) -> None:
        self.inbox, self._drawer = folder / "inbox", folder / "drawer"
        for path in (self.inbox, self._drawer):
            path.mkdir(parents=True, exist_ok=True)
        look = {"HISTGEN_WATCH": str(self.inbox), "HISTGEN_SETTLE_S": "0.2", "HISTGEN_LOOK_S": "0.1"}
        super().__init__(place, folder, model, {**look, "HISTGEN_NOTIFICATIONS": "", **settings})
        self._waiting = write_good(self._drawer, slides, side_px=512)
        self.dropped: list[str] = []

    def bring(self, *labels: str, code: Path | None = None, **settings: str) -> None:
        """Start services, of another version if `code` names one, and wait until they are ready."""
        for label in labels:
            self.starts[label] += 1
            log = self.folder / f"{label}.log"
            environment = self.environment(**settings) | (_COMPILED if code else {})
            self.services[label] = Service(kind(label), self.run_dir, log, environment, code)
        for label in labels:
            self.until(self.services[label].ready, WAIT_S, f"{label} is ready")

    def retire(self, *labels: str) -> None:
        """Stop services gracefully, as a rolling update does."""
        leaving = {label: self.services.pop(label) for label in labels}
        for service in leaving.values():
            service.ask_to_stop()
        assert {label: service.left() for label, service in leaving.items()} == dict.fromkeys(labels, 0)

    def retire_in_mid_job(self, label: str, arriving: str, **how: Any) -> None:
        """Retire a service that has a slide in hand, once another has arrived to share its work."""
        self.bring(arriving, **how)
        leaving, other = self.services[label], self.services[arriving]
        child, its_child = leaving.freeze_child(), other.freeze_child()
        until(lambda: leaving.in_flight() or not self.drop(), WAIT_S, f"{label} has a slide", every_s=1.0)
        leaving.ask_to_stop()
        for frozen in (its_child, child):
            with suppress(ProcessLookupError):  # an idle child that does not answer for 30 s is replaced
                thaw(frozen)
        del self.services[label]
        assert leaving.left() == 0

    def drop(self, count: int = 1) -> list[str]:
        """Put so many new slides into the watched folder; return their ids."""
        slides = [self._waiting.pop(0) for _ in range(count)]
        for slide in slides:
            part = self.inbox / f"{slide.name}.part"
            shutil.copyfile(slide, part)
            part.rename(self.inbox / slide.name)
        self.dropped += [slide.stem for slide in slides]
        return self.dropped[-count:]

    def finish(self) -> None:
        """Wait until every slide that was dropped has ended and nothing is left to do."""
        self.settle(len(self.dropped), WAIT_S)
        self.until(lambda: len(self.keys("slides/")) == len(self.dropped), WAIT_S, "every slide is known")

    def drafted(self, *slides: str) -> None:
        """Wait until these slides have a report."""
        self.until(lambda: set(slides) <= set(self.drafts()), WAIT_S, f"reports of {slides}")

    def letters(self) -> dict[str, str]:
        """Return the codes of all dead letters by slide."""
        letters = [letter.letter for letter in replay.choose(self.store) if letter.letter]
        return {letter.event.key: letter.code for letter in letters if letter.event}

    def replay(self, **which: str) -> None:
        """Replay dead letters, as `histgen replay` does."""
        with closing(open_publisher(self.place.bus)) as publisher:
            assert all(one.refused is None for one in replay.replay(self.store, publisher, **which))

    def resend(self) -> list[str]:
        """Announce unfinished slides again, as `histgen replay --unfinished` does; return their ids."""
        with closing(open_publisher(self.place.bus)) as publisher:
            return [slide.slide_id for slide in replay.resend(self.store, publisher)]

    def check_each_once(self) -> None:
        """Check that every slide that was dropped has one report, and that there is no dead letter."""
        assert self.keys(LETTERS) == []
        assert Counter(self.drafts()) == Counter(self.dropped)
        assert len(self.history().names[REPORT_DRAFTED]) <= len(self.dropped)


def command_line(
    *arguments: object, code: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `histgen`, of another version if `code` names one."""
    command = [sys.executable, "-m", "histgen_lib.cli", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "300", **(env or {})}
    return subprocess.run(
        command, cwd=code, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def aborting(fleet: Fleet) -> Iterator[Fleet]:
    """Yield a fleet, and kill what is left of it."""
    yield fleet
    fleet.abort()
