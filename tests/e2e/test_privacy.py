"""Identifiers planted in a slide and its metadata appear in nothing that the stream leaves."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
import tiny_model
from harness import Stream, on_this_machine
from left_behind import left_in, pages
from planted_slide import PLANTED, leaks, write_planted_slide
from service_access import bearer_of

from histgen_lib.bus import open_publisher
from histgen_lib.events import SLIDE_SCANNED


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Run slides with identifiers through all services; collect every byte that the stream leaves."""
    root = tmp_path_factory.mktemp("privacy")
    inbox, folder = root / "inbox", root / "stream"
    inbox.mkdir()
    stream = Stream(on_this_machine(folder), folder, tiny_model.tiny_model())
    stream.start("gateway", "tiler", "reporter", HISTGEN_WATCH=str(inbox), HISTGEN_SETTLE_S="0.2")
    gateway = stream.services["gateway"].url
    key = bearer_of(folder / "token")
    write_planted_slide(inbox / "watched.svs", seed=1)
    submitted = write_planted_slide(inbox / ".submitted.svs", seed=2)
    answers = [_post(gateway, key, {"uri": submitted.as_uri(), "slide_id": "submitted"})]
    answers += [_post(gateway, key, {"uri": submitted.as_uri(), "patient": PLANTED})]
    answers += [_post(gateway, key, {"uri": submitted.as_uri(), "mpp": PLANTED})]
    answers += [_post(gateway, key, {"Records": [_notification(submitted)]}, "/s3-events")]
    damaged = inbox / "damaged.svs"
    damaged.write_bytes(submitted.read_bytes()[:20_000])
    publisher = open_publisher(stream.place.bus)
    publisher.publish_raw(SLIDE_SCANNED, "x", FOREIGN)
    publisher.close()
    stream.settle(4, 120)
    answered_pages = pages(stream, key)
    stream.stop()
    answered = {f"answer {number}": body for number, body in enumerate(answers)}
    return left_in(folder, but=FOREIGN) | answered_pages | answered


FOREIGN = json.dumps({"patient": PLANTED}).encode()
"""The one record that the test itself publishes with a name in it."""


def _post(url: str, key: dict[str, str], body: object, path: str = "/slides") -> bytes:
    return httpx.post(url + path, json=body, headers=key, timeout=30).content


def _notification(path: Path) -> dict[str, object]:
    return {
        "eventName": "ObjectCreated:Put",
        "userIdentity": {"principalId": PLANTED},
        "s3": {
            "bucket": {"name": "no-such-bucket"},
            "object": {"key": path.name, "size": 1, "userMetadata": {"x-amz-meta-patient": PLANTED}},
        },
    }


def test_the_planted_text_is_found_where_it_was_planted(tmp_path: Path) -> None:
    """Otherwise the search below could not fail."""
    assert "text" in leaks(write_planted_slide(tmp_path / "planted.svs").read_bytes())


def test_the_slides_were_processed(left: dict[str, bytes]) -> None:
    names = [name for name in left if name.endswith(("draft.html", "thumbnail.webp", "heatmap.webp"))]
    drafted = {name.split("reports/")[1].split("/")[0] for name in names if "/reports/" in name}
    assert drafted == {"watched", "submitted"}
    assert sum("/dead-letter/" in name for name in left) >= 2
    assert {"slide.scanned", "bag.ready", "report.drafted", "dead-letter"} <= {
        name.removeprefix("event ").split("/")[0] for name in left if name.startswith("event ")
    }


def test_nothing_left_behind_contains_the_planted_text(left: dict[str, bytes]) -> None:
    """Events, log lines, metrics, answers and objects hold no planted text, no label or macro image."""
    assert {name: found for name, body in left.items() if (found := leaks(body))} == {}
