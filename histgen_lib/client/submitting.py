"""Handing slides to the gateway of a stack, and waiting for what becomes of them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histgen_lib.catalogue.states import SlideState
from histgen_lib.client.api import post_json
from histgen_lib.client.connection import Connection, not_running
from histgen_lib.client.following import Follower, Snapshot, StorePoller
from histgen_lib.errors import InvalidInputError
from histgen_lib.slides.source import missing_slide

_LOOK_S = 0.3


@dataclass(frozen=True)
class Receipt:
    """The gateway took a slide: "accepted", "rescan", or "duplicate" if it was announced before."""

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
) -> Receipt:
    """Hand over one slide, a path or an s3:// URI.

    Raises what `post_json` raises; "uri-outside-roots" says what has to be allowed.
    """
    body: dict[str, Any] = {"uri": slide if "://" in slide else _absolute(slide).as_uri()}
    if mpp is not None:
        body["mpp"] = mpp
    if case is not None:
        body["case"] = {"id": case[0], "slides": list(case[1])}
    try:
        told = post_json(f"{gateway.rstrip('/')}/slides", body, token)
    except InvalidInputError as error:
        raise (_outside(slide) if error.code == "uri-outside-roots" else error) from None
    return Receipt(str(told["slide_id"]), str(told["event_id"]), str(told["status"]))


def _absolute(slide: str) -> Path:
    """Write a path out as it was typed, but ".." as this system reads it: in a URI it may mean another."""
    path = Path(slide).absolute()
    return path.resolve() if ".." in path.parts else path


def _outside(slide: str) -> InvalidInputError:
    """Say what to allow, to the letter: the gateway repeats nothing of what it was sent."""
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
        hint=f"Stop the stack and start it again with histgen up --allow {shlex.quote(place)} (services of "
        "your own: add it to HISTGEN_ROOTS of all), or put the slide into the watched folder.",
    )


def held_up(slide: SlideState, picture: Snapshot) -> frozenset[str]:
    """Name the slides of its case for which a slide would wait in vain: dead letters, and those not taken."""
    coming = {other.slide_id for other in picture.slides if other.state != "dead-letter"}
    return slide.mates - coming if slide.state == "bagged" else frozenset()


def wait_for(
    connection: Connection, receipts: Sequence[Receipt], *, show: Callable[[Snapshot], None] = lambda _: None
) -> Iterator[SlideState]:
    """Yield each slide as it ends, as a draft or a dead letter, or as it is if its case lacks one for good.

    Raises TransientError("stack-not-running") if the stack of this machine stops meanwhile.
    """
    waiting = {receipt.slide_id for receipt in receipts}
    sight = StorePoller(connection.store(), only=frozenset(waiting))
    follower = Follower(sight, connection.run_dir)
    while waiting:
        picture = follower.look()
        show(picture)
        for slide in picture.slides:
            if slide.slide_id in waiting and slide.event and (slide.ended or held_up(slide, picture)):
                waiting.remove(slide.slide_id)
                yield slide
        if waiting:
            if connection.home and not connection.home.running():
                raise not_running(connection.home)
            time.sleep(_LOOK_S)
