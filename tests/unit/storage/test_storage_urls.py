"""Which store a URL names, and which object a URI names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.storage import StorageSettings, open_store, store_for_uri

ELSEWHERE = StorageSettings("file:/nowhere", endpoint="http://127.0.0.1:9", region="us-east-1")

NO_STORES = [
    "",
    "/folder",
    "file:",
    "file:///a%00b",
    "file://other-host/folder",
    "gs://bucket",
    "http://host/bucket",
    "s3:",
    "s3://",
    "s3:///key",
    "s3://b",
    "s3://bucket/../x",
    "s3://user:secret@bucket",
    "s3:bucket",
]
NO_OBJECTS = {
    "": "object-uri",
    "/plain/path": "object-uri",
    "file:///": "object-key",
    "file:///a%00b": "object-uri",
    "file://other-host/a.svs": "object-uri",
    "https://host/a.svs": "object-uri",
    "s3://": "object-uri",
    "s3://Bad Bucket/k": "object-uri",
    "s3://bucket": "object-key",
    "s3://bucket/": "object-key",
    "s3://bucket/a/../b": "object-key",
}


@pytest.mark.parametrize("form", ["file:{path}", "file://{path}", "file://localhost{path}"])
def test_a_folder_can_be_named_in_three_ways(tmp_path: Path, form: str) -> None:
    open_store(StorageSettings(form.format(path=tmp_path / "store"))).put("k", b"v")
    assert (tmp_path / "store" / "k").read_bytes() == b"v"


def test_only_the_uri_form_has_percent_escapes(tmp_path: Path) -> None:
    folder = tmp_path / "50% µ"
    open_store(StorageSettings(f"file:{folder}")).put("raw", b"")
    open_store(StorageSettings(folder.as_uri())).put("uri", b"")
    assert {path.name for path in folder.iterdir()} == {".incoming", "raw", "uri"}


def test_a_relative_folder_lies_below_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store(StorageSettings("file:store"))
    assert store.uri("k") == (tmp_path / "store" / "k").as_uri()


@pytest.mark.parametrize("url", NO_STORES)
def test_other_urls_are_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(FatalError) as caught:
        open_store(StorageSettings(url))
    assert caught.value.code == "storage-url"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_in_the_folders_way_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FatalError) as caught:
        open_store(StorageSettings(f"file:{tmp_path / name}"))
    assert caught.value.code == "storage-url"


@pytest.mark.parametrize("endpoint", ["http://user:secret@host:9000", "host:9000", "http://", "http://a b"])
def test_an_invalid_endpoint_is_refused_without_being_repeated(endpoint: str) -> None:
    with pytest.raises(FatalError) as caught:
        open_store(StorageSettings("s3://bucket", endpoint=endpoint, region="us-east-1"))
    assert caught.value.code == "storage-url"
    assert "secret" not in str(caught.value)


def test_an_s3_uri_is_as_people_write_it() -> None:
    store = open_store(StorageSettings("s3://bucket/some/prefix/", endpoint="http://127.0.0.1:9"))
    assert store.uri("a/ä b") == "s3://bucket/some/prefix/a/ä b"


def test_a_slide_is_found_by_its_uri_wherever_it_lies(tmp_path: Path) -> None:
    """Its folder is the scanner's, so nothing is created there. Symbolic links to slides are common."""
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "S 1.svs").write_bytes(b"slide")
    (tmp_path / "link.svs").symlink_to(tmp_path / "scans" / "S 1.svs")
    for uri in ((tmp_path / "scans" / "S 1.svs").as_uri(), (tmp_path / "link.svs").as_uri()):
        store, key = store_for_uri(uri, ELSEWHERE)
        store.fetch(key, tmp_path / "copy.svs")
        assert (tmp_path / "copy.svs").read_bytes() == b"slide"
    assert [path.name for path in (tmp_path / "scans").iterdir()] == ["S 1.svs"]


def test_a_slide_in_a_folder_that_is_gone_is_a_missing_object(tmp_path: Path) -> None:
    """The event is at fault, not the installation: the worker goes on."""
    store, key = store_for_uri((tmp_path / "gone" / "a.svs").as_uri(), ELSEWHERE)
    assert store.head(key) is None
    with pytest.raises(InvalidInputError) as caught:
        store.fetch(key, tmp_path / "copy")
    assert caught.value.code == "object-missing"


def test_an_object_of_any_bucket_is_found_with_the_settings_endpoint() -> None:
    store, key = store_for_uri("s3://scanner-bucket/2026/11/S1.svs?x#y", ELSEWHERE)
    assert (store.uri(key), key) == ("s3://scanner-bucket/2026/11/S1.svs?x#y", "2026/11/S1.svs?x#y")


@pytest.mark.parametrize(("uri", "code"), NO_OBJECTS.items())
def test_a_uri_that_names_no_object_is_the_events_fault(uri: str, code: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        store_for_uri(uri, ELSEWHERE)
    assert caught.value.code == code


def test_importing_the_port_does_not_import_boto3() -> None:
    code = "import sys, histgen_lib.storage; assert not {'boto3', 'botocore'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
