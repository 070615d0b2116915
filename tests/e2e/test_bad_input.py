"""Bad input to the real command: a code, a sentence that says what to do, no traceback, no partial output."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import tiny_model
from cli_runs import Run, files_below, histgen

from histgen_lib.errors import InvalidInputError


def _empty(folder: Path, sound: Path) -> Path:
    path = folder / "empty.svs"
    path.touch()
    return path


def _truncated(folder: Path, sound: Path) -> Path:
    path = folder / "truncated.tif"
    data = sound.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    return path


def _text(folder: Path, sound: Path) -> Path:
    path = folder / "letter.svs"
    path.write_text("Dear colleague, please find the slide attached.\n" * 50)
    return path


def _folder(folder: Path, sound: Path) -> Path:
    path = folder / "holiday pictures"
    path.mkdir()
    (path / "beach.txt").write_text("sand")
    return path


def _image(folder: Path, name: str, pixels: np.ndarray) -> Path:
    path = folder / name
    tifffile.imwrite(
        path,
        pixels,
        tile=(256, 256),
        photometric="rgb",
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
    )
    return path


def _no_tissue(folder: Path, sound: Path) -> Path:
    glass = np.random.default_rng(0).integers(239, 246, (1024, 1024, 1)).repeat(3, axis=2).astype(np.uint8)
    return _image(folder, "glass.tif", glass)


def _one_pixel(folder: Path, sound: Path) -> Path:
    return _image(folder, "pixel.tif", np.full((1, 1, 3), 200, np.uint8))


def _absent(folder: Path, sound: Path) -> Path:
    return folder / "nowhere.svs"


def _unreadable(folder: Path, sound: Path) -> Path:
    """Make a link to itself: nobody can read it, not even root."""
    path = folder / "loop.svs"
    path.symlink_to(path)
    return path


def _pipe(folder: Path, sound: Path) -> Path:
    """Make what would be read forever: nobody writes to its other end."""
    os.mkfifo(folder / "pipe.svs")
    return folder / "pipe.svs"


def _no_scale(folder: Path, sound: Path) -> Path:
    return tiny_model.write_slide(folder / "no-scale.tif", mpp=None)


CASES: list[tuple[Callable[[Path, Path], Path], set[str]]] = [
    (_empty, {"slide-empty"}),
    (_truncated, {"slide-damaged", "slide-format-unknown", "slide-read-failed"}),
    (_text, {"slide-format-unknown"}),
    (_folder, {"slide-is-folder"}),
    (_no_tissue, {"slide-no-tissue"}),
    (_one_pixel, {"slide-too-small"}),
    (_absent, {"slide-missing"}),
    (_unreadable, {"slide-unreadable", "slide-missing"}),
    (_pipe, {"slide-unreadable"}),
    (_no_scale, {"slide-mpp-unknown"}),
]
IDS = [case[0].__name__.strip("_") for case in CASES]


def assert_plain_failure(run: Run, codes: set[str], out: Path) -> None:
    """Check the promises of Shows 6."""
    assert run.code == InvalidInputError.exit_code, run.said
    first, _, rest = run.err.partition("]: ")
    assert first.removeprefix("error[") in codes, run.err
    sentence, _, hint = rest.partition("\n")
    assert sentence.rstrip().endswith(".")
    assert hint.startswith("→ "), run.err
    assert "Traceback" not in run.said
    assert files_below(out) == []


@pytest.mark.parametrize(("make", "codes"), CASES, ids=IDS)
def test_bad_slide(make, codes, slide_path, model_dir, tmp_path):
    slide, out = make(tmp_path, slide_path), tmp_path / "out"
    run = histgen("report", slide, "--out", out, "--model", model_dir, "--threads", 1)

    assert_plain_failure(run, codes, out)


def test_json_prints_the_same_error_in_one_document(slide_path, model_dir, tmp_path):
    run = histgen(
        "report", _text(tmp_path, slide_path), "--out", tmp_path / "out", "--model", model_dir, "--json"
    )
    content = json.loads(run.out)

    assert content["drafts"] == []
    assert content["errors"][0]["code"] == "slide-format-unknown"
    assert content["errors"][0]["hint"]


def test_a_file_name_that_is_not_text_is_printed_as_far_as_possible(model_dir, tmp_path):
    """Written by a Windows of long ago; a terminal that takes UTF-8 only would stop at it."""
    name = os.fsdecode(b"pr\xe4parat.svs")
    run = histgen(
        *("report", tmp_path / name, "--out", tmp_path / "out", "--model", model_dir, "--json"),
        env={"PYTHONIOENCODING": "utf-8"},
    )
    (error,) = json.loads(run.out)["errors"]

    assert error["code"] == "slide-missing"
    assert Path(error["path"]).name == name
    assert error["message"] == "There is no file pr\ufffdparat.svs."


def test_giving_the_mpp_cures_a_slide_without_one(slide_path, model_dir, tmp_path):
    slide = _no_scale(tmp_path, slide_path)
    run = histgen("report", slide, "--out", tmp_path / "out", "--model", model_dir, "--mpp", 0.5)

    assert run.code == 0, run.said
    draft = json.loads((tmp_path / "out" / "no-scale" / "draft.json").read_text())
    assert draft["provenance"]["slide"]["mpp_source"] == "stated"


@pytest.mark.parametrize("mishap", ["truncate(0)", "truncate(len // 2)"])
def test_a_slide_that_vanishes_while_it_is_read(mishap, slide_path, model_dir, tmp_path):
    """The scanner's share goes away after the slide was opened: its bytes are gone when tiles are read."""
    slide = Path(shutil.copy(slide_path, tmp_path / "vanishing.tif"))
    before = f"""
import histgen_lib.pipeline.scan.scanner as scan
plan = scan.plan_grid
def plan_then_lose(*arguments, **limits):
    grid = plan(*arguments, **limits)
    with open({str(slide)!r}, "r+b") as file:
        len = file.seek(0, 2)
        file.{mishap}
    return grid
scan.plan_grid = plan_then_lose
"""
    run = histgen("report", slide, "--out", tmp_path / "out", "--model", model_dir, before=before)

    assert_plain_failure(run, {"slide-read-failed", "slide-changed"}, tmp_path / "out")


