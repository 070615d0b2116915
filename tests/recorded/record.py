"""Records what a version leaves behind: a home folder, the records of its Kafka topics, and a store.

Run it with the interpreter of the checkout to be recorded (its `.venv` made by `deploy/setup.sh all`):

    OLD/.venv/bin/python tests/recorded/record.py OLD tests/recorded

It uses the command line, the tiny model and moto's server of that checkout, and little else of its code. The
slides lie in a bucket, so that no path of this machine gets into events and sealed objects; where one is
unavoidable (stack.json, index.db), @HOME@ stands for it. `test_recorded_past.py` uses the recordings.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import boto3
from kafka import KafkaConsumer, TopicPartition

PLACEHOLDER = "@HOME@"
BUCKET = "scans"
LEFT_OUT = frozenset({"logs", "run", "scratch", "model_repository", "secrets", "kafka"})
"""What a home has that is made anew, or is secret."""
SLIDES = {"done": 1, "letter": 2, "waiting": 3}
"""The slides and the seeds of their textures."""
LONG_S = 600.0


class Recorder:
    """Runs the scenario: one slide is drafted, one ends in a dead letter, one is announced and waits."""

    def __init__(self, checkout: Path, work: Path) -> None:
        self.checkout, self.work = checkout, work
        sys.path.insert(0, str(checkout / "tests"))
        import tiny_model

        self.model = tiny_model.make_tiny_model(work / "model")
        self.slides = work / "slides"
        self.slides.mkdir()
        for name, seed in SLIDES.items():
            tiny_model.write_slide(self.slides / f"{name}.tiff", side_px=256, mpp=2.0, seed=seed)
        self.s3 = boto3.client("s3")

    def leave(self, home: Path, *options: str) -> None:
        """Run stacks in `home` until all three slides are as they are to be, and stop."""
        for name in SLIDES:
            self.s3.delete_object(Bucket=BUCKET, Key=f"{name}/{name}.tiff")
        self._put("done")
        with self._stack(home, *options):
            self._histgen("submit", f"s3://{BUCKET}/done/done.tiff", "--wait", "--home", home)
        self._announce("letter", home)
        self.s3.delete_object(Bucket=BUCKET, Key="letter/letter.tiff")
        with self._stack(home, *options):
            self._until_dead_letter(home)
        self._announce("waiting", home)
        self._histgen("status", "--home", home)

    def _put(self, name: str) -> None:
        self.s3.upload_file(str(self.slides / f"{name}.tiff"), BUCKET, f"{name}/{name}.tiff")

    def _announce(self, name: str, home: Path) -> None:
        """Announce a slide while no worker runs."""
        self._put(name)
        self._histgen("backfill", f"s3://{BUCKET}/{name}", "--home", home)

    def _until_dead_letter(self, home: Path) -> None:
        end = time.monotonic() + LONG_S
        while self._states(home).get("letter") != "dead-letter":
            assert time.monotonic() < end, self._states(home)
            time.sleep(1)

    def _states(self, home: Path) -> dict[str, str]:
        status = json.loads(self._histgen("status", "--home", home, "--json"))
        return {slide["slide_id"]: slide["state"] for slide in status["slides"]}

    def _histgen(self, *arguments: object) -> str:
        command = [sys.executable, "-m", "histgen_lib.cli", *map(str, arguments)]
        run = subprocess.run(command, cwd=self.checkout, stdout=subprocess.PIPE, text=True, check=True)
        return run.stdout

    @contextmanager
    def _stack(self, home: Path, *options: str) -> Iterator[None]:
        command = [sys.executable, "-m", "histgen_lib.cli", "up", "--json", "--home", str(home)]
        command += ["--model", str(self.model), "--inference", "onnx", "--allow", f"s3://{BUCKET}", *options]
        with subprocess.Popen(command, cwd=self.checkout, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while process.stdout.readline().strip() != "}":
                assert process.poll() is None, "the stack did not start"
            try:
                yield
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(LONG_S)


@contextmanager
def bucket_server(checkout: Path) -> Iterator[None]:
    """Run moto's server, and have this process and its children use it."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "recorder",
        "AWS_SECRET_ACCESS_KEY": "recorder",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    server = subprocess.Popen([sys.executable, str(checkout / "tests/servers/s3_moto.py"), str(port)])
    try:
        while True:
            try:
                boto3.client("s3").create_bucket(Bucket=BUCKET)
                break
            except boto3.exceptions.botocore.exceptions.EndpointConnectionError:
                time.sleep(0.2)
        yield
    finally:
        server.kill()
        server.wait()


