"""From URIs to files; a missing slide is distinguished from an unavailable one."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from histgen_lib.access.places import Roots
from histgen_lib.access.scratch import Scratch
from histgen_lib.access.slide_files import SlideFiles, stated_mounts
from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.files import write_atomic
from histgen_lib.storage import ObjectInfo, StorageSettings

MISSING = InvalidInputError("slide-missing", "There is no such file.")


def files_at(tmp_path: Path, mounts=()) -> SlideFiles:
    settings = StorageSettings(f"file:{tmp_path / 'store'}")
    roots = Roots((tmp_path,), ("lab/",))
    return SlideFiles(settings, lambda: Scratch(tmp_path / "scratch", 1 << 20), roots=roots, mounts=mounts)


def refused(files: SlideFiles, uri: str, error: Exception = MISSING) -> HistgenError:
    with pytest.raises((InvalidInputError, TransientError)) as caught, files.open(uri):
        raise error
    return caught.value


def refused_at_once(use, uri: str) -> str:
    with pytest.raises(InvalidInputError) as caught:
        _enter(use(uri))
    return caught.value.code


def _enter(found: object) -> None:
    if isinstance(found, AbstractContextManager):
        with found:
            pass


def test_a_file_is_opened_in_place(tmp_path):
    path = tmp_path / "an odd näme#1?.svs"
    path.write_bytes(b"x")
    with files_at(tmp_path).open(path.as_uri()) as found:
        assert found.path == path


@pytest.mark.parametrize(
    "uri",
    [
        "http://x/a.svs",
        "/a.svs",
        "file://host/a.svs",
        "file:a.svs",
        "file:///a%00b",
        "s3://",
        "s3://b",
        "s3://b/k/",
        "S3://lab/a.svs",
        "s3://lab/../a.svs",
        "file:///" + "a" * 4000,
        "",
    ],
)
def test_another_kind_of_uri_is_refused(tmp_path, uri):
    for use in (files_at(tmp_path).open, files_at(tmp_path).sidecar_mpp):
        assert refused_at_once(use, uri) == "slide-uri"


@pytest.mark.parametrize("uri", ["file:///", "file:////"])
def test_the_root_folder_is_not_a_slide(tmp_path, uri):
    files = SlideFiles(StorageSettings("file:/"), lambda: Scratch(tmp_path, 1), roots=Roots((Path("/"),)))
    for use in (files.open, files.sidecar_mpp):
        assert refused_at_once(use, uri) == "slide-uri"


def test_a_name_that_this_file_system_cannot_have_is_refused(tmp_path):
    for name in ("n" * 256, "é" * 128):
        uri = f"{tmp_path.as_uri()}/{name}"
        assert refused_at_once(files_at(tmp_path).open, uri) == "slide-uri"
        assert refused_at_once(files_at(tmp_path).sidecar_mpp, uri) == "slide-uri"


def test_a_name_of_255_bytes_is_accepted(tmp_path):
    path = tmp_path / ("n" * 251 + ".svs")
    path.write_bytes(b"x")
    with files_at(tmp_path).open(path.as_uri()) as found:
        assert found.path == path
    assert files_at(tmp_path).sidecar_mpp(path.as_uri()) is None


@pytest.mark.parametrize("uri", ["file:///etc/passwd", "file:///etc/no-such-file", "s3://other/a.svs"])
def test_nothing_is_looked_up_outside_the_roots(tmp_path, uri):
    for use in (files_at(tmp_path).open, files_at(tmp_path).sidecar_mpp):
        assert refused_at_once(use, uri) == "uri-outside-roots"


def test_a_folder_without_a_slide_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive/a.svs").write_bytes(b"x")
    assert refused_at_once(files_at(tmp_path).open, (tmp_path / "archive").as_uri()) == "slide-is-folder"


def test_a_slide_that_does_not_exist_is_missing(tmp_path):
    """An empty or missing folder proves nothing: waiting for it could mean waiting forever."""
    (tmp_path / "scans").mkdir()
    for place in ("scans/a.svs", "nowhere/deep/a.svs"):
        assert refused(files_at(tmp_path), (tmp_path / place).as_uri()).code == "slide-missing"


def test_a_slide_on_a_share_that_is_not_mounted_but_should_be_is_away(tmp_path):
    (tmp_path / "share").mkdir()
    files = files_at(tmp_path, [tmp_path / "share"])

    assert refused(files, (tmp_path / "share/case/a.svs").as_uri()).code == "slide-away"
    assert refused(files, (tmp_path / "elsewhere/a.svs").as_uri()).code == "slide-missing"


@pytest.mark.parametrize("number", [116, 107, 113])  # ESTALE, ENOTCONN, EHOSTUNREACH
def test_a_share_whose_server_does_not_answer_is_away(tmp_path, monkeypatch, number):
    """Whatever reading reported: a server that goes away in mid-read looks like a damaged file."""
    path = tmp_path / "a.svs"
    path.write_bytes(b"x")
    stat = Path.stat

    def failing(self, **options):
        if self == path:
            raise OSError(number, os.strerror(number))
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", failing)
    damaged = InvalidInputError("slide-read-failed", "Pixels cannot be read.")

    assert refused(files_at(tmp_path), path.as_uri(), damaged).code == "slide-away"


def test_a_damaged_slide_stays_damaged(tmp_path):
    path = tmp_path / "a.svs"
    path.write_bytes(b"x")
    damaged = InvalidInputError("slide-damaged", "It is truncated.")

    assert refused(files_at(tmp_path), path.as_uri(), damaged) is damaged


def test_the_table_of_mounts_is_read_as_the_system_does(tmp_path):
    table = tmp_path / "fstab"
    table.write_text("# a comment\nnas:/scans /mnt/all\\040scans nfs ro 0 0\nUUID=1 / ext4\nnone swap\n\n")

    assert stated_mounts(table) == [Path("/mnt/all scans")]
    assert stated_mounts(tmp_path / "none") == []


class Bucket:
    """A bucket with one object, or one that denies access."""

    def __init__(self, data: bytes | None = b"slide", error: Exception | None = None) -> None:
        self.data, self.error, self.fetched = data, error, 0
        self.requested: list[str] = []
        self.opened: list[str] = []

    def head(self, key):
        self.requested.append(key)
        if self.error:
            raise self.error
        return None if self.data is None else ObjectInfo(key, len(self.data), str(hash(self.data)), 0.0)

    def fetch(self, key, path):
        self.fetched += 1
        write_atomic(path, self.data)  # like the real buckets


@pytest.fixture
def bucket(monkeypatch):
    made = Bucket()

    def open_bucket(settings, name):
        made.opened.append(name)
        return made

    monkeypatch.setattr("histgen_lib.access.slide_files.open_foreign_bucket", open_bucket)
    return made


def test_an_object_is_copied_once_under_its_own_name(bucket, tmp_path):
    files = files_at(tmp_path)
    for _ in range(2):
        with files.open("s3://lab/2026/a slide.svs") as found:
            assert found.path.name == "a slide.svs"
            assert found.path.read_bytes() == b"slide"

    assert (bucket.fetched, bucket.opened) == (1, ["lab"])


@pytest.mark.parametrize(
    "key", ["a//b.svs", "/b.svs", "in /b.svs", "b.svs ", "b%20c+d.svs", f"{'b' * 1020}.svs"]
)
def test_an_object_is_requested_by_its_own_key(bucket, tmp_path, key):
    with files_at(tmp_path).open(f"s3://lab/{key}"):
        assert bucket.requested == [key]


def test_an_object_with_the_longest_possible_name_gets_a_shorter_one_on_disk(bucket, tmp_path):
    """Otherwise it would end every worker that takes it."""
    with files_at(tmp_path).open(f"s3://lab/2026/{'é' * 125}.tiff") as found:
        assert found.path.read_bytes() == b"slide"
        assert found.path.suffix == ".tiff"


@pytest.mark.parametrize("error", [FatalError("storage-url", "No."), InvalidInputError("object-key", "No.")])
def test_a_name_that_s3_cannot_have_is_refused(bucket, tmp_path, error):
    bucket.error = error

    assert refused(files_at(tmp_path), "s3://lab/" + "k" * 1100).code == "slide-uri"


def test_an_object_that_was_replaced_is_copied_again(bucket, tmp_path):
    files = files_at(tmp_path)
    for data in (b"old", b"new one"):
        bucket.data = data
        with files.open("s3://lab/a.svs") as found:
            assert found.path.read_bytes() == data


def test_an_object_that_does_not_exist_is_missing(bucket, tmp_path):
    bucket.data = None

    assert refused(files_at(tmp_path), "s3://lab/a.svs").code == "slide-missing"


def test_a_bucket_that_denies_access_fails_the_slide_and_not_the_worker(bucket, tmp_path):
    bucket.error = FatalError("storage-denied", "The bucket does not let us in.")

    assert refused(files_at(tmp_path), "s3://lab/a.svs").code == "slide-unreadable"


def test_a_slides_own_server_that_is_away_differs_from_an_unavailable_store(bucket, tmp_path):
    bucket.error = TransientError("storage-unavailable", "Away.")

    error = refused(files_at(tmp_path), "s3://lab/a.svs")
    assert (type(error), error.code) == (TransientError, "slide-away")


def test_the_sidecar_of_a_file_is_found(tmp_path):
    (tmp_path / "a.svs.json").write_text('{"mpp": 0.25}')
    files = files_at(tmp_path)

    assert files.sidecar_mpp((tmp_path / "a.svs").as_uri()) == 0.25
    assert files.sidecar_mpp((tmp_path / "b.svs").as_uri()) is None
    assert files.sidecar_mpp("s3://lab/a.svs") is None


def test_an_object_larger_than_a_slide_may_be_is_not_fetched(tmp_path, monkeypatch):
    files = SlideFiles(
        StorageSettings(f"file:{tmp_path / 'store'}"),
        lambda: pytest.fail("room was made for it"),
        roots=Roots((), ("lab/",)),
        mounts=(),
        most_bytes=100,
    )

    class Bucket:
        def head(self, key):
            return ObjectInfo(key, 101, "etag", 0.0)

    monkeypatch.setattr(files, "_bucket", lambda name: Bucket())
    assert refused_at_once(files.open, "s3://lab/a.svs") == "slide-too-large"
