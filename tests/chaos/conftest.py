"""Slides, an undisturbed run to compare with, and streams that end with their test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest
from baseline import run_undisturbed
from chaos_slides import write_good
from harness import MAX_POLL_S, SESSION_S, Place, Stream, on_this_machine
from stream_servers import Servers

from histgen_lib.bus import BusSettings
from histgen_lib.export import export_local


class NewStream(Protocol):
    """Makes a stream in its own folder, by default on the embedded bus and a folder store."""

    def __call__(self, place: Place | None = None, **settings: str) -> Stream: ...


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark of long tests."""
    config.addinivalue_line("markers", "soak: takes many minutes (make chaos)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect soak tests unless --run-soak is given."""
    long = [] if config.getoption("--run-soak") else [i for i in items if i.get_closest_marker("soak")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write twenty small valid slides, shared by all tests: do not change them."""
    return write_good(tmp_path_factory.mktemp("chaos-slides"))


@pytest.fixture(scope="session")
def undisturbed(
    slides: list[Path], model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, str]:
    """Run the twenty slides undisturbed; return the SHA-256 of each resulting object by key."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return run_undisturbed(Stream(on_this_machine(folder), folder, model_dir), slides).results()


@pytest.fixture
def new_stream(tmp_path: Path, model_dir: Path) -> Iterator[NewStream]:
    """Make streams that end with the test."""
    streams: list[Stream] = []

    def make(place: Place | None = None, **settings: str) -> Stream:
        folder = tmp_path / f"stream-{len(streams)}"
        folder.mkdir()
        streams.append(Stream(place or on_this_machine(folder), folder, model_dir, settings))
        return streams[-1]

    yield make
    for stream in streams:
        stream.abort()


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Return a place with a folder store and the bus of the test's parameter, "embedded" or "kafka"."""
    here = on_this_machine(tmp_path / "place", session_s=SESSION_S)
    if request.param == "embedded":
        return here
    limits = (("max_poll_interval_ms", int(MAX_POLL_S * 1000)),)
    url = request.getfixturevalue("own_kafka").url
    return replace(here, bus=BusSettings(url, partitions=4, session_s=SESSION_S, kafka=limits))


@pytest.fixture
def servers(own_kafka, s3proxy_server, start_triton, model_dir, tmp_path: Path) -> Servers:
    """Run Kafka, S3Proxy and tritonserver for one test, which may kill them."""
    triton = start_triton(export_local(model_dir, tmp_path / "repository"))
    return Servers(own_kafka, s3proxy_server, triton, s3proxy_server.make_bucket())
