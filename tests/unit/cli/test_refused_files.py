"""Folders and files that cannot be read or written: reported before any work, and never as a bug."""

from __future__ import annotations

import errno
import json
import os

import pytest


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "x.svs"],
        ["tiles", "x.svs"],
        ["encode", "x.svs"],
        ["synth"],
        ["train", "--annotation", "a.json", "--bags", "b"],
        ["train-encoder", "--world", "w"],
        ["evaluate", "--csv", "x.csv"],
        ["compare", "--annotation", "a.json", "--bags", "b"],
        ["model", "import-official", "x.pth", "--annotation", "a.json"],
    ],
)
@pytest.mark.parametrize("place", ["file", "file/below", "loop", "n" * 300])
def test_a_results_folder_that_cannot_be_is_refused_before_any_work(histgen, arguments, place, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    code, out, err = histgen(*arguments, "--out", tmp_path / place, "--json")

    assert code == 78
    assert err.startswith("error[output-unwritable]: Cannot write to")
    assert json.loads(out)["error"]["hint"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_comparison_is_not_begun_for_a_table_that_is_a_folder(histgen, tmp_path):
    arguments = ("compare", "--annotation", "a.json", "--bags", "b", "--out", tmp_path / "out")
    code, _, err = histgen(*arguments, "--table", tmp_path)

    assert code == 78
    assert err.startswith("error[output-unwritable]:")


def test_a_file_that_the_system_refuses_is_no_bug_of_ours(histgen, slide_path, tmp_path):
    """The name can be had, the file cannot: no check foresees it."""
    (tmp_path / "sound.tiles.png").mkdir()
    code, _, err = histgen("tiles", slide_path, "--out", tmp_path, "--tile-mpp", 1)

    assert code == 78
    assert err.startswith("error[file-refused]: The system refuses")
    assert "sound.tiles.png" in err


def test_a_full_disk_is_no_bug_of_ours(histgen, monkeypatch):
    """Not only where results are written: commands of the stream write, too."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("histgen_lib.client.connection.connect", full)
    code, out, _ = histgen("replay", "--all", "--json")

    assert code == 75
    assert json.loads(out)["error"]["code"] == "output-disk-full"


def test_doctor_wants_a_folder_for_its_results(histgen, model_dir, tmp_path):
    (tmp_path / "file").touch()
    checks = json.loads(histgen("doctor", "--model", model_dir, "--out", tmp_path / "file", "--json")[1])[
        "checks"
    ]

    assert next(check for check in checks if check["name"] == "output folder")["status"] == "fail"


def test_training_on_slides_that_cannot_be_read_names_what_is_wrong_with_them(histgen, model_dir, tmp_path):
    slide = tmp_path / "broken.svs"
    slide.write_text("no slide")
    arguments = ("--annotation", "a.json", "--encoder", model_dir, "--out", tmp_path / "out")
    code, _, err = histgen("train", *arguments, "--slides", slide)

    assert code == 65
    assert "error[slide-format-unknown]" in err


def test_an_annotation_file_that_is_not_there_or_has_no_cases(histgen, model_dir, tmp_path):
    path = tmp_path / "annotation.json"
    arguments = ("evaluate", "--model", model_dir, "--annotation", path, "--bags", tmp_path)

    assert "cannot be read (No such file or directory)." in histgen(*arguments)[2]
    path.write_text(json.dumps({"train": [], "val": [], "test": []}))
    assert histgen(*arguments)[2].startswith("error[training-split-empty]:")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run commands in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["pipe", "device", "endless"])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["evaluate", "--csv", "it"], "evaluation-csv-unreadable"),
        (["evaluate", "--annotation", "it", "--bags", "b"], "training-annotation-unreadable"),
        (["train", "--annotation", "it", "--bags", "b", "--out", "o"], "training-annotation-unreadable"),
        (["report", "it.h5", "--out", "o"], "bag-unreadable"),
        (["report", "it.parquet", "--out", "o"], "bag-unreadable"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else value,
)
def test_what_has_no_end_or_no_content_yet_is_not_waited_for(histgen, here, arguments, expected, kind):
    """A pipe that nobody writes to hung, and /dev/zero was read until the memory was full."""
    name = here / next(one for one in arguments if one.startswith("it"))
    if kind == "pipe":
        os.mkfifo(name)
    elif kind == "device":
        name.symlink_to("/dev/zero")
    else:
        with name.open("wb") as file:
            file.truncate(1 << 40)
    code, out, _ = histgen(*arguments, "--json")
    document = json.loads(out)
    error = document["error"] if "error" in document else document["errors"][0]
    assert (code, error["code"]) == (65, expected)


def test_a_folder_of_bags_that_is_not_there_is_called_so(histgen, tmp_path):
    (tmp_path / "a.json").write_text('{"test": [{"id": "a", "report": "r"}]}')
    code, out, _ = histgen(
        "evaluate", "--annotation", tmp_path / "a.json", "--bags", tmp_path / "gone", "--json"
    )
    error = json.loads(out)["error"]
    assert (code, error["code"]) == (65, "training-bags-missing")
    assert "no such folder" in error["hint"]
