"""A text planted in every file of every format, sound and damaged, appears in nothing left or printed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import tiny_model
from cli_runs import histgen
from harness import Stream, on_this_machine
from left_behind import left_in, pages
from planted_features import PLANTED_ANNOTATIONS, PLANTED_BAGS, PLANTED_TABLES
from planted_formats import write_planted_formats
from planted_slide import leaks
from service_access import bearer_of
from waiting import until

from histgen_lib.catalogue.dead_letter import dead_letters
from histgen_lib.events import Event, SlideScanned
from histgen_lib.slides.source import content_id_of, stored_in

DRAFTED = {"svs", "tiff", "ome", "scn", "ndpi", "trestle", "philips", "ventana", "dicom", "sidecar"}
"""Formats that at least have to have been read to the end, or the search would be of refusals only."""


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_planted_formats(tmp_path_factory.mktemp("formats") / "slides")


@pytest.fixture(scope="module")
def left(slides: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Watch and submit each, announce what is refused; return what is left."""
    folder, root = tmp_path_factory.mktemp("stream"), next(iter(slides.values())).parent.parent
    stream = Stream(on_this_machine(folder), folder, tiny_model.tiny_model())
    stream.start(
        "gateway",
        "tiler",
        "reporter",
        HISTGEN_WATCH=str(root),
        HISTGEN_SETTLE_S="0.2",
        HISTGEN_ROOTS=str(root),
    )
    key, url = bearer_of(folder / "token"), stream.services["gateway"].url
    answers = {
        name: httpx.post(
            f"{url}/slides",
            headers=key,
            timeout=60,
            json={"uri": path.as_uri(), "slide_id": name, "mpp": _mpp(name)},
        )
        for name, path in slides.items()
    }
    refused = [name for name, answer in answers.items() if answer.status_code >= 400]
    stream.publish([_announced(name, slides[name]) for name in refused])
    until(lambda: _ended(stream) >= set(slides), 300, "an end of each")
    stream.until(stream.idle, 120, "nothing is left to do")
    answered = pages(stream, key)
    stream.stop()
    return left_in(folder) | answered | {f"answer {name}": answer.content for name, answer in answers.items()}


def _announced(name: str, path: Path) -> Event:
    parts = stored_in(path)
    size = sum(part.stat().st_size for part in parts)
    data = SlideScanned(name, path.as_uri(), content_id_of(parts), size, _mpp(name))
    return Event.first(data, source="/test", now=datetime.now(UTC), identity=name)


def _mpp(name: str) -> float | None:
    """State the scale, but where a sidecar shall be asked."""
    return None if name.startswith("sidecar") else 0.5


def _ended(stream: Stream) -> set[str]:
    stream.check_alive()
    return {*stream.drafts(), *(letter.event.key for letter in dead_letters(stream.store) if letter.event)}


def test_each_file_contains_the_planted_text_and_all_formats_are_read(
    slides: dict[str, Path], left: dict[str, bytes]
) -> None:
    """Otherwise the search below could not fail."""
    silent = [
        name
        for name, path in slides.items()
        if not any(leaks(part.read_bytes()) for part in path.parent.rglob("*") if part.is_file())
    ]
    assert silent == []
    assert {name for name in DRAFTED if not any(f"reports/{name}/" in key for key in left)} == set()


def test_nothing_the_stream_leaves_contains_the_planted_text(left: dict[str, bytes]) -> None:
    assert {name: found for name, body in left.items() if (found := leaks(body))} == {}


def test_no_command_on_slides_reveals_the_planted_text(slides: dict[str, Path], tmp_path: Path) -> None:
    model = tiny_model.tiny_model()
    for command, more in (("report", ("--mpp", "0.5", "--model", model, "--json")), ("tiles", ())):
        run = histgen(command, *slides.values(), "--out", tmp_path / command, *more)
        assert run.code == 1, run.err
        assert run.err.count("error[") >= 10
        assert leaks(run.output.encode()) == [], run.output
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in written if leaks(path.read_bytes())] == []


def test_no_command_on_features_annotations_and_tables_reveals_the_planted_text(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, write in PLANTED_BAGS.items():
        write(tmp_path / "in" / name)
    bags = [tmp_path / "in" / name for name in PLANTED_BAGS]
    output = histgen(
        "report", *bags, "--out", tmp_path / "out", "--model", tiny_model.tiny_model(), "--json"
    ).output
    for kind, texts in (("json", PLANTED_ANNOTATIONS), ("csv", PLANTED_TABLES)):
        for name, text in texts.items():
            (tmp_path / f"{name}.{kind}").write_text(text)
    commands = [
        f"evaluate --csv {tmp_path / name}.csv --out {tmp_path / 'scores'}" for name in PLANTED_TABLES
    ]
    commands += [
        f"train --annotation {tmp_path / name}.json --bags {tmp_path / 'in'} --out {tmp_path / 'm'}"
        for name in PLANTED_ANNOTATIONS
    ]
    run = histgen(before=_EACH.format(commands=commands))
    assert leaks((output + run.output).encode()) == [], output + run.output
    assert run.output.count("error[") == len(commands)


_EACH = """
import sys
from histgen_lib.cli import main
for command in {commands!r}:
    sys.argv[1:] = command.split()
    try:
        main()
    except SystemExit:
        pass
sys.exit()
"""
