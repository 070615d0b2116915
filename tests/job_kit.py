"""Jobs of tiler and reporter over a store in a folder, with the tiny model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from histgen_lib.access.places import Roots
from histgen_lib.access.scratch import Scratch
from histgen_lib.access.slide_files import SlideFiles
from histgen_lib.events import BagReady, Event, ReportDrafted, SlideScanned
from histgen_lib.inference import InferenceServer, OnnxServer
from histgen_lib.pipeline import Drafter, Progress, ReportModel, Scanner, load_model, silent
from histgen_lib.pipeline.draft.job import DraftJob
from histgen_lib.pipeline.draft.similar import NearestCases
from histgen_lib.pipeline.job import Done
from histgen_lib.pipeline.scan.job import ScanJob
from histgen_lib.slides.source import content_id_of, stored_in
from histgen_lib.storage import ObjectInfo, ObjectStore, StorageSettings, open_store
from histgen_lib.worker.handler import Handler, JobHandler

ANYWHERE = Roots((Path("/"),))
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Killed(BaseException):
    """Stands for the death of the process."""


class WatchedStore:
    """Wraps a store and records every write; `dies_after`: how many writes succeed before `Killed`."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self.written: list[str] = []
        self.replaced: list[str] = []
        self.dies_after: int | None = None

    def put(self, key: str, data: bytes | Path, *, if_absent: bool = True, content_type: str = "") -> bool:
        if self.dies_after is not None:
            if self.dies_after == 0:
                raise Killed
            self.dies_after -= 1
        known = self.inner.head(key) is not None
        done = self.inner.put(key, data, if_absent=if_absent, content_type=content_type)
        if done:
            (self.replaced if known else self.written).append(key)
        return done

    def get(self, key: str) -> bytes:
        return self.inner.get(key)

    def find(self, key: str) -> bytes | None:
        return self.inner.find(key)

    def fetch(self, key: str, path: Path) -> None:
        self.inner.fetch(key, path)

    def chunks(self, key: str, size: int = 1 << 20) -> Iterator[bytes]:
        return self.inner.chunks(key, size)

    def head(self, key: str) -> ObjectInfo | None:
        return self.inner.head(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self.inner.list(prefix)

    def delete(self, key: str) -> None:
        self.inner.delete(key)

    def uri(self, key: str) -> str:
        return self.inner.uri(key)

    def contents(self, prefix: str = "") -> dict[str, bytes]:
        return {info.key: self.inner.get(info.key) for info in self.inner.list(prefix)}


class NoSlides(SlideFiles):
    """Refuses to open slides."""

    def __init__(self) -> None:
        super().__init__(
            StorageSettings("file:/nowhere"), lambda: Scratch(Path("/nowhere"), 0), roots=ANYWHERE
        )

    def open(self, uri: str):
        raise AssertionError("a slide was opened")


@dataclass
class JobLab:
    """A tiler and a reporter over one store, without worker or broker."""

    folder: Path
    model: ReportModel
    server: InferenceServer
    store: WatchedStore
    files: SlideFiles
    in_flight: int = 1
    nearest: NearestCases | None = None

    @classmethod
    def at(cls, folder: Path, model_dir: Path, server: InferenceServer | None = None) -> JobLab:
        settings = StorageSettings(f"file:{folder / 'store'}")
        files = SlideFiles(settings, lambda: Scratch(folder / "scratch", 1 << 30), roots=ANYWHERE, mounts=())
        return cls(
            folder,
            load_model(model_dir),
            server or OnnxServer(model_dir, threads=1),
            WatchedStore(open_store(settings)),
            files,
        )

    @classmethod
    def copy_of(cls, original: Path, folder: Path, model_dir: Path) -> JobLab:
        """Copy the store in `original` to `folder`; its slides stay where they are."""
        shutil.copytree(original / "store", folder / "store")
        return cls.at(folder, model_dir)

    @property
    def scan_job(self) -> ScanJob:
        return ScanJob(Scanner(self.model, self.server, self.in_flight), self.store, self.files)

    @property
    def draft_job(self) -> DraftJob:
        return DraftJob(Drafter(self.model, self.server), self.store, self.files, self.nearest)

    @property
    def tiler(self) -> Handler:
        return JobHandler(self.scan_job, "tiler", now=lambda: NOW)

    @property
    def reporter(self) -> Handler:
        return JobHandler(self.draft_job, "reporter", now=lambda: NOW)

    def draft(self, ready: BagReady, progress: Progress = silent) -> Done[ReportDrafted]:
        return self.draft_job.run(event_of(ready), ready, progress)

    def find_draft(self, ready: BagReady) -> Done[ReportDrafted] | None:
        return self.draft_job.find(event_of(ready), ready)

    def without_slides(self) -> JobLab:
        """Return a lab over the same store that cannot open slides."""
        return replace(self, files=NoSlides())

    def remake(self, data: SlideScanned) -> None:
        """Do what tiler and reporter do with a slide, whether new or seen before."""
        ready = self.scan_job.find_bag(data) or self.scan_job.make_bag(data)
        if self.find_draft(ready) is None:
            self.draft(ready)


def scanned(path: Path, **fields) -> SlideScanned:
    """Return the event data of a slide, as the gateway publishes it."""
    parts = stored_in(path)
    known = {
        "slide_id": path.stem,
        "uri": path.as_uri(),
        "content_id": content_id_of(parts),
        "size_bytes": sum(part.stat().st_size for part in parts),
    }
    return SlideScanned(**(known | fields))


def event_of(data: SlideScanned | BagReady) -> Event:
    identity = f"{data.slide_id}|{data.content_id}|{data.case_id}"
    return Event.first(data, source="/histgen/test", now=NOW, identity=identity)


def drafts_of(lab: JobLab, events: Sequence[Event]) -> list[Event]:
    """Let the tiler and then the reporter process events; return what the reporter publishes."""
    bags = [bag for event in events for bag in lab.tiler.handle(event, silent).events]
    return [event for bag in bags for event in lab.reporter.handle(bag, silent).events]
