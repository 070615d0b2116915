"""A backfill takes in everything under a prefix at a limited rate, and can be stopped and started again."""

from __future__ import annotations

from pathlib import Path

import pytest
from gateway_fakes import AT_ONCE, GatewayLab

from histgen_lib.access.finding import LeftOut
from histgen_lib.errors import InvalidInputError
from histgen_lib.runtime.stopping import Stop
from services.gateway.backfill import Step, Tally, backfill, parse_rate, run_backfill
from services.gateway.settings import GatewaySettings


class Pace:
    """A stop with a clock of its own, which may be requested after some waits."""

    def __init__(self, stop_after: int = 1_000_000) -> None:
        self.now, self.waits, self.left = 0.0, [], stop_after
        self.requested = False

    def wait(self, seconds: float) -> bool:
        if seconds > 0:
            self.waits.append(round(seconds, 6))
            self.now += seconds
            self.left -= 1
        self.requested = self.requested or self.left <= 0
        return self.requested


def _run(
    lab: GatewayLab, prefix: str | Path | None = None, *, pace: Pace | None = None, **more
) -> tuple[Tally, list[Step]]:
    tally, steps = _run_all(lab, prefix, pace=pace, **more)
    return tally, [one for one in steps if isinstance(one, Step)]


def _run_all(
    lab: GatewayLab, prefix: str | Path | None = None, *, pace: Pace | None = None, **more
) -> tuple[Tally, list[Step | LeftOut]]:
    steps: list[Step | LeftOut] = []
    pace = pace or Pace()
    tally = backfill(
        lab.intake,
        str(prefix or lab.folder),
        every_s=more.pop("every_s", 0.0),
        stop=pace,
        clock=lambda: pace.now,
        backoff=AT_ONCE,
        progress=steps.append,
        **more,
    )
    return tally, steps


def _fill(lab: GatewayLab, count: int = 5) -> None:
    for name in (f"{index // 2}/s{index}.svs" for index in range(count)):
        if not (lab.folder / name).exists():
            lab.file(name, f"slide {name}")


def test_every_slide_of_a_folder_is_announced(lab: GatewayLab):
    _fill(lab)
    tally, steps = _run(lab)
    assert tally.outcomes == {"accepted": 5}
    assert not tally.stopped
    assert [event.key for event in lab.bus.scanned] == [f"s{index}" for index in range(5)]
    assert [step.outcome for step in steps] == ["accepted"] * 5


def test_a_second_run_reads_and_announces_nothing(lab: GatewayLab, monkeypatch: pytest.MonkeyPatch):
    _fill(lab)
    _run(lab)
    monkeypatch.setattr(lab.intake.contents, "measure", None)
    pace = Pace()
    tally, _ = _run(lab, pace=pace, every_s=60.0)
    assert tally.outcomes == {"duplicate": 5}
    assert pace.waits == []
    assert len(lab.bus.published) == 5


def test_a_backfill_stopped_in_the_middle_resumes_where_it_was(lab: GatewayLab):
    _fill(lab)
    tally, _ = _run(lab, pace=Pace(stop_after=2), every_s=2.0)
    assert (tally.stopped, tally.outcomes) == (True, {"accepted": 2})
    tally, _ = _run(lab)
    assert (tally.stopped, tally.outcomes) == (False, {"duplicate": 2, "accepted": 3})
    assert len(lab.bus.published) == 5


def test_new_slides_come_at_the_stated_rate_and_known_ones_cost_no_time(lab: GatewayLab):
    _fill(lab, 3)
    _run(lab)
    _fill(lab, 6)
    pace = Pace()
    _run(lab, pace=pace, every_s=2.0)
    assert pace.waits == [2.0, 2.0]


def test_a_dry_run_writes_reads_and_publishes_nothing(lab: GatewayLab, monkeypatch: pytest.MonkeyPatch):
    _fill(lab, 2)
    _run(lab)
    _fill(lab, 4)
    kept = dict(lab.store.kept)
    monkeypatch.setattr(lab.intake.contents, "measure", None)
    tally, _ = _run(lab, dry_run=True, every_s=60.0)
    assert tally.outcomes == {"duplicate": 2, "would-submit": 2}
    assert lab.store.kept == kept
    assert len(lab.bus.published) == 2


def test_a_bucket_is_filled_from_a_prefix(lab: GatewayLab):
    for key in ("2026/a.svs", "2026/b.tiff", "2026/b.json", "2025/c.svs", "2026-old/d.svs"):
        lab.object("lab", key, key.encode())
    tally, _ = _run(lab, "s3://lab/2026")
    assert [event.data.uri for event in lab.bus.scanned] == ["s3://lab/2026/a.svs", "s3://lab/2026/b.tiff"]
    tally, _ = _run(lab, "s3://lab/")
    assert tally.outcomes == {"duplicate": 2, "accepted": 2}


def test_what_a_notification_announced_is_known_to_a_backfill(lab: GatewayLab):
    from notification_bodies import amazon, record

    from services.gateway.bucket_intake import take_in

    lab.object("lab", "a.svs")
    take_in(lab.intake, amazon(record("lab", "a.svs")), "x")
    tally, _ = _run(lab, "s3://lab")
    assert tally.outcomes == {"duplicate": 1}
    assert lab.buckets["lab"].reads == 1


