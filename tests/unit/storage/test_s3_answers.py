"""How the S3 adapter translates every answer of a server, and every exception of boto3."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3.exceptions
import botocore.exceptions
import pytest
from botocore.parsers import ResponseParserError

from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.storage import StorageSettings, open_store
from histgen_lib.storage._s3 import S3Store, open_bucket
from histgen_lib.storage._s3_errors import FOREIGN, translate

pytestmark = pytest.mark.usefixtures("s3_credentials")


@dataclass
class Answer:
    """`status` 0: the connection is closed without an answer. `length`: a wrong Content-Length."""

    status: int
    code: str = ""
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None

    def content(self) -> bytes:
        if not self.code:
            return self.body
        return f"<Error><Code>{self.code}</Code><Message>AKIASECRET</Message></Error>".encode()


class ScriptedServer(ThreadingHTTPServer):
    """Gives the answers of a script, the last one again and again, and keeps the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ScriptedHandler)
        self.script: list[Answer] = []
        self.requests: list[str] = []

    @property
    def settings(self) -> StorageSettings:
        endpoint = f"http://127.0.0.1:{self.server_port}"
        return StorageSettings(
            "s3://bucket", endpoint=endpoint, region="us-east-1", multipart_bytes=5 << 20, timeout_s=2.0
        )

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing about clients that hang up."""


class ScriptedHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(f"{self.command} {self.path.partition('?')[2]}".strip())
        script = self.server.script
        answer = script.pop(0) if len(script) > 1 else script[0]
        self.close_connection = True
        if answer.status:
            self.send_response(answer.status)
            length = len(answer.content()) if answer.length is None else answer.length
            for name, value in {"Content-Length": str(length), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.content())

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def _server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(_server: ScriptedServer) -> ScriptedServer:
    _server.script, _server.requests = [], []
    return _server


@pytest.fixture
def store(server: ScriptedServer) -> S3Store:
    return open_bucket(server.settings, "bucket")


OK = Answer(200, headers={"ETag": '"e"'})
HERE = Answer(200, headers={"ETag": '"e"'}, length=3)
UPLOAD = Answer(
    200, body=b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
)
LARGE = bytes(5 << 20)

FAILURES = [
    (Answer(301, "PermanentRedirect"), FatalError, "storage-refused"),
    (Answer(400, "AuthorizationHeaderMalformed"), FatalError, "storage-denied"),
    (Answer(400, "BadDigest"), TransientError, "storage-unavailable"),
    (Answer(400, "EntityTooLarge"), FatalError, "storage-refused"),
    (Answer(400, "ExpiredToken"), FatalError, "storage-denied"),
    (Answer(400, "InvalidRequest"), FatalError, "storage-refused"),
    (Answer(400, "KeyTooLongError"), InvalidInputError, "object-key"),
    (Answer(400, "RequestTimeout"), TransientError, "storage-unavailable"),
    (Answer(401, "Unauthorized"), FatalError, "storage-denied"),
    (Answer(403, "AccessDenied"), FatalError, "storage-denied"),
    (Answer(403, "InvalidAccessKeyId"), FatalError, "storage-denied"),
    (Answer(403, "QuotaExceeded"), TransientError, "storage-unavailable"),
    (Answer(403, "RequestTimeTooSkewed"), FatalError, "storage-denied"),
    (Answer(403, "SignatureDoesNotMatch"), FatalError, "storage-denied"),
    (Answer(403, body=b"<html>no</html>"), FatalError, "storage-denied"),
    (Answer(404, "NoSuchBucket"), FatalError, "storage-missing"),
    (Answer(404, body=b"<html>what?</html>"), FatalError, "storage-missing"),
    (Answer(405, "MethodNotAllowed"), FatalError, "storage-refused"),
    (Answer(409, "OperationAborted"), TransientError, "storage-unavailable"),
    (Answer(429, "TooManyRequests"), TransientError, "storage-unavailable"),
    (Answer(500, "InternalError"), TransientError, "storage-unavailable"),
    (Answer(501, "NotImplemented"), FatalError, "storage-refused"),
    (Answer(502, body=b"<html>bad gateway"), TransientError, "storage-unavailable"),
    (Answer(503, "SlowDown"), TransientError, "storage-unavailable"),
    (Answer(507, "InsufficientStorage"), TransientError, "storage-unavailable"),
    (Answer(0), TransientError, "storage-unavailable"),
]


@pytest.mark.parametrize(
    ("answer", "kind", "code"), FAILURES, ids=[f"{a.status} {a.code}" for a, _, _ in FAILURES]
)
def test_every_refusal_becomes_an_error_of_the_port(
    server: ScriptedServer, store: S3Store, answer: Answer, kind: type[HistgenError], code: str
) -> None:
    server.script = [answer]
    with pytest.raises(HistgenError) as caught:
        store.put("k", b"v")
    error = caught.value
    assert (type(error), error.code) == (kind, code)
    assert "AKIA" not in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (kind, str(error))


def test_a_temporary_failure_is_retried(server: ScriptedServer, store: S3Store) -> None:
    server.script = [Answer(503, "SlowDown"), OK]
    assert store.put("k", b"v")
    assert len(server.requests) == 2


def test_a_bucket_of_another_region_is_found(server: ScriptedServer, store: S3Store) -> None:
    elsewhere = Answer(301, "PermanentRedirect", headers={"x-amz-bucket-region": "eu-central-1"})
    server.script = [elsewhere, OK]
    assert store.put("k", b"v")


def test_a_conflicting_write_is_retried_until_it_is_known_who_was_first(
    server: ScriptedServer, store: S3Store
) -> None:
    conflict = Answer(409, "ConditionalRequestConflict")
    server.script = [conflict, conflict, Answer(412, "PreconditionFailed")]
    assert not store.put("k", b"v")
    server.script = [conflict, OK]
    assert store.put("k", b"v")
    server.script = [conflict]
    with pytest.raises(TransientError):
        store.put("k", b"v")


def test_a_write_whose_answer_was_lost_finds_its_own_object(server: ScriptedServer, store: S3Store) -> None:
    """It returns False, as if another writer had been first: the bytes are the same."""
    server.script = [Answer(0), Answer(412, "PreconditionFailed")]
    assert not store.put("k", b"v")


def test_a_failed_condition_without_a_condition_is_an_error(server: ScriptedServer, store: S3Store) -> None:
    server.script = [Answer(412, "PreconditionFailed")]
    with pytest.raises(TransientError):
        store.put("k", b"v", if_absent=False)


def test_a_completed_upload_whose_answer_was_lost_is_found(server: ScriptedServer, store: S3Store) -> None:
    absent, gone = Answer(404), Answer(404, "NoSuchUpload")
    server.script = [absent, OK, UPLOAD, OK, Answer(0), gone, gone, HERE]
    assert not store.put("bag", LARGE)
    assert server.requests == [
        "HEAD",
        "HEAD",  # of the bucket
        "POST uploads",
        "PUT uploadId=u&partNumber=1",
        "POST uploadId=u",
        "POST uploadId=u",
        "DELETE uploadId=u",
        "HEAD",
    ]


def test_an_upload_that_others_aborted_can_be_sent_again(server: ScriptedServer, store: S3Store) -> None:
    absent, gone = Answer(404), Answer(404, "NoSuchUpload")
    server.script = [absent, OK, UPLOAD, OK, gone, gone, absent]
    with pytest.raises(TransientError):
        store.put("bag", LARGE)


def test_an_upload_is_not_aborted_at_a_server_that_is_away(server: ScriptedServer, store: S3Store) -> None:
    """Waiting as long again would double the time it takes to notice an outage."""
    server.script = [Answer(404), OK, UPLOAD, Answer(0)]
    with pytest.raises(TransientError):
        store.put("bag", LARGE)
    assert server.requests == ["HEAD", "HEAD", "POST uploads"] + ["PUT uploadId=u&partNumber=1"] * 3


def test_a_large_object_that_exists_is_not_sent(server: ScriptedServer, store: S3Store) -> None:
    server.script = [HERE]
    assert not store.put("bag", LARGE)
    assert server.requests == ["HEAD"]


def test_an_interrupted_read_is_a_transient_error(
    server: ScriptedServer, store: S3Store, tmp_path: Path
) -> None:
    server.script = [Answer(200, body=b"half", length=8, headers={"ETag": '"e"'})]
    with pytest.raises(TransientError):
        store.get("k")
    with pytest.raises(TransientError):
        list(store.chunks("k"))
    with pytest.raises(TransientError):
        store.fetch("k", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_listing_that_is_not_xml_is_a_transient_error(server: ScriptedServer, store: S3Store) -> None:
    server.script = [Answer(200, body=b"<html>please log in<br>")]
    with pytest.raises(TransientError):
        list(store.list())


def test_objects_without_an_etag_are_refused(server: ScriptedServer, store: S3Store) -> None:
    server.script = [Answer(200, length=3)]
    with pytest.raises(FatalError) as caught:
        store.head("k")
    assert caught.value.code == "storage-refused"


def test_an_outage_is_known_within_fifteen_seconds() -> None:
    """Three attempts of four seconds, and up to three seconds between them."""
    config = open_bucket(StorageSettings("s3://bucket"), "bucket")._client.meta.config
    attempts = config.retries["total_max_attempts"]
    assert attempts * max(config.connect_timeout, config.read_timeout) + 3 <= 15


def _classes(module: object) -> list[type[Exception]]:
    found = [value for value in vars(module).values() if isinstance(value, type)]
    return [kind for kind in found if issubclass(kind, Exception) and not issubclass(kind, Warning)]


@pytest.mark.parametrize("module", [botocore.exceptions, boto3.exceptions], ids=["botocore", "boto3"])
def test_every_exception_of_boto3_is_translated(module: object) -> None:
    for kind in _classes(module):
        if issubclass(kind, botocore.exceptions.ClientError) or "requests" in kind.__module__:
            continue
        error = kind.__new__(kind)
        assert isinstance(error, FOREIGN), kind
        translated = translate(error, "bucket b at s", "k")
        assert translated.code in ("storage-unavailable", "storage-denied", "storage-refused"), kind
        assert kind.__name__ in str(translated)


@pytest.mark.parametrize(
    ("name", "code"),
    {
        "EndpointConnectionError": "storage-unavailable",
        "ConnectTimeoutError": "storage-unavailable",
        "ReadTimeoutError": "storage-unavailable",
        "ConnectionClosedError": "storage-unavailable",
        "ProxyConnectionError": "storage-unavailable",
        "SSLError": "storage-unavailable",
        "IncompleteReadError": "storage-unavailable",
        "CredentialRetrievalError": "storage-unavailable",
        "NoCredentialsError": "storage-denied",
        "PartialCredentialsError": "storage-denied",
        "ProfileNotFound": "storage-denied",
        "UnauthorizedSSOTokenError": "storage-denied",
        "ParamValidationError": "storage-refused",
        "NoRegionError": "storage-refused",
    }.items(),
)
def test_exceptions_are_translated_by_their_cause(name: str, code: str) -> None:
    kind = getattr(botocore.exceptions, name)
    assert translate(kind.__new__(kind), "bucket b at s").code == code


def test_an_unreadable_answer_is_a_transient_error() -> None:
    assert translate(ResponseParserError("?"), "bucket b at s").code == "storage-unavailable"


def test_stores_may_be_opened_by_several_threads_at_once(server: ScriptedServer) -> None:
    server.script = [OK]
    answers: list[bool] = []

    def work() -> None:
        with suppress(HistgenError):
            answers.append(open_store(server.settings).put("k", b"v"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 8
