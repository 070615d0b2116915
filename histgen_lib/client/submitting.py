"""Submitting slides to the gateway of a stack, and waiting until each has ended."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from histgen_lib.catalogue.states import SlideState
from histgen_lib.client.api import post_json
from histgen_lib.client.connection import Connection, not_running
from histgen_lib.client.following import Follower, Snapshot, StorePoller
from histgen_lib.errors import InvalidInputError
from histgen_lib.slides.source import missing_slide

_POLL_S = 0.3


@dataclass(frozen=True)
class Receipt:
    """The gateway's answer: `status` is "accepted", "rescan", or "duplicate" if it knew the slide."""

    slide_id: str
    event_id: str
    status: str


def submit(
    gateway: str,
    slide: str,
    *,
    token: str | None,
    mpp: float | None,
    case: tuple[str, Sequence[str]] | None,
    ca_file: Path | None = None,
) -> Receipt:
    """Submit one slide, a path or an s3:// URI. `mpp`: µm per pixel; `case`: its id and its slides' ids.

    Raises what `post_json` raises; the hint of "uri-outside-roots" says what to allow.
    """
    body: dict[str, object] = {"uri": slide if "://" in slide else _absolute(slide).as_uri()}
    if mpp is not None:
        body["mpp"] = mpp
    if case is not None:
        body["case"] = {"id": case[0], "slides": list(case[1])}
    try:
        answer = post_json(f"{gateway.rstrip('/')}/slides", body, token, ca_file=ca_file)
    except InvalidInputError as error:
        raise (_outside(slide) if error.code == "uri-outside-roots" else error) from None
    return Receipt(str(answer["slide_id"]), str(answer["event_id"]), str(answer["status"]))


def _absolute(slide: str) -> Path:
    """Make a path absolute as typed; resolve ".." as this system does, since in a URI it may mean another."""
    path = Path(slide).absolute()
    return path.resolve() if ".." in path.parts else path


def _outside(slide: str) -> InvalidInputError:
    """Say exactly what to allow: the gateway repeats nothing of what it was sent."""
    path = _absolute(slide)
    if "://" in slide:
        place = "/".join(slide.split("/")[:3]) if slide.startswith("s3://") else "/FOLDER"
    elif path.exists():
        place = str(path if path.is_dir() else path.parent)
    else:
        return missing_slide(path)
    return InvalidInputError(
        "uri-outside-roots",
        f"{path.name} lies outside the folders and buckets that this stack takes slides from.",
        hint=f"Stop the stack and start it again with histgen up --allow {shlex.quote(place)} (for services "
        "of your own, add it to HISTGEN_ROOTS of each), or put the slide into the watched folder.",
    )


def held_up(slide: SlideState, snapshot: Snapshot) -> frozenset[str]:
    """Return the slides of its case that a slide would wait for in vain: dead letters, and unknown ones."""
    coming = {other.slide_id for other in snapshot.slides if other.state != "dead-letter"}
    return slide.mates - coming if slide.state == "bagged" else frozenset()


def wait_for(
    connection: Connection,
    receipts: Sequence[Receipt],
    *,
    show: Callable[[Snapshot], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[SlideState]:
    """Yield each slide as it ends, in a draft or a dead letter, or once its case can never be complete.

    Raises TransientError("stack-not-running") if the stack on this machine stops meanwhile.
    """
    waiting = {receipt.slide_id for receipt in receipts}
    poller = StorePoller(connection.store(), only=frozenset(waiting))
    follower = Follower(poller, connection.run_dir)
    while waiting:
        snapshot = follower.poll()
        show(snapshot)
        for slide in snapshot.slides:
            if slide.slide_id in waiting and slide.event and (slide.ended or held_up(slide, snapshot)):
                waiting.remove(slide.slide_id)
                yield slide
        if waiting:
            if connection.home and not connection.home.running():
                raise not_running(connection.home)
            sleep(_POLL_S)
