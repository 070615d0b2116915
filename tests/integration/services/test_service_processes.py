"""`python -m services.tiler` and `services.reporter` as a lab runs them: real processes, broker and store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_model
from doors import bearer_of
from job_kit import event_of, scanned
from waiting import until

from histgen_lib.bus import BusSettings, open_publisher
from histgen_lib.events import Event
from histgen_lib.stack.children import dying_with_parent
from histgen_lib.storage import StorageSettings, open_store
from histgen_lib.worker import dead_letters

MINUTES_S = 180.0


class Services:
    """Both services over an embedded broker and a folder."""

    def __init__(self, folder: Path, model_dir: Path) -> None:
        self.folder = folder
        self.bus, self.store_url = f"embedded:{folder / 'bus.db'}", f"file:{folder / 'store'}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HISTGEN_")},
            "HISTGEN_BUS": self.bus,
            "HISTGEN_STORE": self.store_url,
            "HISTGEN_MODEL": str(model_dir),
            "HISTGEN_THREADS": "1",
            "HISTGEN_RUN_DIR": str(folder / "run"),
            "HISTGEN_TOKEN_FILE": str(folder / "token"),
            "OMP_NUM_THREADS": "1",
        }
        self.store = open_store(StorageSettings(self.store_url))
        self.processes = {name: self.start(name) for name in ("tiler", "reporter")}

    def start(self, name: str, **changes: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            command = dying_with_parent([sys.executable, "-m", f"services.{name}"])
            return subprocess.Popen(command, env=self.environment | changes, stdout=log, stderr=log)

    def publish(self, *events: Event) -> None:
        publisher = open_publisher(BusSettings(self.bus))
        for event in events:
            publisher.publish(event.type, event.key, event)
        publisher.close()

    def url(self, name: str) -> str:
        found = until(
            lambda: list((self.folder / "run").glob(f"{name}-*.json")), MINUTES_S, f"{name} listens"
        )
        return str(json.loads(found[0].read_text())["url"])

    def get(self, name: str, path: str) -> str:
        asked = urllib.request.Request(self.url(name) + path, headers=bearer_of(self.folder / "token"))
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return str(answer.read().decode())

    def drafted(self, owner: str) -> bool:
        return self.store.head(f"reports/{owner}/latest.json") is not None

    def stop(self) -> list[int]:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        return [process.wait(60) for process in self.processes.values()]


@pytest.fixture(scope="module")
def services(tmp_path_factory, model_dir) -> Iterator[Services]:
    running = Services(tmp_path_factory.mktemp("services"), model_dir)
    yield running
    for process in running.processes.values():
        process.kill()
        process.wait()


def test_slides_go_in_and_drafts_cases_and_dead_letters_come_out(services):
    folder = services.folder
    slides = [tiny_model.write_slide(folder / f"{name}.tif", side_px=512) for name in ("good", "one", "two")]
    bad = folder / "bad.tif"
    bad.write_bytes(b"not a slide")
    case = {"case_id": "C-1", "case_slides": ("one", "two")}
    good, one, two = (scanned(path, **(case if path.stem != "good" else {})) for path in slides)
    services.publish(*(event_of(data) for data in (good, scanned(bad), one, two)))

    until(lambda: services.drafted("good"), MINUTES_S, "the slide's draft")
    until(lambda: services.drafted("C-1"), MINUTES_S, "the case's draft")
    (letter,) = until(lambda: list(dead_letters(services.store)), MINUTES_S, "a dead letter")

    assert (letter.code, letter.event.key, letter.worker) == ("slide-format-unknown", "bad", "tiler")
    assert not services.drafted("one")
    assert services.get("tiler", "/readyz")
    assert 'histgen_jobs_total{outcome="done",worker="tiler"} 3.0' in services.get("tiler", "/metrics")
    assert "histgen_tiles_encoded_total" in services.get("tiler", "/metrics")
    counted = 'histgen_stage_seconds_count{stage="generate",worker="reporter"} 2.0'
    until(lambda: counted in services.get("reporter", "/metrics"), MINUTES_S, "both drafts to be counted")


def test_told_to_stop_they_stop_cleanly(services):
    assert services.stop() == [0, 0]
    assert list((services.folder / "run").glob("*.json")) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [({"HISTGEN_BUS": "nonsense"}, "settings-invalid"), ({"HISTGEN_MODEL": "/nowhere"}, "model-missing")],
)
def test_what_is_for_a_person_to_mend_ends_them_with_78_and_says_so(services, change, code):
    log = services.folder / "tiler.log"
    before = log.stat().st_size

    assert services.start("tiler", **change).wait(60) == 78
    assert code in log.read_text()[before:]
