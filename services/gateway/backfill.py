"""Takes in slides that existed before the gateway: all under a folder or S3 prefix, at a limited rate.

A backfill can be stopped and started again: slides announced before are known, and skipped without reading.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from histgen_lib.access.finding import LeftOut, Why, find_slides
from histgen_lib.access.places import FilePlace, ObjectPlace, Place, Roots, object_place, parse_prefix
from histgen_lib.catalogue.audit import this_account
from histgen_lib.errors import HistgenError, InvalidInputError, TransientError
from histgen_lib.names import printable
from histgen_lib.runtime.pulse import Backoff
from histgen_lib.runtime.stopping import Stop, Stopped
from histgen_lib.slides.formats import is_slide_name
from services.gateway.app import build_intake
from services.gateway.contents import mark_of
from services.gateway.folder import Folder, unavailable
from services.gateway.intake import Intake
from services.gateway.settings import GatewaySettings
from services.gateway.submission import Receipt, Status, Submission
from services.wiring import slide_roots

_SECONDS = {"s": 1, "sec": 1, "min": 60, "h": 3600, "day": 86400}

Outcome = Status | Literal["refused", "would-submit", "waiting"]


@dataclass(frozen=True)
class Step:
    """What became of one slide. "waiting": broker or store are not available (`error`); it is tried again."""

    place: Place
    outcome: Outcome
    receipt: Receipt | None = None
    error: HistgenError | None = None

    @property
    def name(self) -> str:
        """The slide's URI, for people."""
        return printable(self.place.uri)


@dataclass
class Tally:
    """How many slides ended how, and how many files were left out why. `stopped`: before the end."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    left_out: Counter[Why] = field(default_factory=Counter)
    stopped: bool = False


def parse_rate(text: str) -> float:
    """Read "30/min", "2/s", "500/h" or "5000/day" as seconds between two slides; "" and "0" mean no limit.

    Raises InvalidInputError("backfill-rate").
    """
    if text in ("", "0"):
        return 0.0
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)/(s|sec|min|h|day)", text)
    if not found or float(found[1]) == 0:
        raise InvalidInputError(
            "backfill-rate",
            "The rate is not valid.",
            hint='State slides per time, as in "30/min", "2/s", "500/h" or "5000/day".',
        )
    return _SECONDS[found[2]] / float(found[1])


def run_backfill(
    settings: GatewaySettings,
    prefix: str,
    *,
    rate: str = "",
    dry_run: bool = False,
    progress: Callable[[Step | LeftOut], None] = lambda step: None,
    stop: Stop | None = None,
) -> Tally:
    """Take in every slide under `prefix`: a folder, file:///folder, or s3://bucket[/prefix].

    If the settings state roots, the prefix must be inside one of them: otherwise the tiler would refuse its
    slides. Raises InvalidInputError: "uri-outside-roots", "backfill-prefix" (not a folder); as `parse_rate`
    and `backfill` do; and FatalError for settings that cannot be used.
    """
    every_s = parse_rate(rate)
    _require_folder(prefix)
    root = prefix if "://" in prefix or prefix.startswith("file:") else str(Path(prefix).resolve())
    only = Roots.read([root])
    if (allowed := slide_roots(settings)) != Roots():
        allowed.require_all_of(only)
    intake, publisher, _ = build_intake(settings, only)
    try:
        return backfill(
            intake, root, every_s=every_s, dry_run=dry_run, progress=progress, stop=stop or Stop()
        )
    finally:
        publisher.close()


def _require_folder(prefix: str) -> None:
    """Refuse a file, and an empty text, which as a path would mean the current folder."""
    if not prefix or ("://" not in prefix and Path(prefix).exists() and not Path(prefix).is_dir()):
        raise InvalidInputError(
            "backfill-prefix",
            f"{printable(prefix) or 'An empty name'} is not a folder.",
            hint="Name a folder or s3://bucket/prefix; `histgen submit` takes single slides.",
        )


def backfill(
    intake: Intake,
    prefix: str,
    *,
    every_s: float,
    stop: Stop,
    dry_run: bool = False,
    progress: Callable[[Step | LeftOut], None] = lambda step: None,
    clock: Callable[[], float] = time.monotonic,
    backoff: Backoff | None = None,
) -> Tally:
    """Submit every slide under `prefix`, at most one new slide in `every_s` seconds; known ones are free.

    `progress` is called in this thread for each slide, and for each file left out. `dry_run` reads, writes
    and publishes nothing. `clock`: monotonic seconds. Raises TransientError if the prefix cannot be listed.
    """
    tally, due = Tally(), clock()
    insist = partial(_insist, stop=stop, backoff=backoff or Backoff(), progress=progress)
    try:
        for found in _found(intake, prefix):
            if isinstance(found, LeftOut):
                tally.left_out[found.why] += 1
                progress(found)
                continue
            place, mark = found
            step = insist(place, partial(_look_up, intake, place, mark))
            if step.outcome == "would-submit" and not dry_run:
                _wait(stop, due - clock())
                submission = Submission(place, "backfill", mark=mark, by=this_account())
                step = insist(place, partial(_submit, intake, submission))
                due = max(due, clock()) + (every_s if step.outcome in ("accepted", "rescan") else 0)
            tally.outcomes[step.outcome] += 1
            progress(step)
    except Stopped:
        tally.stopped = True
    return tally


def _found(intake: Intake, prefix: str) -> Iterator[tuple[Place, str] | LeftOut]:
    """Yield every slide with its mark, and everything else as left out."""
    root = parse_prefix(prefix)
    if isinstance(root, Path):
        for found in Folder(root).look().candidates:
            place = FilePlace(found.path)
            yield place, mark_of(place.uri, found.files)
        yield from _left_out(root)
        return
    for info in intake.contents.bucket(root.bucket).list(root.prefix):
        found_at = ObjectPlace(root.bucket, info.key)
        if is_slide_name(info.key):
            yield found_at, mark_of(found_at.uri, info)
        else:
            yield LeftOut(printable(found_at.uri), "mark" if info.key.endswith("/") else "other")


def _left_out(root: Path) -> list[LeftOut]:
    try:
        return find_slides(root).left_out
    except OSError as error:
        raise unavailable(root, error) from error


def _look_up(intake: Intake, place: Place, mark: str) -> Step:
    try:
        if isinstance(place, ObjectPlace):
            object_place(place.bucket, place.key)
    except InvalidInputError as error:
        return Step(place, "refused", error=error)
    seen = intake.ledger.seen(mark)
    return Step(place, "duplicate", Receipt(*seen, "duplicate")) if seen else Step(place, "would-submit")


def _submit(intake: Intake, submission: Submission) -> Step:
    try:
        receipt = intake.submit(submission)
    except InvalidInputError as error:
        return Step(submission.place, "refused", error=error)
    return Step(submission.place, receipt.status, receipt)


def _insist(
    place: Place, call: Callable[[], Step], *, stop: Stop, backoff: Backoff, progress: Callable[[Step], None]
) -> Step:
    """Do a step until it succeeds. Raises Stopped."""

    def attempt() -> Step:
        _wait(stop, 0)
        return call()

    def outage(error: TransientError, delay_s: float) -> None:
        progress(Step(place, "waiting", error=error))
        _wait(stop, delay_s)

    return backoff.retry(attempt, outage)


def _wait(stop: Stop, seconds: float) -> None:
    if stop.wait(max(0.0, seconds)):
        raise Stopped
