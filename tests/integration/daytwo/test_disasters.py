"""The disaster drill: a backup made in mid-work and restored, a broker that is lost, a store that is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fleet import WAIT_S, Fleet, aborting, command_line
from harness import SESSION_S, on_this_machine
from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from service_access import bearer_of

from histgen_lib.bus import BusSettings
from histgen_lib.events import SLIDE_SCANNED
from histgen_lib.stack.kafka import KafkaProcess
from histgen_lib.storage import StorageSettings

BACKUP = Path(__file__).resolve().parents[3] / "deploy" / "backup.sh"
STAGES = ("pointers", "results", "register", "audit")
ALL = ("gateway", "tiler", "reporter")


pytestmark = pytest.mark.timeout(1800)  # many services are started, on a machine that may be busy


@pytest.fixture
def fleet(tmp_path, model_dir) -> Iterator[Fleet]:
    place = on_this_machine(tmp_path / "place")
    yield from aborting(Fleet(place, tmp_path / "fleet", model_dir, slides=12))


def folder_of(fleet: Fleet) -> Path:
    return Path(fleet.place.storage.url.removeprefix("file:"))


def back_up(fleet: Fleet, to: Path, *stages: str) -> None:
    subprocess.run([str(BACKUP), str(folder_of(fleet)), str(to), *stages], check=True)


def damaged(store: Path) -> list[str]:
    """Verify a copy of a store; leave no trace in it."""
    looked_at = shutil.copytree(store, store.with_name(f"{store.name}-verified"))
    done = command_line("verify", "--store", f"file:{looked_at}", "--json")
    shutil.rmtree(looked_at)
    return json.loads(done.stdout)["objects_damaged"]


def states(store: Path) -> dict[str, str]:
    done = command_line("status", "--store", f"file:{store}", "--all", "--json")
    return {slide["slide_id"]: slide["state"] for slide in json.loads(done.stdout)["slides"]}


def elsewhere(fleet: Fleet, folder: Path, store: Path | None = None, **changes: BusSettings) -> Fleet:
    """Return a fleet at a new place: with an empty broker, and with a store that was copied there or none."""
    place = on_this_machine(folder / "place")
    if store:
        shutil.copytree(store, folder / "place" / "objects")
    fresh = Fleet(replace(place, **changes), folder / "fleet", fleet.model)
    fresh.inbox.rmdir()
    fresh.inbox.symlink_to(fleet.inbox)
    fresh.dropped = fleet.dropped
    return fresh


def test_a_backup_made_in_mid_work_is_whole_and_finished_after_its_restore(fleet, tmp_path):
    """Slides are announced and drafted between any two stages of the backup."""
    copy = tmp_path / "copy"
    fleet.bring(*ALL)
    fleet.drafted(*fleet.drop(2))
    for stage in STAGES:
        back_up(fleet, copy, stage)
        fleet.drafted(*fleet.drop())
    fleet.retire("tiler")
    (waiting,) = fleet.drop()
    fleet.until(lambda: len(fleet.keys("gateway/contents/")) == 7, WAIT_S, "the last slide is announced")
    again = shutil.copytree(copy, tmp_path / "again")
    back_up(fleet, again)
    fleet.abort()
    first, second = states(copy), states(again)

    assert damaged(copy) == damaged(again) == []
    meanwhile = ["bagged", "scanned", None, None, None]
    assert [first.get(slide) for slide in fleet.dropped] == ["drafted", "drafted", *meanwhile]
    assert second == {slide: "scanned" if slide == waiting else "drafted" for slide in fleet.dropped}
    for number, store in enumerate((copy, again)):
        restored = elsewhere(fleet, tmp_path / f"restored-{number}", store)
        try:
            restored.bring(*ALL)
            assert restored.resend()
            restored.finish()
            restored.check_each_once()
            restored.stop()
        finally:
            restored.abort()
        assert damaged(folder_of(restored)) == []
        kept = {key: sha for key, sha in fleet.remains().results().items() if "latest" not in key}
        assert kept.items() <= restored.remains().results().items(), "the same drafts, byte for byte"


def test_a_backup_in_the_opposite_order_would_not_be_whole(fleet, tmp_path):
    fleet.bring(*ALL)
    fleet.drafted(*fleet.drop())
    for stage in reversed(STAGES):
        back_up(fleet, tmp_path / "copy", stage)
        fleet.drafted(*fleet.drop())
    fleet.stop()

    assert damaged(tmp_path / "copy") != []


def interrupted(fleet: Fleet) -> None:
    """Draft two slides; leave one between tiler and reporter, one with the tiler, and stop everything."""
    fleet.bring(*ALL)
    fleet.drafted(*fleet.drop(2))
    fleet.retire("reporter")
    fleet.drop()
    fleet.until(lambda: fleet.finished("tiler") == 3, WAIT_S, "three bags")
    fleet.retire("tiler")
    fleet.drop()
    fleet.until(lambda: len(fleet.keys("gateway/contents/")) == 4, WAIT_S, "the last slide is announced")
    fleet.retire("gateway")


@pytest.mark.parametrize("broker", ["embedded", "kafka"])
def test_with_an_empty_broker_the_store_says_what_is_unfinished(fleet, request, tmp_path, broker):
    interrupted(fleet)
    bus = BusSettings(request.getfixturevalue("own_kafka").url, 4, SESSION_S) if broker == "kafka" else None
    fresh = elsewhere(fleet, tmp_path / "fresh", folder_of(fleet), **({"bus": bus} if bus else {}))
    before = set(fresh.drafts())
    try:
        fresh.bring(*ALL)
        assert sorted(fresh.resend()) == sorted(fresh.dropped[2:])
        fresh.finish()
        fresh.check_each_once()
        assert before <= set(fresh.drafts())
        fresh.stop()
    finally:
        fresh.abort()


def test_with_an_empty_store_the_watched_folder_brings_every_slide_back(fleet, tmp_path):
    """A bag that was on its way went with the store: its letter is put away, its slide announced again."""
    interrupted(fleet)
    bagged = fleet.dropped[2]
    place = replace(fleet.place, storage=StorageSettings(f"file:{tmp_path / 'empty'}"))
    fresh = Fleet(place, fleet.folder, fleet.model)
    fresh.dropped = fleet.dropped
    try:
        fresh.bring("reporter")
        fresh.until(lambda: fresh.letters() == {bagged: "object-missing"}, WAIT_S, "the bag is missed")
        fresh.bring("gateway", "tiler")
        fresh.finish()
        fresh.replay(code="object-missing")
        assert fresh.resend() == [bagged]
        fresh.drafted(*fresh.dropped)
        fresh.finish()
        fresh.check_each_once()
        fresh.stop()
    finally:
        fresh.abort()


def test_with_an_empty_store_kafkas_records_bring_back_what_no_folder_holds(fleet, own_kafka, tmp_path):
    """The tiler's group is put back to the first record. What people stated is in there, too."""
    fleet.place = replace(fleet.place, bus=BusSettings(own_kafka.url, 4, SESSION_S))
    fleet.bring(*ALL)
    plain, stated = fleet.drop(2)
    fleet.drafted(plain, stated)
    state_mpp(fleet, stated, 1.5)
    fleet.until(lambda: mpp_of(fleet, stated) == 1.5, WAIT_S, "a draft at the stated scale")
    fleet.until(fleet.idle, WAIT_S, "nothing is left to do")
    fleet.stop()
    rewind(own_kafka, SLIDE_SCANNED, "histgen-tiler")
    place = replace(fleet.place, storage=StorageSettings(f"file:{tmp_path / 'empty'}"))
    fresh = Fleet(place, tmp_path / "fresh", fleet.model)
    try:
        fresh.bring("tiler", "reporter")
        fresh.drafted(plain, stated)
        fresh.until(lambda: mpp_of(fresh, stated) == 1.5, WAIT_S, "a draft at the stated scale")
        fresh.until(fresh.idle, WAIT_S, "nothing is left to do")
        fresh.stop()
    finally:
        fresh.abort()

    assert fresh.keys("dead-letter/") == []
    assert sorted(fresh.drafts()) == sorted(fleet.drafts())


