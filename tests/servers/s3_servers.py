"""Two independent S3 servers, so that we are not tuned to one: moto (in memory) and S3Proxy (files).

`s3_server` runs a test on each; `moto_server` and `s3proxy_server` are the same servers by name. A test may
stop, kill or pause them; the fixture restores them for the next test.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from waiting import until

from histgen_lib.stack.children import accepts, dying_with_parent, end, free_port
from histgen_lib.storage import StorageSettings
from histgen_lib.storage._s3 import open_bucket

ROOT = Path(__file__).resolve().parents[2]
JARS = ROOT / ".local" / "s3proxy"
POM = Path(__file__).with_name("s3proxy") / "pom.xml"

ACCESS_KEY, SECRET_KEY = "histgen-tests", "not-a-secret"
"""S3Proxy checks these; moto admits everyone."""

_PROXY = """\
s3proxy.endpoint=http://127.0.0.1:{port}
s3proxy.authorization=aws-v4
s3proxy.identity={identity}
s3proxy.credential={credential}
jclouds.provider=filesystem-nio2
jclouds.filesystem.basedir={data}
jclouds.identity=unused
jclouds.credential=unused
"""

_UNFINISHED = re.compile(r"-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
"""The suffix of S3Proxy's unfinished files."""


class S3Server(ABC):
    """One server on 127.0.0.1, always on the same port. It dies with the thread that starts it."""

    name: str
    checks_credentials = False
    keeps_objects = False
    """Whether objects outlive `stop` and `kill`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return once it accepts connections; do nothing if it is running."""
        if self._process and self._process.poll() is None:
            return
        with (self.folder / "log").open("ab") as log:
            self._process = self._launch(log)
        until(self._accepts, 60, f"{self.name} listens on {self.port}, see {self.folder / 'log'}")

    def stop(self) -> None:
        """Stop it gracefully."""
        if self._process:
            end(self._process, grace_s=10)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Let it accept connections but answer nothing until `resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)

    def settings(self, bucket: str, prefix: str = "", **more: object) -> StorageSettings:
        """Return the settings of a store in a bucket."""
        url = f"s3://{bucket}/{prefix}".rstrip("/")
        return StorageSettings(url, endpoint=self.endpoint, region="us-east-1", **more)

    def make_bucket(self) -> str:
        """Create a bucket with a new name; return the name."""
        name = f"bucket-{secrets.token_hex(8)}"
        self.client(name).create_bucket(Bucket=name)
        return name

    def client(self, bucket: str):
        """Return a boto3 client, for what the storage port does not offer."""
        return open_bucket(self.settings(bucket), bucket)._client

    def _launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        command = dying_with_parent(self._command())
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder)

    def _accepts(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
        return accepts(self.port)

    @abstractmethod
    def _command(self) -> list[str]: ...


class MotoServer(S3Server):
    """moto's server."""

    name = "moto"

    def _command(self) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name("s3_moto.py")), str(self.port)]


class S3ProxyServer(S3Server):
    """S3Proxy over a folder."""

    name = "s3proxy"
    checks_credentials = True
    keeps_objects = True

    def __init__(self, folder: Path, jar: Path) -> None:
        super().__init__(folder)
        self._jar = jar

    @property
    def data(self) -> Path:
        """Where it keeps the objects, one folder per bucket."""
        return self.folder / "data"

    def kill(self) -> None:
        """End it as a crash would, and remove what S3 never shows: the files of unfinished writes.

        S3Proxy writes beside the object, and after a restart lists the unfinished file as another object.
        """
        super().kill()
        for path in self.data.rglob("*"):
            if path.is_file() and _UNFINISHED.search(path.name):
                path.unlink()

    def _command(self) -> list[str]:
        self.data.mkdir(exist_ok=True)
        properties = self.folder / "s3proxy.properties"
        properties.write_text(
            _PROXY.format(port=self.port, identity=ACCESS_KEY, credential=SECRET_KEY, data=self.data)
        )
        java = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-jar", str(self._jar)]
        return [*java, "--properties", str(properties)]


@pytest.fixture(scope="session")
def s3proxy_jar() -> Path:
    """Return S3Proxy's jar, fetched once (by one test session at a time)."""
    JARS.mkdir(parents=True, exist_ok=True)
    with (JARS / ".fetching").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not any(JARS.glob("s3proxy-*.jar")):
            subprocess.run(["mvn", "-q", "-B", "-f", str(POM), "package"], check=True)
    return next(JARS.glob("s3proxy-*.jar"))


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[None]:
    """Put the credentials where botocore looks, for this process and those it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        yield


@pytest.fixture(scope="session")
def _moto(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = MotoServer(tmp_path_factory.mktemp("moto"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def _s3proxy(
    s3_credentials: None, s3proxy_jar: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[S3Server]:
    server = S3ProxyServer(tmp_path_factory.mktemp("s3proxy"), s3proxy_jar)
    yield server
    server.kill()
    shutil.rmtree(server.folder)


@pytest.fixture
def moto_server(_moto: S3Server) -> S3Server:
    """Return moto's server, running."""
    _moto.resume()
    _moto.start()
    return _moto


@pytest.fixture
def s3proxy_server(_s3proxy: S3Server) -> S3Server:
    """Return S3Proxy, running."""
    _s3proxy.resume()
    _s3proxy.start()
    return _s3proxy


@pytest.fixture(params=["moto", "s3proxy"])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Run the test on each of the two servers."""
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> str:
    """Return an empty bucket on that server."""
    return s3_server.make_bucket()
