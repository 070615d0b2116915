"""Many bad slides: good ones still pass, each bad one is reported, and repaired ones work on replay."""

from __future__ import annotations

import os
import random
import subprocess
import sys

from chaos_slides import stained, write_bad, write_tiff
from harness import scanned
from invariants import check, check_committed, check_ends, check_nothing_else, check_whole

BAD = 200
MENDED = "slide-damaged"


def test_good_slides_pass_bad_ones_and_repaired_ones_pass_on_replay(
    new_stream, slides, undisturbed, tmp_path
):
    """200 bad slides among 20 good ones; those with one error code are then repaired and replayed."""
    stream = new_stream()
    bad = write_bad(tmp_path / "bad", BAD)
    events = [scanned(path) for path in (*slides, *bad)]
    random.Random(6).shuffle(events)
    stream.start("tiler", "reporter")
    stream.publish(events)
    stream.settle(len(events), timeout_s=240)
    remains = stream.remains()
    check(remains, events, undisturbed)
    assert codes_by_slide(remains) == {path.stem: code for path, code in bad.items()}

    mended = [path for path, code in bad.items() if code == MENDED]
    for path in mended:
        write_tiff(path, stained(512))
    replay(stream, "--code", MENDED)
    drafts = len(slides) + len(mended)
    stream.until(lambda: len(stream.drafts()) == drafts, 240, f"{drafts} drafts")
    stream.until(stream.idle, 60, "nothing is left to do")
    stream.stop()
    remains = stream.remains()
    check_ends(remains, events)
    check_whole(remains)
    check_nothing_else(remains, 0)
    check_committed(remains)
    assert codes_by_slide(remains) == {path.stem: code for path, code in bad.items() if code != MENDED}
    assert undisturbed.items() <= remains.results().items()


def codes_by_slide(remains):
    return {letter["event"]["data"]["slide_id"]: letter["code"] for letter in remains.letters.values()}


def replay(stream, *arguments):
    """Run `histgen replay`."""
    done = subprocess.run(
        [sys.executable, "-m", "histgen_lib.cli", "replay", *arguments],
        env={**os.environ, **stream.place.environment()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