def kafka_records(servers: str) -> list[dict[str, object]]:
    """Read every record of every topic of ours, as it lies on the broker."""
    with closing(
        KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False, auto_offset_reset="earliest")
    ) as consumer:
        topics = sorted(topic for topic in consumer.topics() if not topic.startswith("__"))
        parts = [TopicPartition(t, p) for t in topics for p in sorted(consumer.partitions_for_topic(t))]
        consumer.assign(parts)
        missing = sum(consumer.end_offsets(parts).values())
        records = []
        while len(records) < missing:
            for batch in consumer.poll(1000).values():
                records += batch
    return [
        {
            "topic": record.topic,
            "key": record.key and encoded(record.key),
            "headers": [[name, encoded(value)] for name, value in record.headers],
            "value": record.value and encoded(record.value),
        }
        for record in sorted(records, key=lambda one: (one.timestamp, one.topic, one.partition, one.offset))
    ]


def encoded(data: bytes) -> str:
    """Write bytes as base64."""
    return base64.b64encode(data).decode()


def pack(home: Path, archive: Path, *names: str) -> None:
    """Pack folders and files of a home, without any path of this machine in them."""
    record = home / "stack.json"
    record.write_text(record.read_text().replace(str(home), PLACEHOLDER))
    for database in home.glob("*.db"):
        strip(database, str(home))
    with tarfile.open(archive, "w:xz") as tar:
        for name in names:
            tar.add(home / name, name, filter=anonymous)


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who owned a file here."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def strip(database: Path, path: str) -> None:
    """Move SQLite's log into its file, and replace a path in its texts."""
    with closing(sqlite3.connect(database)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            for column in connection.execute(f"PRAGMA table_info({table})").fetchall():
                if column[2] == "TEXT":
                    text = f"UPDATE {table} SET {column[1]} = replace({column[1]}, ?, ?)"
                    connection.execute(f"{text} WHERE instr({column[1]}, ?)", (path, PLACEHOLDER, path))
        connection.commit()
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert path.encode() not in b"\n".join(
            database.parent.joinpath(database.name).read_bytes().split(b"\0")
        )
    for ending in ("-wal", "-shm"):
        database.with_name(database.name + ending).unlink(missing_ok=True)


def main(checkout: Path, out: Path) -> None:
    """Record everything into `out`."""
    from histgen_lib.stack.kafka import KafkaProcess

    work = Path(tempfile.mkdtemp(prefix="histgen-record-"))
    with bucket_server(checkout):
        recorder = Recorder(checkout, work)
        embedded, kafka = work / "embedded", work / "kafka"
        recorder.leave(embedded)
        broker = KafkaProcess(checkout / ".local" / "kafka" / "libs", work / "broker")
        broker.start()
        try:
            recorder.leave(kafka, "--broker", broker.url)
            records = kafka_records(broker.url.removeprefix("kafka://"))
        finally:
            broker.stop()
    shutil.copytree(recorder.slides, out / "slides", dirs_exist_ok=True)
    kept = sorted(path.name for path in embedded.iterdir() if path.name not in LEFT_OUT)
    pack(embedded, out / "home.tar.xz", *[name for name in kept if not name.endswith(("-wal", "-shm"))])
    pack(kafka, out / "store.tar.xz", "objects")
    lines = ",\n".join(json.dumps(record) for record in records)
    (out / "kafka.json").write_text(f"[\n{lines}\n]\n")
    shutil.rmtree(work)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
