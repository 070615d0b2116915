"""What the version before left behind goes on working: a home folder, a Kafka topic, a store.

`tests/recorded/record.py` recorded them, with commit 434fc24. In each, "done" is drafted, "letter" ended in a
dead letter because its file was missing for a while, and "waiting" was announced to workers that did not run.
The recorded workers had the tiny model as that commit exported it. Today's export has another digest, as any
change of a model has: a record that comes again is drafted under a name of its own, beside what is there.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import tiny_model
from cli_runs import histgen
from kafka import KafkaProducer
from running_stack import RunningStack, stack_up
from servers.s3_servers import MotoServer
from waiting import until

from histgen_lib.bus import BusSettings, open_subscription
from histgen_lib.catalogue.index import open_index, store_name
from histgen_lib.stack.kafka import KafkaProcess
from histgen_lib.storage import StorageSettings

RECORDED = Path(__file__).resolve().parents[2] / "recorded"
PLACEHOLDER = "@HOME@"
BUCKET = "scans"
SLIDES = ("done", "letter", "waiting")
LONG_S = 300.0

pytestmark = pytest.mark.usefixtures("bucket")


@pytest.fixture
def bucket(s3_credentials, tmp_path, monkeypatch) -> Iterator[None]:
    """Run a server with the bucket in which the recorded slides lie; all of them are there now."""
    server = MotoServer(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server.start()
    client = server.client(BUCKET)
    client.create_bucket(Bucket=BUCKET)
    for slide in SLIDES:
        key = f"{slide}/{slide}.tiff"
        client.upload_file(str(RECORDED / "slides" / f"{slide}.tiff"), BUCKET, key)
    yield
    server.kill()


def unpacked(archive: str, folder: Path) -> Path:
    """Unpack a recording, with the path of `folder` where it has a placeholder."""
    with tarfile.open(RECORDED / archive) as tar:
        tar.extractall(folder, filter="tar")
    record = folder / "stack.json"
    if record.exists():
        record.write_text(record.read_text().replace(PLACEHOLDER, str(folder)))
        with closing(sqlite3.connect(folder / "index.db")) as index:
            index.execute("UPDATE fact SET value = replace(value, ?, ?)", (PLACEHOLDER, str(folder)))
            index.commit()
    return folder


def options() -> tuple[object, ...]:
    return ("--model", tiny_model.tiny_model(), "--inference", "onnx", "--allow", f"s3://{BUCKET}")


def states(stack: RunningStack) -> dict[str, str]:
    return {slide["slide_id"]: slide["state"] for slide in stack.json("status")["slides"]}


def contents(home: Path, *, of: str = "") -> dict[str, bytes]:
    """Return the objects of a store by key, of a slide's bags and reports alone if one is named."""
    keys = {path.relative_to(home / "objects").as_posix(): path for path in (home / "objects").rglob("*")}
    rooms = (f"bags/{of}/", f"reports/{of}/") if of else ("",)
    return {key: path.read_bytes() for key, path in keys.items() if path.is_file() and key.startswith(rooms)}


def bags_in(found: dict[str, bytes]) -> set[str]:
    return {key for key in found if key.startswith("bags/")}


def events_of(bus: BusSettings, topic: str) -> list[tuple[str, str]]:
    """Return slide and id of every event that was ever published to a topic."""
    found = []
    with closing(open_subscription(bus, topic, "test-recorded-past")) as subscription:
        while delivery := subscription.next(5):
            found.append((delivery.event.key, delivery.event.id))
            subscription.done(delivery)
    return found


def index_time(home: Path) -> str | None:
    index = open_index(home / "index.db", store_name(StorageSettings(f"file:{home / 'objects'}")))
    assert index, "the index can be read"
    with closing(index):
        return index.fact("made")


def finish(stack: RunningStack) -> None:
    """Have the waiting slide drafted, then the dead letter replayed."""
    until(lambda: states(stack).get("waiting") == "drafted", LONG_S, "the waiting slide to be drafted")
    assert states(stack) == {"done": "drafted", "letter": "dead-letter", "waiting": "drafted"}
    assert stack("replay", "--code", "slide-missing").code == 0
    until(lambda: states(stack)["letter"] == "drafted", LONG_S, "the replayed slide to be drafted")


def test_a_recorded_home_is_taken_up_where_it_was_left(tmp_path):
    home = unpacked("home.tar.xz", tmp_path / "home")
    before, indexed_at = contents(home, of="done"), index_time(home)
    bus = BusSettings(f"embedded:{home / 'bus.db'}")
    with stack_up(home, *options()) as stack:
        finish(stack)
        again = stack.json("submit", f"s3://{BUCKET}/done/done.tiff")["slides"][0]
        verified, audited = stack.json("verify"), stack.json("audit", "verify")
        known = stack.json("status", "done")["slide"][0]

    assert again["status"] == "duplicate"
    assert contents(home, of="done") == before
    assert (known["state"], known["event_id"]) == ("drafted", again["event_id"])
    assert sorted(slide for slide, _ in events_of(bus, "report.drafted")) == sorted(SLIDES)
    assert (verified["objects_damaged"], audited["faults"]) == ([], [])
    assert index_time(home) == indexed_at, "the index was read, and not rebuilt"


def test_a_recorded_home_is_read_while_no_stack_runs(tmp_path):
    home = unpacked("home.tar.xz", tmp_path / "home")
    before, indexed_at = contents(home), index_time(home)
    status = json.loads(histgen("status", "--home", home, "--json").out)
    verified = histgen("verify", "--home", home, "--json")
    letters = json.loads(histgen("replay", "--all", "--dry-run", "--home", home, "--json").out)

    assert {one["slide_id"]: one["state"] for one in status["slides"]} == {
        "done": "drafted",
        "letter": "dead-letter",
        "waiting": "scanned",
    }
    assert (verified.code, json.loads(verified.out)["objects_damaged"]) == (0, [])
    assert [one["code"] for one in letters["letters"]] == ["slide-missing"]
    assert {key: data for key, data in contents(home).items() if key in before} == before
    assert index_time(home) == indexed_at


def test_recorded_kafka_records_are_worked_through_on_a_recorded_store(tmp_path, kafka_home):
    home = unpacked("store.tar.xz", tmp_path / "home")
    before = contents(home, of="done")
    broker = KafkaProcess(kafka_home, tmp_path / "broker")
    broker.start()
    with stack_up(home, *options(), "--broker", broker.url) as stack:
        publish(broker)
        finish(stack)
        verified = stack.json("verify")
    drafted = events_of(BusSettings(broker.url), "report.drafted")
    broker.stop()

    after = contents(home, of="done")
    changed = {key for key, data in before.items() if after.get(key) != data}
    assert changed == {"reports/done/latest.json"}, "it points to the draft of the model exported today"
    assert bags_in(after) == bags_in(before), "the recorded bag is used"
    assert len({event for slide, event in drafted if slide == "done"}) == 1, "the same event each time"
    assert {slide for slide, _ in drafted} == set(SLIDES)
    assert verified["objects_damaged"] == []


def publish(broker: KafkaProcess) -> None:
    """Publish the recorded records as they lay on the other broker."""
    with closing(
        KafkaProducer(bootstrap_servers=broker.url.removeprefix("kafka://"), acks="all")
    ) as producer:
        for record in json.loads((RECORDED / "kafka.json").read_text()):
            headers = [(name, base64.b64decode(value)) for name, value in record["headers"]]
            key, value = (base64.b64decode(record[name]) for name in ("key", "value"))
            producer.send(record["topic"], value, key, headers).get(60)
