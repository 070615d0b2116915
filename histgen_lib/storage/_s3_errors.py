"""Translating every failure of botocore and its helpers into the errors of the storage port.

Of a server's answer only the error code is passed on: messages of a failed signature check hold keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from boto3.exceptions import Boto3Error
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from s3transfer.exceptions import (
    RetriesExceededError,
    S3DownloadFailedError,
    S3ValidationError,
)
from urllib3.exceptions import HTTPError

from histgen_lib.errors import FatalError, HistgenError, TransientError
from histgen_lib.storage._port import bad_key, missing

FOREIGN = (
    boto.BotoCoreError,
    boto.ClientError,
    boto.UndefinedModelAttributeError,
    Boto3Error,
    ResponseParserError,
    RetriesExceededError,
    S3DownloadFailedError,
    S3ValidationError,
    HTTPError,
    OSError,
)
"""All that boto3 raises itself or lets through from below."""

UNREACHABLE = (boto.HTTPClientError, boto.ConnectionError)
"""The server did not answer, or not completely."""

_AWAY = (
    *UNREACHABLE,
    boto.IncompleteReadError,
    boto.ChecksumError,
    boto.FlexibleChecksumError,
    boto.CredentialRetrievalError,  # asked of another server, which may come back
    boto.MetadataRetrievalError,
    boto.TokenRetrievalError,
    boto.CapacityNotAvailableError,
)
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.NoAuthTokenError,
    boto.ProfileNotFound,
    boto.ConfigParseError,
    boto.ConfigNotFound,
    boto.InvalidConfigError,
    boto.UnknownCredentialError,
    boto.UnknownTokenProviderError,
    boto.RefreshWithMFAUnsupportedError,
    boto.SSOError,
    boto.LoginError,
)
_DENIED_CODES = {
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidSecurity",
    "InvalidToken",
    "TokenRefreshRequired",
}
_PASSING_CODES = {
    "BadDigest",
    "IncompleteBody",
    "NoSuchUpload",  # someone else ended it: a new upload as a whole may succeed
    "QuotaExceeded",
    "RequestTimeout",
    "SlowDown",
    "XAmzContentChecksumMismatch",
}
_MISSING_CODES = {"NoSuchKey", "404", "NotFound"}
_PASSING_STATUS = {0, 408, 409, 412, 425, 429}  # 0: the answer was cut short


@contextmanager
def translated(where: str, key: str = "") -> Iterator[None]:
    """Turn what boto3 raises into the port's errors. `where`: the bucket and server, for people."""
    try:
        yield
    except FOREIGN as error:
        raise translate(error, where, key) from error


def translate(error: Exception, where: str, key: str = "") -> HistgenError:
    """Return the port's error for one of boto3's."""
    if isinstance(error, boto.ClientError):
        return _answer(error, where, key)
    name = type(error).__name__
    if isinstance(
        error, RecursionError
    ):  # botocore asks a server that redirects everything where the bucket is
        return refused(where, "it redirects every request")
    if isinstance(error, _NO_CREDENTIALS):
        return _denied(where, name)
    if isinstance(error, boto.BotoCoreError | boto.UndefinedModelAttributeError) and not isinstance(
        error, _AWAY
    ):
        return refused(where, name)
    return _unavailable(where, name)


def status_of(error: boto.ClientError) -> int:
    """Return the HTTP status of an answer; 0 if there was none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: boto.ClientError) -> str:
    """Return the server's error code, a single word."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code if re.fullmatch(r"[A-Za-z0-9.]{1,64}", code) else "no code"


def is_missing_object(error: boto.ClientError) -> bool:
    """Whether the answer to a request for an object says that the bucket has no such object."""
    return status_of(error) == 404 and code_of(error) in _MISSING_CODES


def _answer(error: boto.ClientError, where: str, key: str) -> HistgenError:
    status, code = status_of(error), code_of(error)
    if code in _PASSING_CODES or status in _PASSING_STATUS or (status >= 500 and status != 501):
        return _unavailable(where, code)
    if code in _DENIED_CODES or status in (401, 403):
        return _denied(where, code)
    if code == "KeyTooLongError":
        return bad_key()
    if code == "NoSuchKey" or (key and code in _MISSING_CODES):
        return missing(key)
    if status == 404:
        return _no_bucket(where)
    return refused(where, code)


def _unavailable(where: str, why: str) -> TransientError:
    return TransientError(
        "storage-unavailable",
        f"The object store cannot be used now: {where} ({why}).",
        hint="Check that the server is up, reachable and has room; then try again.",
    )


def _denied(where: str, why: str) -> FatalError:
    return FatalError(
        "storage-denied",
        f"The object store denies access: {where} ({why}).",
        hint="Check credentials, region and clock, and the rights to get, put, list and delete.",
    )


def _no_bucket(where: str) -> FatalError:
    return FatalError(
        "storage-missing",
        f"There is no such bucket: {where}.",
        hint="Create it, or correct the store's URL and endpoint.",
    )


def refused(where: str, why: str) -> FatalError:
    """Make the error for a server that cannot do what we need."""
    return FatalError(
        "storage-refused",
        f"The object store cannot do what we need: {where} ({why}).",
        hint="Use an S3 with conditional writes, and check endpoint and region.",
    )
