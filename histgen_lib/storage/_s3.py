"""Objects in an S3 bucket, Amazon's or another: conditional writes make the first writer win.

That takes a server that checks the condition and writes in one step, as Amazon's does. With one that does
not (S3Proxy on a folder), or that ignores the condition where the parts of a large object are put together
(S3Proxy again: so we look first), two writers may both get the answer that they were the first. Their bytes
are the same, since keys name contents.

Parts uploaded by a writer that was killed, or whose server went away, are not listed but remain: give the
bucket a lifecycle rule that aborts incomplete uploads.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import boto3
from boto3.s3.transfer import TransferConfig
from botocore import exceptions as boto
from botocore.config import Config

from histgen_lib.errors import FatalError
from histgen_lib.files import atomic_path
from histgen_lib.storage._port import (
    ObjectInfo,
    StorageSettings,
    check_foreign_key,
    check_key,
    check_prefix,
    is_key,
    missing,
)
from histgen_lib.storage._s3_errors import (
    FOREIGN,
    UNREACHABLE,
    code_of,
    is_missing_object,
    refused,
    status_of,
    translated,
)

_ATTEMPTS = 3
_CONFLICT_TRIES = 5
_LEAST_PART_BYTES = 5 << 20  # S3's own limits
_MOST_PARTS = 10_000

_FETCHING = TransferConfig(
    max_concurrency=4,
    max_io_queue=16,  # of 256 KiB each, read but not written to disk yet
    num_download_attempts=2,
    preferred_transfer_client="classic",
)

_making_client = threading.Lock()  # boto3's sessions, unlike its clients, are for one thread at a time


class S3Store:
    """An ObjectStore over a bucket. `prefix`: empty, or what its objects' names start with, up to a "/".

    `ours`: whether keys are those of the port; else they are as others made them (`open_foreign_bucket`).
    """

    def __init__(
        self,
        client: Any,
        bucket: str,
        prefix: str,
        *,
        where: str,
        part_bytes: int,
        page_keys: int = 1000,
        ours: bool = True,
    ) -> None:
        self._client, self._ours = client, ours
        self._bucket, self._prefix, self._where = bucket, prefix, where
        self._part_bytes, self._page_keys = part_bytes, page_keys
        self._bucket_seen = False

    def put(self, key: str, data: bytes | Path, *, if_absent: bool = True, content_type: str = "") -> bool:
        """See ObjectStore."""
        target = self._target(key)
        kind = {"ContentType": content_type} if content_type else {}
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        source = io.BytesIO(data) if isinstance(data, bytes) else data.open("rb")
        with source, translated(self._where):
            size = source.seek(0, io.SEEK_END)
            source.seek(0)
            try:
                if size < self._part_bytes:
                    self._client.put_object(**target, **kind, **condition, Body=source.read())
                    return True
                if if_absent and self.head(key):
                    return False
                self._put_parts(
                    source, max(self._part_bytes, -(-size // _MOST_PARTS)), target, kind, condition
                )
            except boto.ClientError as error:
                if if_absent and self._was_there(error, key):
                    return False
                raise
        return True

    def get(self, key: str) -> bytes:
        """See ObjectStore."""
        data = self.find(key)
        if data is None:
            raise missing(key)
        return data

    def find(self, key: str) -> bytes | None:
        """See ObjectStore."""
        target = self._target(key)
        with translated(self._where, key):
            try:
                answer = self._client.get_object(**target)
            except boto.ClientError as error:
                if not is_missing_object(error):
                    raise
                return None
            with closing(answer["Body"]) as body:
                return bytes(body.read())

    def fetch(self, key: str, path: Path) -> None:
        """See ObjectStore."""
        if self.head(key) is None:
            raise missing(key)
        with translated(self._where, key), atomic_path(path) as unfinished:
            self._client.download_file(**self._target(key), Filename=str(unfinished), Config=_FETCHING)

    def chunks(self, key: str, size: int = 1 << 20) -> Iterator[bytes]:
        """See ObjectStore."""
        target = self._target(key)
        with translated(self._where, key), closing(self._client.get_object(**target)["Body"]) as body:
            yield from body.iter_chunks(size)

    def head(self, key: str) -> ObjectInfo | None:
        """See ObjectStore."""
        target = self._target(key)
        with translated(self._where):
            try:
                found = self._client.head_object(**target)
            except boto.ClientError as error:
                if status_of(error) != 404:
                    raise
                self._check_bucket()
                return None
        if not found.get("ETag"):
            raise refused(self._where, "it has objects without ETag")
        return _info(key, found["ContentLength"], found)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        start = self._prefix + (check_prefix(prefix) if self._ours else prefix)
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=start, PaginationConfig={"PageSize": self._page_keys}
        )
        with translated(self._where):
            for page in pages:
                for found in page.get("Contents", ()):
                    key = found["Key"].removeprefix(self._prefix)
                    # What has no ETag is no object: S3Proxy lists the files that it is just writing.
                    if (is_key(key) or not self._ours) and found.get("ETag"):
                        yield _info(key, found["Size"], found)

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        target = self._target(key)
        with translated(self._where):
            try:
                self._client.delete_object(**target)
            except boto.ClientError as error:
                if code_of(error) != "NoSuchKey":
                    raise

    def uri(self, key: str) -> str:
        """See ObjectStore."""
        return f"s3://{self._bucket}/{self._prefix}{self._checked(key)}"

    def _target(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + self._checked(key)}

    def _checked(self, key: str) -> str:
        return check_key(key) if self._ours else check_foreign_key(key)

    def _check_bucket(self) -> None:
        """Distinguish a missing object from a missing bucket, which a HEAD request cannot."""
        if not self._bucket_seen:
            self._client.head_bucket(Bucket=self._bucket)
            self._bucket_seen = True

    def _was_there(self, error: boto.ClientError, key: str) -> bool:
        """Return whether a conditional write failed because there is an object.

        NoSuchUpload: an earlier attempt put the parts together, and only its answer was lost.
        """
        return status_of(error) == 412 or (code_of(error) == "NoSuchUpload" and self.head(key) is not None)

    def _put_parts(
        self,
        source: BinaryIO,
        part_bytes: int,
        target: dict[str, str],
        kind: dict[str, str],
        condition: dict[str, str],
    ) -> None:
        upload = {**target, "UploadId": self._client.create_multipart_upload(**target, **kind)["UploadId"]}
        try:
            parts: list[dict[str, Any]] = []
            while piece := source.read(part_bytes):
                number = len(parts) + 1
                sent = self._client.upload_part(**upload, PartNumber=number, Body=piece)
                parts.append({"PartNumber": number, "ETag": sent["ETag"]})
            self._client.complete_multipart_upload(**upload, **condition, MultipartUpload={"Parts": parts})
        except BaseException as error:
            if not isinstance(error, UNREACHABLE):  # then this would wait as long again, in vain
                with suppress(*FOREIGN):
                    self._client.abort_multipart_upload(**upload)
            raise


def _info(key: str, size_bytes: int, found: Mapping[str, Any]) -> ObjectInfo:
    """Take what an answer says of an object."""
    written = found.get("LastModified")
    return ObjectInfo(key, size_bytes, found["ETag"].strip('"'), written.timestamp() if written else 0.0)


def open_bucket(
    settings: StorageSettings, bucket: str, prefix: str = "", *, page_keys: int = 1000, ours: bool = True
) -> S3Store:
    """Connect to a bucket. Raises FatalError("storage-url") if the endpoint is not the URL of a server."""
    return S3Store(
        _client(settings),
        bucket,
        f"{prefix}/" if prefix else "",
        where=f"bucket {bucket} at {urlsplit(settings.endpoint).netloc if settings.endpoint else 'Amazon'}",
        part_bytes=max(settings.multipart_bytes, _LEAST_PART_BYTES),
        page_keys=page_keys,
        ours=ours,
    )


def _client(settings: StorageSettings) -> Any:
    if "@" in (settings.endpoint or ""):
        raise _bad_endpoint("It holds credentials, which would show in messages.")
    config = Config(
        connect_timeout=settings.timeout_s,
        read_timeout=settings.timeout_s,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        # Only Amazon promises to resolve names like bucket.host.
        s3={"addressing_style": "path" if settings.endpoint else "auto"},
        # Not all servers take the trailing checksums that botocore would add.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=16,
    )
    try:
        with translated("the client's configuration"), _making_client:
            client = _session().client(
                "s3", endpoint_url=settings.endpoint, region_name=settings.region, config=config
            )
    except ValueError:
        raise _bad_endpoint("It is not the URL of a server.") from None
    client.meta.events.register("needs-retry.s3.PutObject", _wait_out_conflict)
    client.meta.events.register("needs-retry.s3.HeadBucket", _ask_once)
    return client


@cache
def _session() -> Any:
    """Return this process's session: a further client of it takes 3 ms to make, one of a new session 60."""
    return boto3.Session()


