"""A slide whose S3 is away holds up no slide in a file: one tiler, one reporter, real processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_model
from job_kit import event_of, scanned
from running_services import MINUTES_S, Services
from waiting import until

from histgen_lib.storage import open_store

IN_FILES = 5


@pytest.fixture
def bucket(s3proxy_server) -> str:
    return s3proxy_server.make_bucket()


@pytest.fixture
def services(tmp_path: Path, model_dir: Path, s3proxy_server, bucket: str) -> Iterator[Services]:
    running = Services(
        tmp_path,
        model_dir,
        roots=f"{tmp_path},s3://{bucket}",
        store_endpoint=s3proxy_server.endpoint,
        store_region="us-east-1",
        bus_partitions="1",
    )
    yield running
    running.kill()


def test_slides_in_files_are_drafted_while_those_of_a_bucket_that_is_away_wait(
    services, s3proxy_server, bucket, tmp_path
):
    """In one partition; the slides of the bucket come first, one of them in the end ends as the others."""
    slides = [tiny_model.write_slide(tmp_path / f"{n}.tif", side_px=512, seed=n) for n in range(IN_FILES + 2)]
    in_bucket, in_files = slides[:2], slides[2:]
    for path in in_bucket:
        open_store(s3proxy_server.settings(bucket)).put(path.name, path)
    away = [event_of(scanned(path, uri=f"s3://{bucket}/{path.name}")) for path in in_bucket]
    s3proxy_server.kill()
    services.publish(*away, *(event_of(scanned(path)) for path in in_files))

    until(lambda: all(services.drafted(p.stem) for p in in_files), MINUTES_S, "drafts of slides in files")
    assert not any(services.drafted(path.stem) for path in in_bucket)
    status = lambda: json.loads(services.get("tiler", "/status"))  # noqa: E731
    shown = until(lambda: (now := status())["set_aside"]["count"] == 2 and now, MINUTES_S, "both aside")
    assert shown["set_aside"]["codes"] == {"slide-away": 2}
    assert {one["slide_id"] for one in shown["set_aside"]["first"]} == {path.stem for path in in_bucket}
    assert "job" not in shown["missing"]
    until(lambda: 'set_aside{worker="tiler"} 2.0' in services.get("tiler", "/metrics"), MINUTES_S, "a gauge")

    s3proxy_server.start()
    until(
        lambda: all(services.drafted(p.stem) for p in in_bucket), MINUTES_S, "drafts of those in the bucket"
    )
    assert list(services.store.list("dead-letter/")) == []
    until(lambda: not list(services.store.list("attempts/")), MINUTES_S, "no attempt to be left")
    assert services.stop() == [0, 0]
