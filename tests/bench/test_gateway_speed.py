"""What the gateway costs: scanning a large folder, and answering a POST. It measures and asserts nothing.

The slides are small; for a real one add the time to read and hash it (the last figure).
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import httpx
import pytest
from service_access import bearer, locked

from histgen_lib.bus import BusSettings, open_publisher
from histgen_lib.runtime.stopping import Stop
from histgen_lib.runtime.web.server import serving
from histgen_lib.storage import StorageSettings, open_store
from services.gateway.app import build
from services.gateway.folder import Folder
from services.gateway.settings import GatewaySettings
from services.gateway.watching import Tracker

FILES = (1_000, 5_000, 20_000)


def _fill(folder: Path, count: int) -> None:
    for index in range(count):
        if index % 50 == 0:
            (folder / f"{index // 50:04}").mkdir(parents=True, exist_ok=True)
        (folder / f"{index // 50:04}" / f"s{index}.svs").write_bytes(b"")


@pytest.mark.parametrize("count", FILES)
def test_scanning_a_folder(tmp_path: Path, count: int):
    _fill(tmp_path, count)
    folder, tracker = Folder(tmp_path), Tracker(settle_s=1e9, clock=time.monotonic)
    wall, cpu = [], []
    for _ in range(7):
        start, busy = time.perf_counter(), time.process_time()
        tracker.complete(folder.look())
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - busy)
    middle = statistics.median(wall[1:])
    print(f"\n{count} slides: first scan {wall[0] * 1e3:.0f} ms, later ones {middle * 1e3:.0f} ms", end="")
    print(f" ({statistics.median(cpu[1:]) * 1e3:.0f} ms of CPU time)")


def test_answering_a_post(tmp_path: Path):
    (tmp_path / "scans").mkdir()
    bus = BusSettings(f"embedded:{tmp_path}/bus.db")
    settings = GatewaySettings.load(
        bus=bus.url,
        store=f"file:{tmp_path}/store",
        roots=[str(tmp_path / "scans")],
        notifications="",
        token_file=tmp_path / "token",
    )
    store, publisher = open_store(StorageSettings(settings.store)), open_publisher(bus)
    gateway = build(settings, Stop(), publisher=publisher, store=store)
    paths = [tmp_path / "scans" / f"s{index}.svs" for index in range(300)]
    for path in paths:
        path.write_bytes(os.urandom(100_000))
    key = bearer()
    with (
        serving(locked(gateway.app), "127.0.0.1", 0) as url,
        httpx.Client(base_url=url, headers=key) as client,
    ):
        for what in ("new", "known"):
            taken = sorted(_post_s(client, path) for path in paths)
            print(f"\nPOST of a {what} slide: p50 {_ms(taken, 0.5)}, p99 {_ms(taken, 0.99)}")


def test_hashing_a_slide(tmp_path: Path):
    path = tmp_path / "large.svs"
    path.write_bytes(os.urandom(1 << 20) * 512)
    from histgen_lib.slides.source import content_id_of

    start = time.perf_counter()
    content_id_of([path])
    print(f"\nSHA-256 of a slide in the page cache: {0.5 / (time.perf_counter() - start):.2f} GiB/s")


def _post_s(client: httpx.Client, path: Path) -> float:
    start = time.perf_counter()
    assert client.post("/slides", json={"uri": path.as_uri()}).status_code == 202
    return time.perf_counter() - start


def _ms(ordered: list[float], share: float) -> str:
    return f"{ordered[int(share * (len(ordered) - 1))] * 1e3:.1f} ms"
