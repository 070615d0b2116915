"""A sidecar states a scale: one that cannot be read refuses the slide, one that cannot exist does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from histgen_lib.access.places import Roots
from histgen_lib.errors import InvalidInputError
from histgen_lib.slides.metadata import read_sidecar


def refusal(slide: Path, within: Roots | None = None) -> str:
    with pytest.raises(InvalidInputError) as caught:
        read_sidecar(slide, within)
    assert caught.value.code == "slide-sidecar-invalid"
    return caught.value.message


@pytest.mark.parametrize("length", [246, 247, 250, 251, 255])
def test_a_name_without_room_for_a_suffix_has_no_sidecar(tmp_path, length):
    assert read_sidecar(tmp_path / ("n" * (length - 4) + ".svs")) is None


def test_the_longest_name_that_has_room_for_one_is_read(tmp_path):
    slide = tmp_path / ("n" * 246 + ".svs")
    slide.with_name(f"{slide.name}.json").write_text('{"mpp": 0.3}')
    assert read_sidecar(slide) == 0.3


def test_a_folder_with_that_name_states_nothing(tmp_path):
    (tmp_path / "a.json").mkdir()
    assert read_sidecar(tmp_path / "a.svs") is None


def test_a_pipe_or_a_device_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.svs.json")
    (tmp_path / "b.json").symlink_to("/dev/zero")
    for name in ("a.svs", "b.svs"):
        assert "not a regular file" in refusal(tmp_path / name)


def test_one_outside_the_roots_is_neither_read_nor_ignored(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "mpp.json").write_text('{"mpp": 0.3}')
    (tmp_path / "in/a.svs.json").symlink_to("../mpp.json")
    assert "HISTGEN_ROOTS" in refusal(tmp_path / "in/a.svs", Roots((tmp_path / "in",)))
    assert read_sidecar(tmp_path / "in/a.svs", Roots((tmp_path,))) == 0.3
    assert read_sidecar(tmp_path / "in/a.svs") == 0.3


@pytest.mark.parametrize("there", ["file", "folder", "pipe", "nothing"])
def test_a_link_out_of_the_roots_is_refused_in_the_same_words_whatever_it_leads_to(tmp_path, there):
    outside = tmp_path / "outside"
    {"file": outside.touch, "folder": outside.mkdir, "pipe": lambda: os.mkfifo(outside)}.get(there, str)()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.json").symlink_to(outside)
    message = refusal(tmp_path / "in/a.svs", Roots((tmp_path / "in",)))
    assert message.endswith("it lies outside HISTGEN_ROOTS.")


@pytest.mark.parametrize("size", [(64 << 10) + 1, 3 << 30])
def test_more_than_64_kib_is_not_a_sidecar(tmp_path, size):
    (tmp_path / "a.json").touch()
    os.truncate(tmp_path / "a.json", size)
    assert "64 KiB" in refusal(tmp_path / "a.svs")


@pytest.mark.parametrize(
    "text", ["secret", "[" * 60_000, '{"mpp": "secret"}', '{"mpp": 1e999}', '{"mpp": 0.3}secret']
)
def test_what_it_holds_is_not_repeated(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert "secret" not in refusal(tmp_path / "a.svs")


@pytest.mark.parametrize("text", ['{"mpp": 0.25, "mpp": 0.5}', '{"mpp": 0.25, "note": {"a": 1, "a": 2}}'])
def test_one_that_states_something_twice_is_refused(tmp_path, text):
    (tmp_path / "a.svs.json").write_text(text)
    assert "twice" in refusal(tmp_path / "a.svs")
