"""A stream's services get slow and malformed requests while a folder fills: nothing is lost."""

from __future__ import annotations

import shutil
from contextlib import ExitStack

import pytest
from gateway_siege import ANSWERS, send_malformed
from invariants import check_whole
from service_access import bearer_of
from slow_peers import GET, ask, connect, status_of

from histgen_lib.events import SLIDE_SCANNED

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

MALFORMED, HALF_OPEN = 4000, 300
SERVICES = ("gateway", "tiler", "reporter")


def test_malformed_and_half_open_requests_lose_no_slide(new_stream, slides, undisturbed, tmp_path):
    """Only the watched folder may be read, as in a lab: no system file that a request names is announced."""
    folder = tmp_path / "scans"
    folder.mkdir()
    stream = new_stream(
        HISTGEN_WATCH=str(folder),
        HISTGEN_ROOTS="",
        HISTGEN_SETTLE_S="0.3",
        HISTGEN_LOOK_S="0.1",
        HISTGEN_NOTIFICATIONS="",
        HISTGEN_HTTP_HEAD_S="1",
        HISTGEN_HTTP_BODY_S="1",
    )
    stream.start(*SERVICES)
    urls = {service: stream.services[service].url for service in SERVICES}
    key = bearer_of(stream.folder / "token")
    with ExitStack() as peers:
        for number in range(HALF_OPEN):
            url = urls[SERVICES[number % 3]]
            peers.enter_context(connect(url, sent=GET[: number % len(GET)]))
        for path in slides:
            shutil.copy(path, folder / f"{path.name}.part")
            (folder / f"{path.name}.part").rename(folder / path.name)
        answers = send_malformed(urls["gateway"], MALFORMED, key)
        for service in ("tiler", "reporter"):
            answers += send_malformed(urls[service], MALFORMED // 10, key)
            assert status_of(ask(urls[service], GET)) == 200
    stream.until(
        lambda: len(stream.drafts()) == len(slides) and stream.idle(), 600, "all slides to be drafted"
    )
    stream.stop()

    assert set(answers) <= ANSWERS, answers
    remains = stream.remains()
    assert {event.key for event in remains.history.events(SLIDE_SCANNED)} == {path.stem for path in slides}
    check_whole(remains)
    assert remains.results() == undisturbed
    print(f"\nanswers to {answers.total()} malformed requests: {dict(sorted(answers.items()))}")