def state_mpp(fleet: Fleet, slide: str, mpp: float) -> None:
    """State a slide's scale, as `histgen submit --mpp` does."""
    body = {"uri": (fleet.inbox / f"{slide}.tif").as_uri(), "mpp": mpp}
    headers = bearer_of(fleet.folder / "token")
    httpx.post(f"{fleet.services['gateway'].url}/slides", json=body, headers=headers).raise_for_status()


def mpp_of(fleet: Fleet, slide: str) -> float | None:
    """Return the scale of a slide's latest draft; None while nothing points to one."""
    latest = fleet.store.find(f"reports/{slide}/latest.json")
    draft = latest and fleet.store.get(json.loads(latest)["draft"])
    return json.loads(draft)["provenance"]["slide"]["mpp"] if draft else None


def rewind(kafka: KafkaProcess, topic: str, group: str) -> None:
    """Put a group back to the first record, as kafka-consumer-groups.sh does by --to-earliest."""
    servers = kafka.url.removeprefix("kafka://")
    with closing(
        KafkaConsumer(bootstrap_servers=servers, group_id=group, enable_auto_commit=False)
    ) as consumer:
        parts = [TopicPartition(topic, part) for part in consumer.partitions_for_topic(topic)]
        consumer.assign(parts)
        consumer.commit({part: OffsetAndMetadata(0, "", -1) for part in parts})
