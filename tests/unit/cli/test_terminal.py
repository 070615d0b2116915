"""Names and texts from others are shown on the terminal and cannot control it."""

from __future__ import annotations

import io
import json
import os

import pytest
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from histgen_lib.cli import progress
from histgen_lib.cli.output import emit_json
from histgen_lib.cli.terminal import PlainConsole

HOSTILE = "a\x1b[31m\x9b2J\x07\rb\u202egvs\u2028"


def hostile_table():
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    return table


@pytest.mark.parametrize(
    "shown", [HOSTILE, Text(HOSTILE), Rule(HOSTILE), hostile_table()], ids=lambda shown: type(shown).__name__
)
def test_control_characters_in_text_are_replaced_everywhere(shown):
    file = io.StringIO()
    console = PlainConsole(file=file, width=100, force_terminal=True, color_system=None)
    console.print(shown)
    written = file.getvalue()
    assert not set(written) & set("\x1b\x9b\x07\r\u202e\u2028")
    assert "\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}2J" in written


def test_json_has_no_control_characters_and_keeps_its_meaning(capsys):
    content = {HOSTILE: [f"é{chr(code)}" for code in (*range(0x20), *range(0x7F, 0xA1), 0x2066, 0xDC9B)]}
    emit_json(content)
    printed = capsys.readouterr().out
    assert json.loads(printed) == content
    assert "é" in printed
    assert [sign for sign in printed if not sign.isprintable() and sign not in "\n\xa0"] == []


def test_our_own_colours_and_line_breaks_are_kept():
    file = io.StringIO()
    console = PlainConsole(file=file, width=100, force_terminal=True, color_system="standard")
    console.print("one\ntwo\tthree", style="red")
    assert file.getvalue().startswith("\x1b[31mone")
    assert file.getvalue().count("\n") == 2


def test_a_name_in_brackets_is_not_markup_in_the_bar(monkeypatch):
    file = io.StringIO()
    console = PlainConsole(file=file, width=100, force_terminal=True, color_system=None)
    monkeypatch.setattr(progress, "err", lambda: console)
    with progress.progress_bar("[red].svs") as bar:
        assert isinstance(bar, progress.StageBar)
        bar("open", 0, 1)
    assert "[red].svs" in file.getvalue()


def test_the_name_of_a_bad_file_is_shown_as_text(histgen, tmp_path):
    names = [b"a\x1b[31m.h5", b"b\xc2\x9b2J.h5"]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(b"no bag")
    code, out, err = histgen("report", tmp_path / "*.h5", "--out", tmp_path / "out")
    assert code == 1
    assert not set(out + err) & set("\x1b\x9b")
    assert err.count("bag-unreadable") == len(names)
    code, out, _ = histgen("report", tmp_path / "*.h5", "--out", tmp_path / "out", "--json")
    assert {entry["path"] for entry in json.loads(out)["errors"]} == {
        str(tmp_path / os.fsdecode(name)) for name in names
    }
