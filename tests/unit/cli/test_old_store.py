"""A store that the version before has left is read: everything in it is what it was then.

Keys and values are written out here as that version wrote them; nothing of today's code makes them.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from histgen_lib.bus import BusSettings, open_subscription
from histgen_lib.catalogue.index import make_index, store_name
from histgen_lib.catalogue.indexer import Indexer
from histgen_lib.client.home import StackHome, StackRecord
from histgen_lib.storage import StorageSettings, open_store

TIME = "2026-01-01T12:00:00+00:00"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class OldStore:
    """Writes what gateway, tiler and reporter of the version before did."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, key: str, value: object) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))

    def event(
        self, slide: str, *, source: str = "/histgen/gateway", ce_id: str = "", replay: int = 0, **case
    ):
        trace = f"00-{sha(slide)[:32]}-{'1' * 16}-01"
        return {
            "headers": {
                "ce_specversion": "1.0",
                "ce_id": ce_id or sha(slide)[:32],
                "ce_type": "slide.scanned",
                "ce_source": source,
                "ce_subject": slide,
                "ce_time": TIME,
                "ce_schemaversion": "1",
                "ce_scannedat": TIME,
                "ce_replay": str(replay),
                "ce_traceparent": trace,
                "traceparent": trace,
                "content-type": "application/json",
            },
            "data": {
                "slide_id": slide,
                "uri": f"file:///scans/{slide}.svs",
                "content_id": sha(f"bytes of {slide}"),
                "size_bytes": 10,
                "mpp": None,
                "case_id": case.get("case_id"),
                "case_slides": case.get("case_slides", []),
                "turn": 0,
            },
        }

    def scan(self, slide: str, **case) -> None:
        event = self.event(slide, **case)
        content, made = event["data"]["content_id"], event["headers"]["ce_id"]
        self.put(f"slides/{slide}/scanned.json", {"event": event})
        self.put(f"gateway/owners/{slide}", {"schema": 1, "uri": event["data"]["uri"], "content_id": content})
        self.put(f"gateway/contents/{content}/{made}.json", {"event": event})
        self.put(f"bags/{slide}/{sha(slide)}.scan.json", {**self._told(slide), "slide_id": slide})

    def report(self, owner: str, *slides: str) -> str:
        """Leave a report of a slide, or of a case's `slides`, and point to it."""
        draft = {
            "slide_id": owner,
            "text": f"Report of {' and '.join(slides) or owner}",
            "fields": {"diagnosis": "Adenoma"},
            "abstained": False,
            "out_of_distribution": {"flag": False},
            "confidence": 0.9,
            "provenance": {"slide": self._told(owner)},
        }
        if slides:
            draft |= {"case_id": owner, "slides": [{"slide_id": s, "slide": self._told(s)} for s in slides]}
        digest = sha(draft["text"])
        key = f"reports/{owner}/{digest}/draft.json"
        self.put(key, draft)
        entry = {"schema": 1, "slide_id": owner, "report_digest": digest, "draft": key, "turn": 0}
        history = self.folder / f"reports/{owner}/latest.history"
        known = sorted(history.iterdir()) if history.exists() else []
        previous = [json.loads(path.read_text())["report_digest"] for path in reversed(known)]
        self.put(f"reports/{owner}/latest.history/{len(known) + 1:06}.json", entry)
        self.put(f"reports/{owner}/latest.json", {**entry, "previous": previous})
        return key

    def letter(self, room: str, event: dict, worker: str = "tiler") -> str:
        made = event["headers"]["ce_id"]
        value = {"schema": 1, "event_id": made, "code": "slide-damaged", "message": "m", "hint": "h"}
        self.put(f"{room}/{made}.json", {**value, "attempts": 1, "worker": worker, "event": event})
        if room == "dead-letter":
            self.put(f"attempts/{worker}/{made}/1", "mark")
        return made

    def _told(self, slide: str) -> dict:
        return {"content_id": sha(f"bytes of {slide}"), "mpp": 0.5}


