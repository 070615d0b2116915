"""The gateway as it runs: a process with a port, a broker and a store, which may be killed at any moment."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gateway_process import GatewayProcess, Listener, letters
from waiting import until

from histgen_lib.files import sha256_hex

DYING = """
import os, signal
from histgen_lib.storage import open_store
from histgen_lib.telemetry import configure_logging
from histgen_lib.runtime.stopping import Stop
from services.gateway.app import build
from services.gateway.settings import GatewaySettings
from services.wiring import storage_settings

class Dying:
    def __init__(self, store): self._store = store
    def __getattr__(self, name): return getattr(self._store, name)
    def put(self, key, data, **more):
        if key.startswith('slides/'):
            os.kill(os.getpid(), signal.SIGKILL)
        return self._store.put(key, data, **more)

settings = GatewaySettings.load()
configure_logging("gateway")
build(settings, Stop(), store=Dying(open_store(storage_settings(settings)))).run()
"""
"""A gateway that is killed the moment it writes its ledger."""


def _slide(gateway: GatewayProcess, name: str, content: str | None = None) -> Path:
    path = gateway.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content or f"pixels of {name}")
    return path


def test_a_slide_in_the_watched_folder_and_posted_is_announced_once(gateways, listener: Listener):
    gateway = gateways(watch=True).start()
    path = _slide(gateway, "a.svs")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: gateway.slide(path), range(16)))
    until(lambda: gateway.get("/status").json()["waiting"] == 0, 60, "the watch is done, too")
    assert {answer.json()["status"] for answer in answers} <= {"accepted", "duplicate"}
    _slide(gateway, "z.svs")
    events = listener.until_heard(2)
    assert sorted(event.key for event in events) == ["a", "z"]


def _copy_slowly(path: Path, content: bytes) -> float:
    """Write a file with pauses; return the longest pause."""
    longest, written = 0.0, time.monotonic()
    with path.open("wb", buffering=0) as copy:
        for start in range(0, len(content), 1000):
            copy.write(content[start : start + 1000])
            longest, written = max(longest, time.monotonic() - written), time.monotonic()
            time.sleep(0.1)  # the copy's own pace
    return longest


def test_a_slide_that_is_copied_slowly_is_announced_whole_and_once(gateways, listener: Listener):
    """The copy takes longer than the settle time, and never pauses as long."""
    gateway = gateways(watch=True, settle_s=1.0).start()
    for attempt in range(10):  # on a machine that stood still for a second, try again
        content = bytes([attempt]) * 20_000
        if _copy_slowly(gateway.folder / f"slow-{attempt}.svs", content) < 0.9:
            break
    slide_id = f"slow-{attempt}"
    until(lambda: slide_id in [event.key for event in listener.hear()], 60, "it is announced")
    _slide(gateway, "last.svs")
    until(lambda: "last" in [event.key for event in listener.hear()], 60, "one more is announced")
    (event,) = [event for event in listener.events if event.key == slide_id]
    assert (event.data.size_bytes, event.data.content_id) == (20_000, sha256_hex(content))


def test_mirax_is_announced_when_its_last_companion_arrives(gateways, listener: Listener):
    gateway = gateways(watch=True).start()
    _slide(gateway, "m.mrxs")
    _slide(gateway, "m/Slidedat.ini", "[DATAFILE]\nFILE_COUNT=1\nFILE_0=Data0000.dat\n")
    _slide(gateway, "probe.svs")
    assert [event.key for event in listener.until_heard(1)] == ["probe"]
    until(
        lambda: any("waits for the rest" in line["event"] for line in gateway.lines()),
        60,
        "the wait",
    )
    _slide(gateway, "m/Data0000.dat")
    assert [event.key for event in listener.until_heard(2)] == ["probe", "m"]


def test_a_kill_before_the_ledger_is_written_repeats_the_same_event(gateways, listener: Listener):
    gateway = gateways(watch=True)
    path = _slide(gateway, "a.svs")
    gateway.start(("-c", DYING))
    assert gateway.wait() == -9
    (first,) = listener.until_heard(1)
    gateway.start()
    _, second = listener.until_heard(2)
    assert first.id == second.id
    until(lambda: gateway.get("/status").json()["waiting"] == 0, 60, "the slide is dealt with")
    assert gateway.slide(path).json() == {"slide_id": "a", "event_id": first.id, "status": "duplicate"}


def test_kills_at_any_moment_lose_no_slide_and_give_none_two_ids(gateways, listener: Listener):
    gateway = gateways(watch=True, settle_s=0.1, look_s=0.05)
    for index in range(40):
        _slide(gateway, f"{index % 7}/s{index}.svs")
    for least in (0, 12):
        gateway.start()
        until(lambda least=least: len(listener.hear()) > least, 60, "some slides are announced")
        gateway.kill()
    gateway.start()
    until(lambda: len({event.key for event in listener.hear()}) == 40, 60, "all are announced")
    until(lambda: gateway.get("/status").json()["waiting"] == 0, 60, "nothing waits")
    assert len({event.id for event in listener.hear()}) == 40


def test_after_a_restart_nothing_is_read_again(gateways, listener: Listener):
    gateway = gateways(watch=True).start()
    for index in range(20):
        _slide(gateway, f"s{index}.svs")
    until(lambda: len(list(gateway.store.list("gateway/seen/"))) == 20, 60, "all are noted")
    gateway.terminate()
    assert gateway.wait() == 0
    gateway.start()
    _slide(gateway, "last.svs")
    assert {event.key for event in listener.until_heard(21)} >= {"last"}
    assert "histgen_slides_duplicate_total 0.0" in gateway.get("/metrics").text


def test_two_gateways_on_one_folder_announce_each_slide_under_one_id(gateways, listener: Listener):
    first, second = gateways(watch=True).start(), gateways(watch=True).start()
    for index in range(10):
        _slide(first, f"s{index}.svs")
    for gateway in (first, second):
        until(lambda one=gateway: one.get("/status").json()["waiting"] == 0, 60, "nothing waits")
    until(lambda: len({event.key for event in listener.hear()}) == 10, 60, "all are announced")
    assert len({event.id for event in listener.hear()}) == 10


def test_a_taken_id_ends_as_a_dead_letter(gateways, listener: Listener):
    gateway = gateways(watch=True).start()
    _slide(gateway, "one/a.svs", "one")
    listener.until_heard(1)
    _slide(gateway, "two/a.svs", "two")
    given_up = letters(gateway.bus)
    (event,) = given_up.until_heard(1)
    assert event.data.code == "slide-id-taken"
    letter = json.loads(gateway.store.get(event.data.key))
    assert letter["event"]["data"]["uri"].endswith("/two/a.svs")
    given_up.close()


def test_invalid_settings_end_the_process_with_an_explanation(gateways):
    gateway = gateways(roots="http://nowhere")
    with pytest.raises(AssertionError, match="settings-invalid"):
        gateway.start()
    assert gateway.wait() == 78
