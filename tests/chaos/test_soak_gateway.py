"""The gateway is killed while it takes in slides: each is drafted once, even if announced twice."""

from __future__ import annotations

import shutil

import pytest
from faults import inject_all, on_worker
from harness import scanned
from invariants import check
from stream_servers import supervised

from histgen_lib.events import SLIDE_SCANNED

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


def test_a_gateway_that_is_killed_announces_every_slide(new_stream, servers, slides, undisturbed, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    stream = new_stream(
        servers.place(),
        HISTGEN_WATCH=str(folder),
        HISTGEN_SETTLE_S="0.3",
        HISTGEN_LOOK_S="0.1",
        HISTGEN_NOTIFICATIONS="",
    )
    with supervised(servers.triton):
        stream.start("gateway", "tiler", "reporter")
        for path in slides:
            shutil.copy(path, folder / f"{path.name}.part")
            (folder / f"{path.name}.part").rename(folder / path.name)
        faults = [on_worker(stream, "gateway", after=after, moment="written") for after in (1, 4, 8, 12, 16)]
        injected = inject_all(stream, len(slides), faults)
        stream.settle(len(slides), timeout_s=300)
        stream.stop()
        remains = stream.remains()
    check(remains, [scanned(path) for path in slides], undisturbed)
    announced = remains.history.events(SLIDE_SCANNED)
    assert len({event.id for event in announced}) == len(slides)
    print(
        f"\ngateway killed {injected['gateway']} times; {len(announced) - len(slides)} slides announced twice"
    )