class Old:
    """The home of a stack of the version before, stopped; `keys` and `names` say what to look for."""

    def __init__(self, folder: Path, histgen) -> None:
        self.home, self._histgen = StackHome(folder), histgen
        self.bus = BusSettings(f"embedded:{folder / 'bus.db'}")
        self.storage = StorageSettings(f"file:{folder / 'objects'}")
        with self.home.locked():
            self.home.write(
                StackRecord(1, "http://127.0.0.1:9", self.bus.url, self.storage.url, None, "onnx", "")
            )
        write = OldStore(folder / "objects")
        write.scan("alone")
        self.keys = {"alone": write.report("alone")}
        for slide in ("c1", "c2"):
            write.scan(slide, case_id="C", case_slides=["c1", "c2"])
            bag = {"schema": 1, "slide_id": slide, "uri": "u", "bag_digest": sha(slide), "turn": 0}
            bag |= {"bag_key": "b", "scan_key": "s", "case_slides": ["c1", "c2"]}
            write.put(f"cases/C/{slide}.history/000001.json", bag)
            write.put(f"cases/C/{slide}.json", {**bag, "previous": []})
        self.keys["c1"] = self.keys["c2"] = write.report("C", "c1", "c2")
        write.scan("alpha")  # what issue 16 found: a slide and a case of one id
        self.keys["alpha"] = write.report("alpha")
        write.scan("beta", case_id="alpha", case_slides=["beta"])
        self.keys["beta"] = write.report("alpha", "beta")
        write.scan("damaged")
        write.letter("dead-letter", write.event("damaged"))
        write.scan("twice")
        replayed = sha(f"replay|{write.letter('dead-letter-replayed', write.event('twice'))}")[:32]
        write.letter("dead-letter", write.event("twice", ce_id=replayed, replay=1))
        write.letter("dead-letter", write.event("by-hand", source="/scanner/1", ce_id="17"))
        write.scan("waiting")
        with closing(sqlite3.connect(self.home.index_path)) as index:  # of another schema: it is made anew
            index.executescript("CREATE TABLE entry (body TEXT); PRAGMA user_version = 2;")

    def command(self, *arguments) -> tuple[int, str, str]:
        return self._histgen(*arguments, "--home", self.home.folder, "--json")

    def __call__(self, *arguments) -> dict:
        code, out, err = self.command(*arguments)
        assert code == 0, err
        return json.loads(out)

    def index(self) -> None:
        index = make_index(self.home.index_path, store_name(self.storage))
        indexer = Indexer(open_store(self.storage), index)
        while not index.fact("whole"):
            indexer.turn()
        index.close()


@pytest.fixture
def old(tmp_path, histgen) -> Old:
    return Old(tmp_path / "home", histgen)


STATES = {
    "alone": "drafted",
    "c1": "drafted",
    "c2": "drafted",
    "alpha": "drafted",
    "beta": "drafted",
    "damaged": "dead-letter",
    "twice": "dead-letter",
    "by-hand": "dead-letter",
    "waiting": "bagged",
}


@pytest.mark.parametrize("indexed", [True, False])
def test_status_tells_the_same_of_it(old: Old, indexed: bool):
    if indexed:
        old.index()
    slides = {slide["slide_id"]: slide for slide in old("status")["slides"]}

    assert {name: slide["state"] for name, slide in slides.items()} == STATES
    drafts = {name: slide["draft"]["json"] for name, slide in slides.items() if slide["draft"]}
    assert {name: path.partition("/objects/")[2] for name, path in drafts.items()} == old.keys
    assert slides["by-hand"]["dead_letter"]["event_id"] == "17"


def test_where_a_case_had_covered_up_a_slide_both_are_told_truly(old: Old):
    alpha, beta = old("status", "alpha"), old("status", "beta")

    assert alpha["slide"][0]["draft"]["text"] == "Report of alpha"
    assert beta["slide"][0]["draft"]["text"] == "Report of beta"
    assert [warning["code"] for warning in alpha["warnings"]] == ["report-other-slide"]
    assert beta["warnings"] == old("status", "c1")["warnings"] == []
    assert {old.keys["beta"], "cases/C/c1.json"} <= {
        one["key"] for name in ("beta", "c1") for one in old("status", name)["objects"]
    }


def test_its_dead_letters_are_replayed(old: Old):
    old("replay", "17")
    old("replay", "--all")
    with closing(open_subscription(old.bus, "slide.scanned", "g")) as topic:
        found = [topic.next(5)]
        while delivery := found[-1]:
            topic.done(delivery)
            found.append(topic.next(0.1))
    replayed = {delivery.event.key: delivery.event for delivery in found if delivery}

    assert {name: event.replay for name, event in replayed.items()} == {
        "by-hand": 1,
        "damaged": 1,
        "twice": 2,
    }
    assert old("status", "--state", "dead-letter")["slides"] == []
    assert replayed["by-hand"].source == "/scanner/1"


def test_nothing_of_it_is_called_damaged_that_this_test_has_written_whole(old: Old):
    """Of bags and reports it has only written what says that they are there."""
    code, out, _ = old.command("verify")
    damaged = json.loads(out)["objects_damaged"]

    assert code == 1
    assert {one["kind"] for one in damaged} == {"bag", "report"}
    assert {one["case_id"] for one in damaged if one["key"].startswith("reports/C/")} == {"C"}
    assert {one["case_id"] for one in damaged if one["key"].startswith(old.keys["beta"][:-10])} == {"alpha"}
    assert {one["case_id"] for one in damaged if one["key"].startswith(old.keys["alpha"][:-10])} == {None}
    assert all("letter" not in one["key"] for one in damaged)
