"""`histgen up` with everything it starts, and the commands that talk to it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny_model
from cli_runs import histgen
from running_stack import RunningStack, alive, stack_up
from waiting import until

from histgen_lib.catalogue.overview import Overview
from histgen_lib.storage import StorageSettings, open_store

SERVICES = {"gateway", "tiler", "reporter"}
ENVIRONMENT = {"HISTGEN_SETTLE_S": "0.5", "HISTGEN_LOOK_S": "0.2"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory, model_dir):
    """Run one stack for the tests of this module: embedded broker, a folder, ONNX Runtime."""
    home = tmp_path_factory.mktemp("stack") / "home"
    allowed = ("--allow", tmp_path_factory.getbasetemp())
    with stack_up(home, "--inference", "onnx", "--model", model_dir, *allowed, env=ENVIRONMENT) as running:
        yield running


def slide(folder: Path, name: str, **options) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    seed = sum(name.encode())
    return tiny_model.write_slide(folder / f"{name}.tif", seed=seed, **options)


def drafted(stack: RunningStack, slide_id: str) -> bool:
    (state,) = stack.json("status", slide_id)["slide"] or [{"state": ""}]
    return state["state"] == "drafted"


def in_the_store(stack: RunningStack) -> dict[str, int]:
    """Count the slides by state, from the store alone."""
    slides = Overview(open_store(StorageSettings(f"file:{stack.home / 'objects'}"))).slides()
    return dict(Counter(slide.state for slide in slides))


def reported_ends(stack: RunningStack, slide_id: str = "") -> list[str]:
    """Return the ends that `histgen up` reported for a slide; without one, "END SLIDE" for every slide."""
    output = (stack.home.parent / f"{stack.home.name}.err").read_text()
    ends = re.findall(r"^[\d:]{8} (drafted|dead letter) (\S+) after", output, re.MULTILINE)
    return [end if slide_id else f"{end} {name}" for end, name in ends if slide_id in ("", name)]


def ready(stack: RunningStack) -> set[str]:
    return {service["name"] for service in stack.json("watch")["services"] if service["ready"]}


def test_submitted_slides_are_drafted_and_the_output_says_where(stack, tmp_path):
    paths = [slide(tmp_path, "one"), slide(tmp_path, "two")]
    run = stack("submit", *paths, "--wait", "--json")
    document = json.loads(run.out)["slides"]

    assert run.code == 0, run.output
    assert [one["status"] for one in document] == ["accepted", "accepted"]
    for one in document:
        assert one["end"]["state"] == "drafted"
        assert Path(one["end"]["draft"]["page"]).read_text().rstrip().endswith("</html>")


def test_a_slide_in_the_watched_folder_is_drafted(stack):
    slide(stack.home / "arriving", "dropped").rename(stack.home / "inbox" / "dropped.tif")

    until(lambda: "dropped" in stack("status").out, 60, "the gateway to see it")
    until(lambda: drafted(stack, "dropped"), 60, "its draft")


def test_a_slide_moved_while_it_waits_is_drafted_from_its_new_place(stack):
    tiler = stack.pid_of("tiler")
    os.kill(tiler, signal.SIGSTOP)
    try:
        inbox = stack.home / "inbox"
        path = slide(stack.home / "arriving", "moved").rename(inbox / "moved.tif")
        until(lambda: "moved" in stack("status").out, 60, "the gateway to see it")
        (inbox / "done").mkdir()
        moved = path.rename(inbox / "done" / "moved.tif")
        until(lambda: stack.json("status", "moved")["slide"][0]["uri"] == moved.as_uri(), 60, "its new place")
    finally:
        os.kill(tiler, signal.SIGCONT)

    until(lambda: drafted(stack, "moved"), 60, "its draft")


def damaged(stack: RunningStack) -> list[str]:
    return [output for slide in stack.json("status")["slides"] for output in slide["damaged"]]


@pytest.mark.parametrize(
    "pattern",
    [
        "bags/rotten/*.parquet",
        "reports/rotten/*/draft.json",
        "reports/rotten/*/draft.html",
        "slides/rotten/*",
    ],
)
def test_a_damaged_object_is_found_reported_and_restored_with_the_same_bytes(stack, tmp_path, pattern):
    store, inbox = stack.home / "objects", stack.home / "inbox"
    if not (inbox / "rotten.tif").exists():
        slide(stack.home / "arriving", "rotten").rename(inbox / "rotten.tif")
        until(lambda: list(store.glob("reports/rotten/latest.json")), 60, "its draft")
    (path,) = store.glob(pattern)
    sound = path.read_bytes()
    path.write_bytes(sound[: len(sound) // 2])
    found = stack("verify", "--metrics", tmp_path / "histgen.prom")
    assert (found.code, path.relative_to(store).as_posix() in found.out) == (1, True), found.output
    assert 'histgen_verify_damaged_objects{kind="' in (tmp_path / "histgen.prom").read_text()
    assert "histgen verify --repair" in stack("status", "rotten").out
    until(lambda: path.name in str(damaged(stack)), 60, "the list to tell of it")

    assert stack("verify", "--repair").code == 0
    until(lambda: path.read_bytes() == sound, 60, "the same bytes")
    until(lambda: stack("verify").code == 0, 60, "a store that is sound")
    until(lambda: not damaged(stack), 60, "the news of it")


def test_a_dead_letter_is_shown_with_its_cure_and_replayed_afterwards(stack, tmp_path):
    path = slide(tmp_path, "unscaled", mpp=None)
    refused = stack("submit", path, "--wait")
    assert refused.code == 65
    assert "error[slide-mpp-unknown]" in refused.err
    letter = stack.json("status", "unscaled")["slide"][0]["dead_letter"]
    assert (letter["code"], letter["worker"]) == ("slide-mpp-unknown", "tiler")
    assert letter["event_id"] in stack("replay", "--dry-run").out

    until(lambda: reported_ends(stack, "unscaled") == ["dead letter"], 60, "the report of it")
    path.with_name("unscaled.tif.json").write_text('{"mpp": 0.5}')
    (replayed,) = stack.json("replay", "--code", "slide-mpp-unknown")["letters"]

    assert replayed["slide_id"] == "unscaled"
    until(lambda: drafted(stack, "unscaled"), 60, "its draft")
    until(
        lambda: reported_ends(stack, "unscaled") == ["dead letter", "drafted"], 60, "the report of both ends"
    )
    assert stack("replay", "--code", "slide-mpp-unknown").out == "There are no such dead letters.\n"


def test_a_slide_submitted_again_with_its_resolution_needs_no_replay(stack, tmp_path):
    path = slide(tmp_path, "stated-later", mpp=None)
    assert stack("submit", path, "--wait").code == 65
    run = stack("submit", path, "--mpp", 0.5, "--wait")

    assert run.code == 0, run.output
    assert "draft.html" in run.out


def test_a_wrong_resolution_can_be_withdrawn(stack, tmp_path):
    path = slide(tmp_path, "mistaken", mpp=None)

    def latest(mpp: float) -> str:
        run = stack("submit", path, "--mpp", mpp, "--wait", "--json")
        assert run.code == 0, run.output
        pointer = json.loads((stack.home / "objects/reports/mistaken/latest.json").read_text())
        assert json.loads(run.out)["slides"][0]["end"]["draft"]["json"].endswith(pointer["draft"])
        return str(pointer["report_digest"])

    right, wrong = latest(0.5), latest(0.45)
    assert right != wrong
    assert latest(0.5) == right


def test_slides_of_a_case_get_one_report(stack, tmp_path):
    paths = [slide(tmp_path, "case-a"), slide(tmp_path, "case-b")]
    run = stack("submit", *paths, "--case", "C7", "--wait", "--json")
    pages = {one["end"]["draft"]["page"] for one in json.loads(run.out)["slides"]}

    assert run.code == 0, run.output
    assert len(pages) == 1
    assert "/case-reports/C7/" in pages.pop()


def test_copies_of_a_slide_end_with_it_and_a_case_without_a_name_is_refused(stack, tmp_path):
    one, copy = slide(tmp_path, "origin"), tmp_path / "copy.tif"
    shutil.copy(one, copy)
    document = json.loads(stack("submit", one, copy, "--wait", "--json").out)["slides"]
    ends = [(handed["slide_id"], handed["end"]["state"]) for handed in document]

    assert ends == [("origin", "drafted")] * 2
    assert [handed["copy_of"] for handed in document] == [None, "origin"]
    assert stack.json("status", "copy")["copy_of"] == ["origin"]
    assert "copy is a copy of origin" in stack("status", "copy").out
    assert "copy is a copy of origin" in stack("submit", copy, "--wait").out
    until(lambda: "origin (copies: copy)" in stack("status", "--all").out, 60, "the index to hear of it")
    assert stack("submit", copy, "--case", "").code == 65


def test_a_backfill_submits_each_slide_of_a_folder_once(stack, tmp_path):
    slide(tmp_path / "archive", "old")
    assert stack.json("backfill", tmp_path / "archive", "--dry-run")["outcomes"] == {"would-submit": 1}
    assert stack.json("backfill", tmp_path / "archive", "--rate", "10/s")["outcomes"] == {"accepted": 1}
    assert stack.json("backfill", tmp_path / "archive")["outcomes"] == {"duplicate": 1}
    until(lambda: drafted(stack, "old"), 60, "its draft")


def test_slides_whose_events_the_broker_lost_are_announced_again(stack, tmp_path):
    slide(tmp_path / "archive", "lost")
    elsewhere = ("--store", f"file:{stack.home / 'objects'}", "--bus", f"embedded:{tmp_path / 'gone.db'}")
    assert histgen("backfill", tmp_path / "archive", *elsewhere).code == 0
    assert stack.json("backfill", tmp_path / "archive")["outcomes"] == {"duplicate": 1}
    waiting = stack.json("replay", "--unfinished", "--dry-run")
    assert [one["slide_id"] for one in waiting["slides"]] == ["lost"]
    assert stack("replay", "--unfinished").out == "lost: is announced again\n"

    until(lambda: drafted(stack, "lost"), 60, "its draft")
    assert stack("replay", "--unfinished").out == "There are no such slides.\n"


def test_watch_shows_the_services_and_how_slides_ended(stack):
    assert ready(stack) == SERVICES
    shown = stack("watch", "--once").out
    assert f"Gateway  {stack.record['gateway']}" in shown
    assert "0 in progress" in shown
    until(lambda: stack.json("watch")["counts"] == in_the_store(stack), 60, "the index to say the same")
    assert stack.json("watch")["index"] == {"complete": True}


def test_after_a_lost_index_no_end_is_reported_twice_and_none_is_missed(stack, tmp_path):
    assert stack("submit", slide(tmp_path, "last-before"), "--wait").code == 0
    until(lambda: reported_ends(stack, "last-before"), 60, "all the news of before")
    before = reported_ends(stack)
    assert len(before) >= 9
    (stack.home / "index.db").unlink()
    assert stack("submit", slide(tmp_path, "meanwhile"), "--wait").code == 0
    until((stack.home / "index.db").exists, 60, "another index")
    assert stack("submit", slide(tmp_path, "later"), "--wait").code == 0
    until(lambda: reported_ends(stack, "later") and reported_ends(stack, "meanwhile"), 60, "the news")

    until(lambda: stack.json("watch")["counts"] == in_the_store(stack), 60, "the index to say the same")
    assert sorted(reported_ends(stack)) == sorted([*before, "drafted later", "drafted meanwhile"])


def test_a_second_stack_in_the_same_folder_is_refused(stack):
    run = histgen("up", "--home", stack.home)

    assert run.code == 78
    assert run.err.startswith("error[stack-running]")


def test_killed_services_are_restarted_and_work_continues(stack, tmp_path):
    before = {service: stack.pid_of(service) for service in SERVICES}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    for service, pid in before.items():
        until(lambda name=service, old=pid: stack.pid_of(name) != old, 60, f"another {service}")
    until(lambda: ready(stack) == SERVICES, 60, "all to be ready")
    run = stack("submit", slide(tmp_path, "afterwards"), "--wait")

    assert run.code == 0, run.output
    until(lambda: stack.json("status")["counts"] == in_the_store(stack), 60, "the index to say the same")


def test_ctrl_c_stops_everything_and_leaves_no_process(tmp_path, model_dir):
    with stack_up(tmp_path / "home", "--inference", "onnx", "--model", model_dir) as stack:
        pids = stack.pids()
        assert len(alive(pids)) >= 5  # three services, and the two processes that do the jobs
    output = (tmp_path / "home.err").read_text()

    assert stack.process.returncode == 0, output
    assert "Stopped." in output
    until(lambda: not alive(pids), 60, "every process to end")
    assert list((tmp_path / "home" / "run").glob("*.json")) == []
    assert "No stack runs" in stack("status").err


@pytest.mark.parametrize("there", ["run", "logs/tiler.log", "stack.json"])
def test_ctrl_c_during_the_start_ends_it_and_leaves_no_process(there, tmp_path, model_dir):
    home = tmp_path / "home"
    command = [sys.executable, "-m", "histgen_lib.cli", "up", "--home", home, "--inference", "onnx"]
    with subprocess.Popen([*command, "--model", model_dir], stdout=subprocess.PIPE, text=True) as process:
        until((home / there).exists, 60, there)
        started = RunningStack(process, home, {}).pids()
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=120)[0]

    assert process.returncode in (0, 130)
    assert output.endswith("Stopped.\n")
    until(lambda: not alive(started), 60, "the end of every process")
    assert not of_the_stack(home)


def test_slides_are_taken_from_the_watched_folder_and_the_home_and_the_error_says_what_to_allow(
    tmp_path, model_dir
):
    elsewhere = slide(tmp_path / "else where", "elsewhere")
    options = ("--inference", "onnx", "--model", model_dir, "--watch", tmp_path / "watched")
    with stack_up(tmp_path / "home", *options) as stack:
        taken = [stack("submit", slide(tmp_path / folder, folder)) for folder in ("home", "watched")]
        refused, missing = stack("submit", elsewhere), stack("submit", tmp_path / "typo.svs")
        bucket, unlisted = stack("submit", "s3://scans/a.svs"), stack("backfill", elsewhere.parent)

    assert [run.code for run in taken] == [0, 0]
    assert [run.code for run in (refused, missing, bucket, unlisted)] == [65] * 4
    assert refused.err.startswith("error[uri-outside-roots]")
    assert f"histgen up --allow '{elsewhere.parent}'" in refused.err
    assert missing.err.startswith("error[slide-missing]")
    assert "histgen up --allow s3://scans " in bucket.err
    assert unlisted.err.startswith("error[uri-outside-roots]")


def test_everything_a_killed_stack_started_ends(tmp_path, model_dir):
    with stack_up(tmp_path / "home", "--inference", "onnx", "--model", model_dir) as stack:
        pids = stack.pids()
        stack.process.kill()
        until(lambda: not alive(pids), 60, "every process to end")
        stack.process.wait()


def test_a_killed_stack_continues_with_waiting_slides_when_it_is_started_again(tmp_path, model_dir):
    home, options = tmp_path / "home", ("--inference", "onnx", "--model", model_dir)
    with stack_up(home, *options, env=ENVIRONMENT) as stack:
        os.kill(stack.pid_of("tiler"), signal.SIGSTOP)
        assert stack("submit", slide(home / "slides", "waiting")).code == 0
        stack.process.kill()
        stack.process.wait()
    with stack_up(home, *options, env=ENVIRONMENT) as stack:
        until(lambda: drafted(stack, "waiting"), 120, "its draft")


def test_services_killed_during_the_first_start_come_up(tmp_path, model_dir):
    """The stack says when it is ready, however often it had to begin."""
    home = tmp_path / "home"
    with ThreadPoolExecutor(1) as killer:
        killed = killer.submit(kill_each_once, home)
        with stack_up(home, "--inference", "onnx", "--model", model_dir) as stack:
            assert killed.result() == SERVICES
            assert ready(stack) == SERVICES


def kill_each_once(home: Path) -> set[str]:
    """Kill every service of a stack that starts as soon as it is there."""
    killed: set[str] = set()
    until((home / "run").exists, 60, "the stack's folders")

    def kill_next() -> bool:
        for path in Path("/proc").glob("[0-9]*"):
            for service in SERVICES - killed:
                if runs(path, service, home):
                    os.kill(int(path.name), signal.SIGKILL)
                    killed.add(service)
        return killed == SERVICES

    until(kill_next, 60, "every service to be killed")
    return killed


def of_the_stack(home: Path) -> set[str]:
    """Name the services of a stack that run."""
    return {
        service for path in Path("/proc").glob("[0-9]*") for service in SERVICES if runs(path, service, home)
    }


def runs(process: Path, service: str, home: Path) -> bool:
    """Whether a process is that service, and of that stack."""
    try:
        return (
            f"services.{service}".encode() in (process / "cmdline").read_bytes()
            and f"HISTGEN_RUN_DIR={home / 'run'}".encode() in (process / "environ").read_bytes()
        )
    except OSError:
        return False
