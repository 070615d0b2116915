"""A stream's servers are kept waiting, and told what is no request, while a folder fills: nothing is lost."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from gateway_siege import ANSWERS, send_malformed
from harness import Stream
from invariants import check_whole
from slow_peers import GET, ask, connect, status_of

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

MALFORMED, HALF_OPEN = 4000, 300
SERVICES = ("gateway", "tiler", "reporter")


def test_four_thousand_malformed_requests_while_a_folder_fills(new_stream, slides, undisturbed, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    stream = new_stream(
        HISTGEN_WATCH=str(folder),
        HISTGEN_SETTLE_S="0.3",
        HISTGEN_LOOK_S="0.1",
        HISTGEN_NOTIFICATIONS="",
        HISTGEN_HTTP_HEAD_S="1",
        HISTGEN_HTTP_BODY_S="1",
    )
    stream.start(*SERVICES)
    doors = {service: _door(stream, service) for service in SERVICES}
    with ExitStack() as peers:
        for number in range(HALF_OPEN):
            url = doors[SERVICES[number % 3]][0]
            peers.enter_context(connect(url, sent=GET[: number % len(GET)]))
        for path in slides:
            shutil.copy(path, folder / f"{path.name}.part")
            (folder / f"{path.name}.part").rename(folder / path.name)
        answers = send_malformed(doors["gateway"][0], MALFORMED, doors["gateway"][1])
        for service in ("tiler", "reporter"):
            answers += send_malformed(doors[service][0], MALFORMED // 10, doors[service][1])
            assert status_of(ask(doors[service][0], GET)) == 200
    stream.until(
        lambda: len(stream.drafts()) == len(slides) and stream.idle(), 600, "all slides to be drafted"
    )
    stream.stop()

    assert set(answers) <= ANSWERS, answers
    remains = stream.remains()
    check_whole(remains)
    assert remains.results() == undisturbed
    print(f"\nanswers to {answers.total()} malformed requests: {dict(sorted(answers.items()))}")


def _door(stream: Stream, service: str) -> tuple[str, str]:
    """Return the URL of a service, and its token."""
    (said,) = stream.run_dir.glob(f"{service}-*.json")
    told = json.loads(said.read_text())
    return told["url"], Path(told["token_file"]).read_text()
