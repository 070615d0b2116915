"""Promises of buckets only: outages, credentials, pages, prefixes, interrupted uploads."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers.s3_servers import ACCESS_KEY, SECRET_KEY, S3ProxyServer, S3Server

from histgen_lib.errors import FatalError, HistgenError, TransientError
from histgen_lib.storage import ObjectStore, _s3, open_store

PART_BYTES = 5 << 20

KILLED_WRITER = """
import os, signal, sys
from histgen_lib.storage import StorageSettings, open_store

def die_at_the_second_part(params, **_):
    if params["query_string"].get("partNumber") == 2:
        os.kill(os.getpid(), signal.SIGKILL)

url, endpoint = sys.argv[1:]
store = open_store(StorageSettings(url, endpoint=endpoint, region="us-east-1", multipart_bytes=5 << 20))
store._client.meta.events.register("before-call.s3.UploadPart", die_at_the_second_part)
store.put("bag", bytes(12 << 20))
"""


def every_act(store: ObjectStore, folder: Path) -> dict[str, Callable[[], object]]:
    """Return every operation on the object `k` by name."""
    return {
        "put": lambda: store.put("k", b"v"),
        "put large": lambda: store.put("k", bytes(PART_BYTES)),
        "get": lambda: store.get("k"),
        "find": lambda: store.find("k"),
        "fetch": lambda: store.fetch("k", folder / "copy"),
        "chunks": lambda: list(store.chunks("k")),
        "head": lambda: store.head("k"),
        "list": lambda: list(store.list()),
        "delete": lambda: store.delete("k"),
    }


def errors_of(acts: dict[str, Callable[[], object]]) -> dict[str, HistgenError | None]:
    """Run all operations at once, so that their timeouts overlap; return what each raised."""

    def error_of(act: Callable[[], object]) -> HistgenError | None:
        try:
            act()
        except HistgenError as error:
            return error
        return None

    with ThreadPoolExecutor(len(acts)) as pool:
        return dict(zip(acts, pool.map(error_of, acts.values()), strict=True))


def assert_all_fail(
    store: ObjectStore, folder: Path, kind: type[HistgenError], code: str, besides: str = ""
) -> None:
    acts = every_act(store, folder)
    acts.pop(besides, None)
    for name, error in errors_of(acts).items():
        assert error is not None, name
        assert (type(error), error.code) == (kind, code), name


def test_a_store_reports_an_outage_and_recovers(s3_server: S3Server, s3_bucket: str, tmp_path: Path) -> None:
    settings = s3_server.settings(s3_bucket)
    store = open_store(settings)
    store.put("k", b"kept")
    s3_server.kill()
    assert_all_fail(store, tmp_path, TransientError, "storage-unavailable")
    s3_server.start()
    if s3_server.keeps_objects:
        assert store.get("k") == b"kept"
    else:
        s3_server.client(s3_bucket).create_bucket(Bucket=s3_bucket)
    assert store.put("after", b"back")
    assert store.get("after") == b"back"


@pytest.mark.timeout(60)
def test_a_server_that_does_not_answer_times_out(s3_server: S3Server, s3_bucket: str, tmp_path: Path) -> None:
    store = open_store(s3_server.settings(s3_bucket, timeout_s=0.2))
    store.put("other", b"v")
    s3_server.pause()
    assert_all_fail(store, tmp_path, TransientError, "storage-unavailable")
    s3_server.resume()
    assert open_store(s3_server.settings(s3_bucket)).get("other") == b"v"


def test_a_missing_bucket_is_not_reported_as_a_missing_object(s3_server: S3Server, tmp_path: Path) -> None:
    """S3Proxy accepts deletions in a bucket that does not exist."""
    store = open_store(s3_server.settings("no-such-bucket"))
    assert_all_fail(store, tmp_path, FatalError, "storage-missing", besides="delete")


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Return a function that sets the credentials of stores opened later."""

    def use(access_key: str, secret_key: str) -> None:
        for name, value in (("AWS_ACCESS_KEY_ID", access_key), ("AWS_SECRET_ACCESS_KEY", secret_key)):
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
        _s3._session.cache_clear()

    yield use
    _s3._session.cache_clear()


