"""Records a day of a consumer group's offsets: a real Kafka, and real workers, at a fast pace.

    .venv/bin/python tests/recorded/record_day.py tests/recorded/day.csv

When slides come in (`hospital_day`) and how long each takes is drawn; a job only waits for so long. All the
rest happens: members join, take one record at a time, and commit when they are done. What the broker says is
written down whenever it changes: seconds of the day, partition, committed offset, end. It takes six minutes.
"""

from __future__ import annotations

import math
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from group_offsets import watched  # noqa: E402
from hospital_day import DAY_S, arrivals  # noqa: E402

from histgen_lib.bus import BusSettings, open_publisher  # noqa: E402
from histgen_lib.events import Event, SlideScanned  # noqa: E402
from histgen_lib.pipeline.job import Progress  # noqa: E402
from histgen_lib.stack.kafka import KafkaProcess  # noqa: E402
from histgen_lib.storage import StorageSettings  # noqa: E402
from histgen_lib.worker import Outcome, WorkerSpec, run_worker  # noqa: E402

SEED, SCALE, PACE, WORKERS, PARTITIONS = 11, 0.6, 240.0, 4, 12
USUAL_S, SPREAD = 300.0, 0.6
"""The median and the spread (log-normal) of how long a slide takes, in seconds of the day."""
TOPIC, GROUP = "slide.scanned", "histgen-tiler"
HEADER = f"""\
# A day of the group {GROUP} on {TOPIC}: what a real Kafka said of {{slides}} slides and {WORKERS} workers.
# Recorded by tests/recorded/record_day.py at {PACE:.0f} times the pace; arrivals and durations were drawn.
seconds,partition,committed,end
"""


class TimedJob:
    """A job that takes as long as was drawn for its slide."""

    def find(self, event: Event) -> Outcome | None:
        """Nothing is kept."""
        return None

    def handle(self, event: Event, progress: Progress) -> Outcome:
        """Wait."""
        time.sleep(random.Random(event.key).lognormvariate(math.log(USUAL_S), SPREAD) / PACE)
        return Outcome()

    def ready(self) -> Sequence[str]:
        """Nothing is needed."""
        return ()


def work(url: str, folder: Path) -> int:
    """Be a worker."""
    spec = WorkerSpec("tiler", {TOPIC: GROUP}, partial(TimedJob), folder / "token")
    bus = BusSettings(url, partitions=PARTITIONS)
    return run_worker(spec, bus=bus, storage=StorageSettings(f"file:{folder / 'store'}"))


def record(path: Path) -> None:
    """Record a day into a file."""
    with tempfile.TemporaryDirectory() as name:
        broker = KafkaProcess(ROOT / ".local" / "kafka" / "libs", Path(name) / "kafka")
        broker.start()
        bus = BusSettings(broker.url, partitions=PARTITIONS)
        command = [sys.executable, __file__, broker.url, name]
        with closing(open_publisher(bus)) as publisher:
            publisher.publish(TOPIC, "first", _scanned("first"))
        workers = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(WORKERS)]
        try:
            _await_work(bus)
            path.write_text(HEADER.format(slides=len(arrivals(SEED, scale=SCALE))) + "".join(_day(bus)))
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait()
            broker.stop()


def _await_work(bus: BusSettings) -> None:
    """Wait until the workers have done the first slide."""
    with watched(bus, TOPIC, GROUP) as look:
        while sum(found.committed for found in look() or ()) < 1:
            time.sleep(0.1)


def _day(bus: BusSettings) -> list[str]:
    """Let a day pass; return a row whenever a partition's offsets have changed."""
    rows, known, began_at = list[str](), dict[int, object](), time.monotonic()
    publishing = threading.Thread(target=_publish, args=(bus, began_at), daemon=True)
    publishing.start()
    with watched(bus, TOPIC, GROUP) as look:
        while (now_s := (time.monotonic() - began_at) * PACE) < DAY_S:
            for partition, found in enumerate(look() or ()):
                if known.get(partition) != found:
                    known[partition] = found
                    rows.append(f"{now_s:.0f},{partition},{found.committed},{found.end}\n")
            time.sleep(1.0 / PACE)
    publishing.join()
    return rows


def _publish(bus: BusSettings, began_at: float) -> None:
    with closing(open_publisher(bus)) as publisher:
        for number, at_s in enumerate(arrivals(SEED, scale=SCALE)):
            time.sleep(max(0.0, began_at + at_s / PACE - time.monotonic()))
            slide = f"slide-{number:03}"
            publisher.publish(TOPIC, slide, _scanned(slide))


def _scanned(slide: str) -> Event:
    data = SlideScanned(slide, f"file:///{slide}.svs", "c" * 64, 10)
    return Event.first(data, source="/histgen/recorded", now=datetime.now(UTC), identity=slide)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sys.exit(work(sys.argv[1], Path(sys.argv[2])))
    record(Path(sys.argv[1]))