def test_a_bag_that_is_damaged(model_dir, tmp_path):
    bag = tmp_path / "bag.parquet"
    bag.write_bytes(b"PAR1 but not for long")
    run = histgen("report", bag, "--out", tmp_path / "out", "--model", model_dir)

    assert_plain_failure(run, {"bag-unreadable"}, tmp_path / "out")


def test_a_pattern_that_matches_nothing(model_dir, tmp_path):
    run = histgen("report", tmp_path / "*.svs", "--out", tmp_path / "out", "--model", model_dir)

    assert_plain_failure(run, {"slide-none-found"}, tmp_path / "out")


def test_one_bad_slide_does_not_stop_the_others(slide_path, model_dir, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    _text(folder, slide_path)
    shutil.copy(slide_path, folder / "alpha.tif")
    shutil.copy(tiny_model.write_slide(tmp_path / "x.tif", seed=2), folder / "omega.tif")
    run = histgen("report", folder, "--out", tmp_path / "out", "--model", model_dir)

    assert run.code == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["alpha", "omega"]
    assert "error[slide-format-unknown]" in run.err
    assert "2 of 3 slides drafted, 1 failed." in run.out
    assert "Traceback" not in run.said


def test_a_bug_of_ours_becomes_one_sentence(slide_path, model_dir, tmp_path):
    before = "import histgen_lib.pipeline.draft.drafter as d\nd.parse_report = lambda text: 1 / 0\n"
    run = histgen("report", slide_path, "--out", tmp_path / "out", "--model", model_dir, before=before)

    assert run.code == 70
    assert run.err.startswith("error[internal-error]:")
    assert "HISTGEN_DEBUG=1" in run.err
    assert "Traceback" not in run.said
    assert files_below(tmp_path / "out") == []


def test_a_traceback_is_printed_on_request(slide_path, model_dir, tmp_path):
    before = "import histgen_lib.pipeline.draft.drafter as d\nd.parse_report = lambda text: 1 / 0\n"
    arguments = ("report", slide_path, "--out", tmp_path / "out", "--model", model_dir)

    assert "ZeroDivisionError" in histgen(*arguments, before=before, env={"HISTGEN_DEBUG": "1"}).err


def test_a_missing_model(slide_path, tmp_path):
    run = histgen("report", slide_path, "--out", tmp_path / "out", "--model", tmp_path / "nothing")

    assert run.code == 78
    assert run.err.startswith("error[model-missing]:")
    assert files_below(tmp_path / "out") == []


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize(("signal", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupted_run_leaves_nothing_half_written(signal, code, slide_path, model_dir, tmp_path):
    """The signal comes while the page is being drawn: everything is made, nothing is written yet."""
    before = f"""
import os, signal
import histgen_lib.pipeline.outputs as outputs
write = outputs.write_bag
def write_then_signal(bag, path):
    write(bag, path)
    os.kill(os.getpid(), signal.{signal})
outputs.write_bag = write_then_signal
"""
    run = histgen("report", slide_path, "--out", tmp_path / "out", "--model", model_dir, before=before)

    assert run.code == code, run.said
    assert ("Interrupted; nothing half-written" in run.err) == (signal == "SIGINT")
    assert "Traceback" not in run.said
    assert files_below(tmp_path / "out") == []


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c_inside_exec_of_a_string_ends_with_its_own_exit_code(tmp_path):
    """As it may come while dataclasses are being imported; CPython would end by the signal under `-m`."""
    (tmp_path / "interrupted.py").write_text("""
import os, signal
import histgen_lib.cli.offline.doctor as doctor
from histgen_lib.cli import main
doctor.all_checks = lambda *_, **__: exec("os.kill(os.getpid(), signal.SIGINT)")
main()
""")
    command = [sys.executable, "-m", "interrupted", "doctor"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 130, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_that_comes_where_python_drops_exceptions_is_not_lost(number, code, tmp_path):
    """Imports end in such callbacks; a person would have to press Ctrl-C again, a supervisor to kill."""
    (tmp_path / "dropped.py").write_text(f"""
import os, signal, time, weakref
import histgen_lib.cli.offline.doctor as doctor
from histgen_lib.cli import main
class Anything: pass
def interrupted_in_a_callback(*_, **__):
    anything = Anything()
    note = weakref.ref(anything, lambda _: os.kill(os.getpid(), signal.{number}))
    del anything
    time.sleep(300)
doctor.all_checks = interrupted_in_a_callback
main()
""")
    command = [sys.executable, "-m", "dropped", "doctor"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