def test_slides_that_are_refused_are_reported_and_skipped(lab: GatewayLab):
    lab.file("m.mrxs", "no companions")
    lab.file("a.svs")
    tally, steps = _run(lab)
    assert tally.outcomes == {"accepted": 1, "refused": 1}
    assert [step.error.code for step in steps if step.error] == ["slide-incomplete"]


def test_files_left_out_of_a_folder_are_counted_and_named(lab: GatewayLab):
    _fill(lab, 2)
    for name in ("notes.txt", "0/readme", ".hidden/a.svs", "a.svs.part", "0/s0.svs.json"):
        lab.file(name)
    (lab.folder / "link").symlink_to(lab.folder / "0")
    tally, steps = _run_all(lab)
    assert tally.outcomes == {"accepted": 2}
    assert tally.left_out == {"other": 2, "hidden": 1, "unfinished": 1, "link": 1}
    named = {Path(one.name).relative_to(lab.folder).as_posix() for one in steps if isinstance(one, LeftOut)}
    assert named == {"notes.txt", "0/readme", ".hidden", "a.svs.part", "link"}


def test_objects_left_out_of_a_bucket_are_counted_and_named(lab: GatewayLab):
    for key in ("a//b.svs", "/b.svs", "notes.txt", "in/", "in.svs/", "a\x1b[2J.txt"):
        lab.object("lab", key, key.encode())
    tally, steps = _run_all(lab, "s3://lab")
    assert [event.data.uri for event in lab.bus.scanned] == ["s3://lab//b.svs"]
    assert tally.outcomes == {"accepted": 1, "dead-letter": 1}, "two objects, one name"
    assert [one for one in steps if isinstance(one, LeftOut)] == [
        LeftOut("s3://lab/a\\x1b[2J.txt", "other"),
        LeftOut("s3://lab/in.svs/", "mark"),
        LeftOut("s3://lab/in/", "mark"),
        LeftOut("s3://lab/notes.txt", "other"),
    ]


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("key", ["a/../b.svs", "./b.svs", "a\nb.svs"])
def test_a_dangerous_key_is_refused_by_name(lab: GatewayLab, key: str, dry_run: bool):
    lab.object("lab", key)
    tally, (step,) = _run(lab, "s3://lab", dry_run=dry_run)
    assert tally.outcomes == {"refused": 1}
    assert step.error.code == "uri-invalid"
    assert step.name == f"s3://lab/{key}".replace("\n", "\\n")
    assert lab.bus.published == []


def test_a_prefix_may_begin_with_a_slash(lab: GatewayLab):
    for key in ("/in/a.svs", "in/b.svs"):
        lab.object("lab", key, key.encode())
    _run(lab, "s3://lab//in/")
    assert [event.data.uri for event in lab.bus.scanned] == ["s3://lab//in/a.svs"]


def test_an_outage_is_waited_out(lab: GatewayLab):
    lab.file("a.svs")
    lab.bus.away = True
    outcomes: list[str] = []

    def progress(step: Step) -> None:
        outcomes.append(step.outcome)
        lab.bus.away = len(outcomes) < 3

    pace = Pace()
    backfill(
        lab.intake,
        str(lab.folder),
        every_s=0,
        stop=pace,
        clock=lambda: pace.now,
        backoff=AT_ONCE,
        progress=progress,
    )
    assert outcomes == ["waiting", "waiting", "waiting", "accepted"]


def test_a_stop_ends_it_during_an_outage(lab: GatewayLab):
    lab.file("a.svs")
    lab.bus.away = True
    stop = Stop()
    tally = backfill(
        lab.intake,
        str(lab.folder),
        every_s=0,
        stop=stop,
        backoff=AT_ONCE,
        progress=lambda step: stop.request(),
    )
    assert tally.stopped


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30/min", 2.0),
        ("2/s", 0.5),
        ("500/h", 7.2),
        ("4320/day", 20.0),
        ("0.5/s", 2.0),
        ("", 0.0),
        ("0", 0.0),
    ],
)
def test_rates_are_read(text: str, seconds: float):
    assert parse_rate(text) == seconds


@pytest.mark.parametrize("text", ["30", "fast", "0/min", "-1/min", "30/fortnight", "1e9/s", "30 / min"])
def test_an_invalid_rate_is_refused(text: str):
    with pytest.raises(InvalidInputError) as caught:
        parse_rate(text)
    assert caught.value.code == "backfill-rate"


def test_a_backfill_of_what_the_tiler_would_refuse_is_refused_before_anything_is_announced(tmp_path):
    """A stack takes slides only from its roots; otherwise each would become a dead letter."""
    settings = GatewaySettings.load(
        bus=f"embedded:{tmp_path / 'bus.db'}",
        store=f"file:{tmp_path / 'store'}",
        roots=(str(tmp_path / "a"),),
    )
    reported: list[Step | LeftOut] = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "slide.svs").write_bytes(name.encode())
    with pytest.raises(InvalidInputError) as caught:
        run_backfill(settings, str(tmp_path / "b"), progress=reported.append)
    assert (caught.value.code, reported) == ("uri-outside-roots", [])
    assert run_backfill(settings, str(tmp_path / "a"), progress=reported.append).outcomes == {"accepted": 1}
