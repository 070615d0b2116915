"""A new service takes one row of the table and one folder; everything else knows it from there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
import tiny_model
from job_kit import JobLab, drafts_of, event_of, scanned
from waiting import until

from histgen_lib.bus import BusSettings, open_publisher, open_subscription
from histgen_lib.stack.children import dying_with_parent
from histgen_lib.storage import StorageSettings, open_store

OURS = Path(__file__).resolve().parents[3] / "services"
MINUTES_S = 180.0
ROW = """    Service(
        "toy",
        "worker",
        takes=(ReportDrafted,),
        gives=(),
        settings="services.toy.app:ToySettings",
        factory="services.toy.app:make_toy",
    ),
"""
MAIN = """from services.run import main

if __name__ == "__main__":
    main("toy")
"""
APP = """from pydantic import Field

from histgen_lib.storage import open_store
from histgen_lib.worker import Outcome
from services.settings import ServiceSettings
from services.wiring import storage_settings


class ToySettings(ServiceSettings):
    greeting: str = Field("hello", description="what it writes beside each draft")


class Toy:
    def __init__(self, settings):
        self.store, self.greeting = open_store(storage_settings(settings)), settings.greeting

    def find(self, event):
        return Outcome() if self.store.head(f"toys/{event.data.report_digest}") else None

    def handle(self, event, progress):
        self.store.put(f"toys/{event.data.report_digest}", self.greeting.encode())
        return Outcome()

    def ready(self):
        return ()

    def models(self):
        return ()


def make_toy(settings):
    return Toy(settings)
"""
STACK = """
import json, sys
from pathlib import Path
from histgen_lib.client.home import StackHome
from histgen_lib.stack.settings import StackSettings, service_environment, service_module, service_names
home = Path(sys.argv[1])
settings = StackSettings(home=home, model=home)
environment = service_environment(
    settings, "toy", home=StackHome(home), bus=settings.bus_url, inference="onnx", gateway="http://h:1"
)
print(json.dumps([service_names(settings), service_module("toy"), environment]))
"""


@dataclass
class House:
    """A copy of `services` with one row and one folder more, and the home of a stack that would run it."""

    folder: Path
    environment: dict[str, str]

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def run(self, *arguments: str) -> str:
        command = [sys.executable, "-P", *arguments]
        return subprocess.run(
            command, env=self.environment, stdout=subprocess.PIPE, text=True, timeout=MINUTES_S, check=True
        ).stdout


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> House:
    folder = tmp_path_factory.mktemp("house")
    copytree(OURS, folder / "services", ignore=ignore_patterns("__pycache__"))
    table = folder / "services" / "table.py"
    rows, end, rest = table.read_text().partition("\n)\n\n\ndef service_named")
    table.write_text(f"{rows}\n{ROW}{end.removeprefix(chr(10))}{rest}")
    (folder / "services" / "toy").mkdir()
    for name, text in {"__init__": "", "__main__": MAIN, "app": APP}.items():
        (folder / "services" / "toy" / f"{name}.py").write_text(text)
    (folder / "lab.yaml").write_text("toy: {greeting: ahoy}\n")
    (folder / "home").mkdir()
    outside = {name: value for name, value in os.environ.items() if not name.startswith("HISTGEN_")}
    ours = {"PYTHONPATH": str(folder), "HISTGEN_CONFIG": str(folder / "lab.yaml")}
    return House(folder, outside | ours)


@pytest.fixture(scope="module")
def started(house) -> tuple[list[str], str, dict[str, str]]:
    """Say what the local stack starts, and the toy's module and environment among it."""
    names, module, environment = json.loads(house.run("-c", STACK, str(house.home)))
    return names, module, house.environment | environment


def test_nothing_but_a_row_and_a_folder_is_added(house):
    ours = {path.relative_to(OURS): path.read_text() for path in OURS.rglob("*.py")}
    with_toy = {
        path.relative_to(house.folder / "services"): path.read_text()
        for path in (house.folder / "services").rglob("*.py")
    }
    changed = {path for path in ours if with_toy[path] != ours[path]}

    assert changed == {Path("table.py")}
    assert with_toy[Path("table.py")].replace(ROW, "") == ours[Path("table.py")]
    assert {path.parent for path in with_toy.keys() - ours.keys()} == {Path("toy")}


def test_the_local_stack_starts_it(started):
    names, module, _ = started

    assert names == ["gateway", "reporter", "toy", "tiler"]
    assert module == "services.toy"


def test_its_settings_are_shown_and_have_a_section_in_the_settings_file(house, started):
    shown = json.loads(
        House(house.folder, started[2]).run("-m", "histgen_lib.cli", "config", "show", "toy", "--json")
    )

    assert shown["greeting"] == {"value": "ahoy", "from": str(house.folder / "lab.yaml")}
    assert shown["run_dir"]["from"] == "HISTGEN_RUN_DIR"


def test_it_works_on_a_draft_and_commits_it(house, started, model_dir):
    _, module, environment = started
    lab = JobLab.at(house.folder / "lab", model_dir)
    slide = tiny_model.write_slide(house.folder / "sound.tif", side_px=512)
    (draft,) = drafts_of(lab, [event_of(scanned(slide))])
    bus, store = BusSettings(environment["HISTGEN_BUS"]), StorageSettings(environment["HISTGEN_STORE"])
    publisher = open_publisher(bus)
    publisher.publish(draft.type, draft.key, draft)
    publisher.close()
    key = f"toys/{draft.data.report_digest}"

    with (house.folder / "toy.log").open("wb") as log:
        command = dying_with_parent([sys.executable, "-P", "-m", module])
        toy = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    until(lambda: open_store(store).head(key), MINUTES_S, "the toy's object")
    toy.send_signal(signal.SIGTERM)  # it finishes the record in hand

    assert toy.wait(MINUTES_S) == 0
    assert open_store(store).get(key) == b"ahoy"
    reader = open_subscription(bus, draft.type, "histgen-toy")
    assert reader.next(0.0) is None
    assert reader.lag() == 0
    reader.close()
