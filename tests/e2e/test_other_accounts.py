"""Another account of the machine learns nothing from a stack, and cannot make it do anything."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from running_stack import RunningStack, stack_up
from service_access import bearer, bytes_at, listening
from waiting import until

IS_ROOT = os.geteuid() == 0
"""Only root can become somebody else. Other accounts try the doors without the token, and look at modes."""

STRANGER = r"""
import encodings.idna, json, os, socket, sqlite3, sys, urllib.error, urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

targets = json.load(sys.stdin)
if targets["kafka"]:
    import kafka, kafka.net.sasl.plain, kafka.net.sasl.scram
    from kafka.errors import KafkaError

if os.geteuid() == 0:  # in here: Python itself may lie where only root finds it
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)

def get(url, body, headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
            return [answer.status, answer.read().decode()]
    except urllib.error.HTTPError as error:
        return [error.code, error.read().decode()]

def opened(path):
    try:
        return "listed" if path.is_dir() and [*path.iterdir()] else path.open("rb").read(1) and "read"
    except OSError as error:
        return type(error).__name__

def laid(folder):
    try:
        (folder / "theirs.tif").write_bytes(b"x")
        return "laid there"
    except OSError as error:
        return type(error).__name__

def connected(path):
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
        return "connected"
    except OSError as error:
        return type(error).__name__

def topics(tried):
    port, login = tried
    known = {"bootstrap_servers": f"127.0.0.1:{port}", "bootstrap_timeout_ms": 2000, **login}
    steps = {
        "listed": lambda: kafka.KafkaAdminClient(**known).list_topics(),
        "deleted": lambda: kafka.KafkaAdminClient(**known).delete_topics(["slide.scanned"]),
        "written": lambda: kafka.KafkaProducer(max_block_ms=2000, **known).send("slide.scanned", b"x").get(2),
        "read": lambda: kafka.KafkaConsumer("slide.scanned", **known).poll(2000),
    }
    return str(tried), [done for done, step in steps.items() if not failed(step)]

def failed(step):
    try:
        step()
    except (KafkaError, OSError):
        return True
    return False

def erased(path):
    try:
        with sqlite3.connect(path) as log:
            log.execute("DELETE FROM record")
        return "erased"
    except sqlite3.Error as error:
        return type(error).__name__

assert os.geteuid() != 0
crowd = ThreadPoolExecutor(9)
print(json.dumps({
    "pages": {name: get(url, body and body.encode(), headers) for name, url, body, headers in targets["web"]},
    "files": {path: opened(Path(path)) for path in targets["files"]},
    "logs": [erased(path) for path in targets["logs"]],
    "folders": {path: laid(Path(path)) for path in targets["folders"]},
    "sockets": [connected(path) for path in targets["sockets"]],
    "kafka": dict(crowd.map(topics, targets["kafka"])),
}))
"""


SERVICES = ("tiler", "reporter")
LOGINS: list[dict[str, str]] = [
    {},
    *(
        {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": mechanism,
            "sasl_plain_username": "histgen",
            "sasl_plain_password": "0" * 64,
        }
        for mechanism in ("SCRAM-SHA-512", "PLAIN")
    ),
]


@pytest.fixture(scope="module", params=["embedded", "kafka"])
def stack(
    request: pytest.FixtureRequest, model_dir: Path, triton_home: Path, kafka_home: Path
) -> Iterator[RunningStack]:
    """Run a stack in a folder that everybody can reach, started by someone who hides nothing."""
    before = os.umask(0)
    options = ["--broker", request.param, "--inference", "triton", "--model", model_dir]
    places = {"HISTGEN_TRITON_HOME": str(triton_home), "HISTGEN_KAFKA_LIBS": str(kafka_home)}
    try:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            with stack_up(Path(folder) / "home", *options, env=places) as running:
                run = running("submit", _slide(running, "ours", seed=5), "--wait")
                assert run.code == 0, run.output
                yield running
    finally:
        os.umask(before)


@pytest.fixture(scope="module")
def tried(stack: RunningStack) -> dict[str, Any]:
    """Try all doors as somebody else; return what came of it."""
    mine = [*_everything(stack), *_segments(stack)]
    targets = {
        "web": [*_asks(stack)],
        "files": [str(path) for path in mine] if IS_ROOT else [],
        "folders": [str(path) for path in mine if path.is_dir()] if IS_ROOT else [],
        "logs": [str(stack.home / "bus.db")] if IS_ROOT else [],
        "sockets": [stack.record["inference"].removeprefix("triton://")] if IS_ROOT else [],
        "kafka": [(port, one) for pid in _java(stack) for _, port in listening(pid) for one in LOGINS],
    }
    run = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER],
        input=json.dumps(targets),
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    return dict(json.loads(run.stdout))


def _asks(stack: RunningStack) -> Iterator[tuple[str, str, str | None, dict[str, str]]]:
    """Yield a name, a URL, a body and headers of each request."""
    slide = {"uri": _slide(stack, "theirs", seed=6).as_uri()}
    event = {"EventName": "s3:ObjectCreated:Put", "Key": "lab/theirs.tif"}
    for headers in ({}, bearer("0" * 64)):
        for path, body in (("/slides", slide), ("/s3-events", event)):
            kind = {"content-type": "application/json"}
            yield (
                f"POST {path} {len(headers)}",
                stack.record["gateway"] + path,
                json.dumps(body),
                kind | headers,
            )
        for service in _services(stack):
            yield f"GET {service['name']}/status {len(headers)}", f"{service['url']}/status", None, headers
    for service in _services(stack):
        for page in ("/metrics", "/healthz", "/readyz"):
            yield f"open {service['name']}{page}", service["url"] + page, None, {}


def _slide(stack: RunningStack, name: str, *, seed: int) -> Path:
    folder = stack.home / "arriving"
    folder.mkdir(exist_ok=True)
    return tiny_model.write_slide(folder / f"{name}.tif", seed=seed)


def _services(stack: RunningStack) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((stack.home / "run").glob("*.json"))]


def _segments(stack: RunningStack) -> list[Path]:
    """List the shared memory that the stack's processes have."""
    maps = [
        line for pid in stack.pids() for line in bytes_at(Path(f"/proc/{pid}/maps")).decode().splitlines()
    ]
    found = {Path("/dev/shm") / line.rpartition("/dev/shm/")[2] for line in maps if "/dev/shm/" in line}
    return sorted(path for path in found if path.exists())


def _java(stack: RunningStack) -> list[int]:
    return [pid for pid in stack.pids() if b"kafka.Kafka" in bytes_at(Path(f"/proc/{pid}/cmdline"))]


def _mode(path: Path) -> int:
    """Return kind and permissions of a file (of a link itself); 0 of one that is gone by now."""
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return 0


def _everything(stack: RunningStack) -> list[Path]:
    return [stack.home, *stack.home.rglob("*")]


def test_no_slide_is_accepted_and_no_status_shown(stack: RunningStack, tried: dict[str, Any]):
    locked = {name: answer for name, answer in tried["pages"].items() if not name.startswith("open ")}

    assert len(locked) == 2 * (2 + 3)
    assert {status for status, _ in locked.values()} == {401}
    assert {json.loads(text)["error"]["code"] for _, text in locked.values()} == {
        "token-missing",
        "token-wrong",
    }
    assert [slide["slide_id"] for slide in stack.json("status")["slides"]] == ["ours"]


def test_metrics_are_public_and_name_no_slide(tried: dict[str, Any]):
    pages = {name: answer for name, answer in tried["pages"].items() if name.startswith("open ")}

    assert len(pages) == 3 * 3
    assert {status for status, _ in pages.values()} == {200}
    assert [name for name, (_, text) in pages.items() if "ours" in text] == []


def test_no_file_is_read_and_no_record_of_the_broker_changed(stack: RunningStack, tried: dict[str, Any]):
    assert stat.S_IMODE(stack.home.stat().st_mode) == 0o700
    assert set(tried["files"].values()) <= {"PermissionError"}
    assert set(tried["logs"]) <= {"OperationalError"}
    assert stack.json("replay", "--all")["letters"] == []


@pytest.mark.skipif(not IS_ROOT, reason="only root can become somebody else")
def test_the_attempts_covered_everything_that_a_slide_leaves_behind(
    stack: RunningStack, tried: dict[str, Any]
):
    names = {Path(path).name for path in tried["files"]}
    kept = {"draft.json", "scanned.json", "index.db", "token", "tiler.log", "stack.json", "inbox"}
    kafka = {
        "client.json",
        "client.properties",
        "server.properties",
        "broker.log",
        "slide.scanned-0",
        "kafka",
    }

    assert sorted(kept - names) == []
    assert sorted((kafka if _java(stack) else {"bus.db"}) - names) == []
    assert any(path.startswith("/dev/shm/") for path in tried["files"])
    assert any(path.endswith(".parquet") for path in tried["files"])  # a bag


def test_no_file_is_added_to_a_folder_and_no_model_is_reached(tried: dict[str, Any]):
    assert set(tried["folders"].values()) <= {"PermissionError"}
    assert set(tried["sockets"]) <= {"PermissionError"}


def test_no_topic_is_listed_read_written_or_deleted(stack: RunningStack, tried: dict[str, Any]):
    """By none of Kafka's ports, without a login and with a guessed one; and it serves its own as before."""
    assert len(tried["kafka"]) == (3 * len(LOGINS) if _java(stack) else 0)
    assert {login: done for login, done in tried["kafka"].items() if done} == {}
    run = stack("submit", _slide(stack, "later", seed=7), "--wait")
    assert run.code == 0, run.output
    archived = _slide(stack, "archived", seed=8)
    before = os.umask(0o077)  # a command writes as the person does who types it
    run = stack("backfill", archived.parent)  # which goes to the broker, not to the gateway
    os.umask(before)
    assert run.code == 0, run.output
    objects = stack.home / "objects"
    until((objects / "reports" / "archived" / "latest.json").exists, 120, "its draft")
    until(lambda: not any((objects / "attempts" / name).exists() for name in SERVICES), 60, "all to be swept")


def test_even_in_an_open_folder_the_stacks_files_are_closed(stack: RunningStack):
    """A home may be opened by mistake; its files stay closed."""
    wrote = [path for path in _everything(stack) if "arriving" not in path.parts and path.name != "inbox"]
    assert len(wrote) > 20
    modes = {path: _mode(path) for path in wrote}
    assert [path for path, mode in modes.items() if not stat.S_ISLNK(mode) and mode & 0o077] == []


def test_the_token_is_written_only_to_its_file(stack: RunningStack):
    token = (stack.home / "secrets" / "token").read_text().encode()
    files = [path for path in _everything(stack) if token in bytes_at(path)]
    processes = [Path(f"/proc/{pid}") for pid in [stack.process.pid, *stack.pids()]]

    assert files == [stack.home / "secrets" / "token"]
    assert [one for one in processes if token in bytes_at(one / "cmdline") + bytes_at(one / "environ")] == []
    assert token.decode() not in json.dumps(stack.record) + stack("watch", "--once").out