@pytest.mark.parametrize(
    ("access_key", "secret_key"),
    [(ACCESS_KEY, "the-wrong-secret"), ("nobody-we-know", SECRET_KEY), ("", ""), (ACCESS_KEY, "")],
    ids=["wrong secret", "wrong user", "none", "half"],
)
def test_wrong_credentials_are_reported_without_showing_them(
    s3proxy_server: S3Server,
    credentials: Callable[[str, str], None],
    tmp_path: Path,
    access_key: str,
    secret_key: str,
) -> None:
    settings = s3proxy_server.settings(s3proxy_server.make_bucket())
    credentials(access_key, secret_key)
    try:
        errors = errors_of(every_act(open_store(settings), tmp_path))
    except FatalError as error:  # incomplete credentials are noticed at once
        errors = {"open": error}
    for name, error in errors.items():
        assert isinstance(error, FatalError), name
        assert error.code == "storage-denied", name
        shown = str(error) + repr(error)
        assert not any(word and word in shown for word in (access_key, secret_key, "AWS4-HMAC")), name


def test_a_listing_spans_many_pages(s3_server: S3Server, s3_bucket: str) -> None:
    store = _s3.open_bucket(s3_server.settings(s3_bucket), s3_bucket, page_keys=4)
    keys = [f"slides/{number:02}/scanned.json" for number in range(18)] + ["slides/ä", "slides/日本"]
    for key in keys:
        store.put(key, b"")
    assert [info.key for info in store.list("slides/")] == sorted(keys)


def test_prefixes_keep_stores_of_one_bucket_apart(s3_server: S3Server, s3_bucket: str) -> None:
    first, second = (open_store(s3_server.settings(s3_bucket, prefix)) for prefix in ("lab", "lab-2"))
    first.put("k", b"1")
    second.put("k", b"2")
    assert [info.key for info in first.list()] == ["k"]
    assert (first.get("k"), second.get("k")) == (b"1", b"2")
    assert [info.key for info in open_store(s3_server.settings(s3_bucket)).list()] == ["lab-2/k", "lab/k"]


def test_folder_markers_of_other_tools_are_not_objects(s3_server: S3Server, s3_bucket: str) -> None:
    s3_server.client(s3_bucket).put_object(Bucket=s3_bucket, Key="scans/", Body=b"")
    store = open_store(s3_server.settings(s3_bucket))
    store.put("scans/a.svs", b"slide")
    assert [info.key for info in store.list()] == ["scans/a.svs"]


def test_an_object_has_the_content_type_it_was_put_with(s3_server: S3Server, s3_bucket: str) -> None:
    store = open_store(s3_server.settings(s3_bucket, multipart_bytes=PART_BYTES))
    store.put("small", b"{}", content_type="application/json")
    store.put("large", bytes(PART_BYTES + 1), content_type="image/webp")
    client = s3_server.client(s3_bucket)
    assert client.head_object(Bucket=s3_bucket, Key="small")["ContentType"] == "application/json"
    assert client.head_object(Bucket=s3_bucket, Key="large")["ContentType"] == "image/webp"


def test_an_interrupted_upload_leaves_nothing(s3_server: S3Server, s3_bucket: str) -> None:
    store = open_store(s3_server.settings(s3_bucket, multipart_bytes=PART_BYTES))
    sent = []

    def interrupt(**_: object) -> None:
        sent.append(1)
        if len(sent) == 2:
            raise KeyboardInterrupt

    assert isinstance(store, _s3.S3Store)
    client = store._client
    client.meta.events.register("before-call.s3.UploadPart", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.put("bag", bytes(12 << 20))
    assert client.list_multipart_uploads(Bucket=s3_bucket).get("Uploads", []) == []
    assert list(store.list()) == []
    assert store.put("bag", bytes(12 << 20))


def test_a_killed_writer_leaves_no_listed_object(s3_server: S3Server, s3_bucket: str) -> None:
    settings = s3_server.settings(s3_bucket, multipart_bytes=PART_BYTES)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WRITER, settings.url, s3_server.endpoint], check=False, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    store = open_store(settings)
    assert len(s3_server.client(s3_bucket).list_multipart_uploads(Bucket=s3_bucket)["Uploads"]) == 1
    assert list(store.list()) == []
    assert store.head("bag") is None
    assert store.put("bag", bytes(12 << 20))


def test_a_killed_server_shows_no_unfinished_object(s3proxy_server: S3ProxyServer) -> None:
    """Checks the test server itself: S3 never shows incomplete objects."""
    bucket = s3proxy_server.make_bucket()
    store = open_store(s3proxy_server.settings(bucket))
    store.put("bag", b"whole")
    unfinished = s3proxy_server.data / bucket / "bag-0c0fdbf6-31ad-4c1c-9a9e-7a1d0f3b2a55"
    unfinished.write_bytes(b"who")
    s3proxy_server.kill()
    assert not unfinished.exists()
    s3proxy_server.start()
    assert [info.key for info in store.list()] == ["bag"]