def credentials() -> dict[str, str]:
    """Return the access key, secret, token and region that boto3 finds now, for other clients of S3.

    What it does not find is left out. Raises TransientError if a server that has them does not answer.
    """
    with translated("the credentials"), _making_client:
        session = _session()
        found = session.get_credentials()
        frozen = found and found.get_frozen_credentials()
    values = {
        "access_key_id": frozen and frozen.access_key,
        "secret_access_key": frozen and frozen.secret_key,
        "session_token": frozen and frozen.token,
        "region": session.region_name,
    }
    return {name: str(value) for name, value in values.items() if value}


def _wait_out_conflict(response: Any, attempts: int, **_: Any) -> float | None:
    """Have botocore retry, after the seconds returned, a conditional write that met one of the same key."""
    conflict = (
        response is not None and response[1].get("Error", {}).get("Code") == "ConditionalRequestConflict"
    )
    return 0.05 * 2.0**attempts if conflict and attempts < _CONFLICT_TRIES else None


def _ask_once(request_dict: Any, **_: Any) -> None:
    """Keep botocore from asking forever where the bucket is if a server redirects everything."""
    request_dict["context"].setdefault("s3_redirect", {})["redirected"] = True


def _bad_endpoint(why: str) -> FatalError:
    return FatalError(
        "storage-url",
        f"The store's endpoint cannot be used. {why}",
        hint='Write "http://host:port" or "https://host"; credentials go where botocore looks for them.',
    )
