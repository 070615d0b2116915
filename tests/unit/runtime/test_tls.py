"""TLS: modern versions only, certificates changed without a restart, handshakes that hold up nobody."""

from __future__ import annotations

import shutil
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from own_certificates import certified
from service_access import locked
from slow_peers import GET, connect, heard, status_of
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from histgen_lib.errors import FatalError
from histgen_lib.runtime.board import Board
from histgen_lib.runtime.certificates import expiry_of
from histgen_lib.runtime.web import reread
from histgen_lib.runtime.web.address import Address, TlsFiles
from histgen_lib.runtime.web.guard import Limits
from histgen_lib.runtime.web.server import health_app, opened, serving
from histgen_lib.runtime.web.tls import Certificate
from histgen_lib.telemetry import metrics

PATIENT = {"head_s": 600.0, "body_s": 600.0}
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""The first bytes of a handshake."""


@pytest.fixture
def files(tmp_path: Path) -> tuple[TlsFiles, Path]:
    certificate, key, authority = certified(tmp_path)
    return TlsFiles(certificate, key), authority


@contextmanager
def worker(files: TlsFiles, app: Starlette | None = None, **limits: Any) -> Iterator[str]:
    door = locked(app or health_app(Board("tiler")))
    with serving(door, "127.0.0.1", 0, Limits(**limits), files) as url:
        yield url


def trusting(authority: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority)


def get(url: str, authority: Path, page: str = "healthz") -> httpx.Response:
    return httpx.get(f"{url}/{page}", verify=trusting(authority), timeout=60)


@contextmanager
def encrypted(url: str, authority: Path, sent: bytes = b"") -> Iterator[ssl.SSLSocket]:
    with connect(url) as peer, trusting(authority).wrap_socket(peer, server_hostname="localhost") as secure:
        secure.sendall(sent)
        yield secure


def test_pages_are_served_over_tls_and_to_nobody_in_plain(files):
    tls, authority = files
    with worker(tls) as url:
        assert url.startswith("https://")
        assert get(url, authority).json() == {"live": True}
        with connect(url, sent=GET) as plain:
            assert status_of(heard(plain)) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/healthz", timeout=60)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_of_tls_are_refused(files):
    tls, authority = files
    old = trusting(authority)
    old.minimum_version, old.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with worker(tls) as url, connect(url) as peer, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(peer, server_hostname="localhost")


def test_requests_that_come_with_the_end_of_the_handshake_are_answered_in_order(files):
    tls, authority = files
    with worker(tls, head_s=1.0) as url, encrypted(url, authority, GET * 20) as secure:
        assert heard(secure).count(b"200 OK") == 20


def test_a_new_certificate_is_used_without_a_restart_and_half_a_change_is_not(files, tmp_path, monkeypatch):
    monkeypatch.setattr(reread, "LOOK_S", 0.0)
    tls, authority = files
    (tmp_path / "next").mkdir()
    certificate, key, next_authority = certified(tmp_path / "next", days=60)
    with worker(tls) as url:
        assert get(url, authority).status_code == 200
        before = metrics.REGISTRY.get_sample_value(metrics.CERTIFICATE_EXPIRY._name, {"certificate": "http"})
        shutil.copy(certificate, tls.certificate)
        assert get(url, authority).status_code == 200
        shutil.copy(key, tls.key)
        assert get(url, next_authority).status_code == 200
        after = metrics.REGISTRY.get_sample_value(metrics.CERTIFICATE_EXPIRY._name, {"certificate": "http"})
    assert after - before == pytest.approx(30 * 86400, abs=3600)


def test_a_certificate_that_cannot_be_used_stops_the_service_at_its_start(files, tmp_path):
    tls, _ = files
    (tmp_path / "other").mkdir()
    _, other_key, _ = certified(tmp_path / "other")
    (tmp_path / "empty").write_text("")
    for certificate, key in (
        (tls.certificate, other_key),
        (tmp_path / "none", tls.key),
        (tmp_path / "empty", tls.key),
        (tls.key, tls.certificate),
    ):
        with pytest.raises(FatalError) as caught:
            Certificate(TlsFiles(certificate, key))
        assert caught.value.code == "tls-certificate"


@pytest.mark.parametrize("days", [-10, 0.5, 400, 40_000])
def test_the_expiry_is_that_of_the_certificate(tmp_path, days):
    """Before 2050 as UTCTime, later as GeneralizedTime (RFC 5280, section 4.1.2.5)."""
    certificate, _, _ = certified(tmp_path, days=days)
    assert expiry_of(certificate) == pytest.approx(time.time() + days * 86400, abs=120)


def test_unfinished_handshakes_keep_nobody_out(files):
    """Neither those that send nothing, nor one byte, nor half a greeting."""
    tls, authority = files
    with ExitStack() as peers, worker(tls, connections=40, peer_connections=20, **PATIENT) as url:
        for number in range(200):
            sent = (b"", HELLO[:1], HELLO, HELLO + b"\0" * 100)[number % 4]
            peers.enter_context(connect(url, sent=sent))
            if number % 50 == 0:
                assert get(url, authority).status_code == 200
        assert get(url, authority, "metrics").status_code == 200


@pytest.mark.parametrize("sent", [b"", HELLO[:1], HELLO])
def test_one_unfinished_handshake_too_many_replaces_the_oldest(files, sent):
    tls, _ = files
    with ExitStack() as peers, worker(tls, connections=40, peer_connections=8, **PATIENT) as url:
        first, *_ = [peers.enter_context(connect(url, sent=sent)) for _ in range(9)]
        first.settimeout(20)
        assert heard(first) == b""


@pytest.mark.parametrize("sent", [b"", HELLO[:1], HELLO])
def test_a_handshake_that_is_not_finished_in_time_is_cut_off(files, sent):
    tls, _ = files
    with worker(tls, head_s=0.3) as url, connect(url, sent=sent) as peer:
        peer.settimeout(60)
        assert heard(peer) == b""


@pytest.mark.parametrize("sent", [b"", b"GET", GET, GET * 3, b"POST /status HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_client_that_stops_sending_after_its_handshake_is_cut_off(files, sent):
    tls, authority = files
    with worker(tls, head_s=0.3, body_s=0.3) as url, encrypted(url, authority, sent) as secure:
        secure.settimeout(60)
        heard(secure)


def test_a_client_that_never_reads_is_cut_off_though_it_owes_tls_a_farewell(files):
    async def page(_: Any) -> Response:
        return Response(b"x" * (32 << 20))

    tls, authority = files
    app = Starlette(routes=[Route("/healthz", page)])
    with worker(tls, app, peer_connections=2, **PATIENT) as url, ExitStack() as peers:
        for _ in range(8):
            peers.enter_context(encrypted(url, authority, GET * 20))
        assert len(get(url, authority).content) == 32 << 20


def test_the_server_stops_at_once_while_handshakes_wait(files):
    tls, _ = files
    with ExitStack() as peers:
        with worker(tls, **PATIENT) as url:
            for _ in range(20):
                peers.enter_context(connect(url, sent=HELLO))
        with pytest.raises(ConnectionRefusedError):
            connect(url).close()


def test_plain_http_beyond_this_machine_is_warned_of_unless_a_mesh_encrypts(tmp_path, files, monkeypatch):
    warned: list[str] = []
    monkeypatch.setattr(
        "histgen_lib.runtime.web.server._log.warning", lambda event, **_: warned.append(event), raising=False
    )
    tls, _ = files
    for host, more, expected in (
        ("127.0.0.1", {}, 0),
        ("0.0.0.0", {}, 1),
        ("0.0.0.0", {"tls_elsewhere": True}, 0),
        ("0.0.0.0", {"tls": tls}, 0),
    ):
        warned.clear()
        address = Address(host, 0, tmp_path / "token", tmp_path / "run", **more)
        with opened(health_app(Board("tiler")), "tiler", address) as url:
            assert len(warned) == expected
            (published,) = (tmp_path / "run" / "targets").glob("*.json")
            assert ("https" in published.read_text()) is url.startswith("https://")
