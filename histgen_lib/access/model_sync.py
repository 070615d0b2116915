"""Copying a model folder from elsewhere: whole or not at all, with its digests checked.

FOLDER is a link to `.<name>.<digest>` beside it, so that one rename exchanges all files at once. The version
before stays, for workers that still read it; older ones are removed. What a copy that was cut off had fetched
is in `.<name>.syncing`, and is not fetched again.

Only files that a model folder may have are copied, under our own names for them: the source decides no path.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from histgen_lib.access.places import ObjectPrefix, parse_prefix
from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.files import atomic_path, json_digest, sha256_file
from histgen_lib.models.engines.flavours import FLAVOURS
from histgen_lib.models.engines.record import (
    ENCODER,
    ENGINES,
    STEP,
    TILE_ENCODER,
    EngineFiles,
    check_content,
    engines_folder,
)
from histgen_lib.models.folder import (
    CONFIG,
    DOMAIN,
    RETRIEVAL_WEIGHTS,
    RETRIEVAL_WORDS,
    TILE_ENCODER_WEIGHTS,
    TOKENIZER,
    WEIGHTS,
    ModelFolder,
    open_model_folder,
)
from histgen_lib.models.graph_record import GRAPHS, check_graphs, recorded_digests
from histgen_lib.models.serving import served_models
from histgen_lib.storage import ObjectStore, StorageSettings, open_foreign_bucket

Say = Callable[[str, int, int], None]
"""Takes the name of the file that is next, and how many of all bytes are there."""

_SMALL = (CONFIG, GRAPHS, TOKENIZER, DOMAIN, RETRIEVAL_WORDS)
"""Fetched every time: they are small, and say what the others have to be."""
_SHOWN = 16
"""Digits of a digest in a folder's name."""


@dataclass(frozen=True)
class Synced:
    """What a copy came to. `copied_bytes`: fetched this time; `changed`: whether FOLDER is another now."""

    folder: Path
    name: str
    digest: str
    copied_bytes: int
    changed: bool


class Source(Protocol):
    """Where a model folder is copied from."""

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of everything there, by its name below the folder."""
        ...

    def fetch(self, name: str, path: Path) -> None:
        """Copy one file to a path, which appears whole or not at all."""
        ...


class _FolderSource:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sizes(self) -> dict[str, int]:
        paths = (self._folder / name for name in model_files())
        return {str(p.relative_to(self._folder)): p.stat().st_size for p in paths if p.is_file()}

    def fetch(self, name: str, path: Path) -> None:
        with atomic_path(path) as unfinished:
            shutil.copyfile(self._folder / name, unfinished)


class _BucketSource:
    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store, self._prefix = store, prefix

    def sizes(self) -> dict[str, int]:
        found = self._store.list(self._prefix)
        return {info.key.removeprefix(self._prefix): info.size_bytes for info in found}

    def fetch(self, name: str, path: Path) -> None:
        self._store.fetch(self._prefix + name, path)


def model_files() -> tuple[str, ...]:
    """Name every file that a model folder may have and something reads, engines included."""
    graphs = [name for model in served_models() for name in (*model.files, *model.beside)]
    engines = [path for files in _engine_files(Path()) for path in _three(files)]
    return (*_SMALL, WEIGHTS, TILE_ENCODER_WEIGHTS, RETRIEVAL_WEIGHTS, *graphs, *map(str, engines))


def open_source(uri: str, storage: StorageSettings) -> Source:
    """Open "file:/folder", "/folder" or "s3://bucket/prefix", the latter at the endpoint of `storage`.

    Raises InvalidInputError("model-source"), and for a bucket as `open_foreign_bucket`.
    """
    try:
        place = parse_prefix(uri)
    except InvalidInputError as error:
        raise InvalidInputError(
            "model-source",
            "This does not name a model folder.",
            hint="Give file:/folder or s3://bucket/prefix.",
        ) from error
    if isinstance(place, ObjectPrefix):
        return _BucketSource(open_foreign_bucket(storage, place.bucket), place.prefix)
    return _FolderSource(place)


def sync_model(source: Source, folder: Path, *, digest: str = "", say: Say | None = None) -> Synced:
    """Make `folder` the model that `source` has; does nothing if it is already, and undamaged.

    `digest`: which model it has to be, by its SHA-256 (`histgen model info`); "" for any. Raises FatalError:
    "model-missing", "model-incomplete", "model-config", "model-onnx", "model-other", "model-folder-foreign",
    "engine-missing", "engine-record", "engine-corrupt"; and what the source raises.
    """
    folder = folder.absolute()
    place = _Place(folder)
    with place.locked():
        place.refuse_foreign()
        copy = _Copy(source, place, say or (lambda *_: None))
        copy.fetch()
        model = _checked(place.staging, digest)
        changed = place.switch_to(copy.digests)
    return Synced(folder, model.name, model.digest, copy.copied_bytes, changed)


class _Place:
    """The folder, and what lies beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.staging = folder, folder.with_name(f".{folder.name}.syncing")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one copy at a time work here; another waits for it, and then finds all done."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with self.folder.with_name(f".{self.folder.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def refuse_foreign(self) -> None:
        if self.folder.exists() and not self.folder.is_symlink():
            raise FatalError(
                "model-folder-foreign",
                f"{self.folder} exists already, and was not made by histgen model sync.",
                hint="Name a folder that does not exist yet.",
            )

    @cached_property
    def current(self) -> Path | None:
        """The version that the folder is now."""
        return self.folder.resolve() if self.folder.is_dir() else None

    def switch_to(self, digests: Mapping[str, str]) -> bool:
        """Make what was staged the folder; return whether that changed anything.

        A version that was damaged is left to those who read it: the whole one gets another name.
        """
        if self.current and self._holds(self.current, digests):
            shutil.rmtree(self.staging)
            return False
        version = self._version(json_digest(digests))
        while version.is_dir() and not self._holds(version, digests):
            version = self._version(json_digest(version.name))
        if version.is_dir():
            shutil.rmtree(self.staging)
        else:
            self.staging.rename(version)
        link = self.folder.with_name(f".{self.folder.name}.link")
        link.unlink(missing_ok=True)
        link.symlink_to(version.name)
        link.replace(self.folder)
        self._remove_older(version)
        return True

    def _version(self, digest: str) -> Path:
        return self.folder.with_name(f".{self.folder.name}.{digest[:_SHOWN]}")

    def _holds(self, version: Path, digests: Mapping[str, str]) -> bool:
        """Return whether a version has all that was staged, undamaged."""
        return all(
            (path := version / name).is_file()
            and (path.samefile(self.staging / name) or sha256_file(path) == digest)
            for name, digest in digests.items()
        )

    def _remove_older(self, version: Path) -> None:
        kept = {version.name, self.current.name if self.current else ""}
        for path in self.folder.parent.glob(f".{self.folder.name}.{'[0-9a-f]' * _SHOWN}"):
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)


class _Copy:
    """Fills the staging folder."""

    def __init__(self, source: Source, place: _Place, say: Say) -> None:
        self._source, self._place, self._say = source, place, say
        self.digests: dict[str, str] = {}
        self.copied_bytes = 0

    def fetch(self) -> None:
        """Have every file of the source there, and nothing else. Raises FatalError("model-missing")."""
        known, found = model_files(), self._source.sizes()
        sizes = {name: found[name] for name in known if name in found}  # records before what they speak of
        if CONFIG not in sizes:
            raise FatalError(
                "model-missing",
                f"There is no model at the source: no {CONFIG}.",
                hint=f"Name the folder, or the prefix, that the model's {CONFIG} lies in.",
            )
        self._forget(set(sizes))
        total, done = sum(sizes.values()), 0
        for name, size in sizes.items():
            self._say(name, done, total)
            self.digests[name] = self._bring(name, size)
            done += size
        self._say("", total, total)

    def _bring(self, name: str, size: int) -> str:
        """Have one file in the staging folder; return its digest. Raises FatalError("model-onnx")."""
        path, wanted = self._place.staging / name, self._wanted(name)
        if wanted and self._is_there(name, wanted):
            return wanted
        self._source.fetch(name, path)
        self.copied_bytes += size
        found = sha256_file(path)
        if wanted and found != wanted:
            path.unlink()
            raise FatalError(
                "model-onnx",
                f"{name} is not the file that the model's own record names: its SHA-256 is {found}.",
                hint="Was the model changed while it was copied? Try again, or put the model there anew.",
            )
        return found

    def _is_there(self, name: str, wanted: str) -> bool:
        """Take what an earlier copy fetched, or the version in use has."""
        path, current = self._place.staging / name, self._place.current
        if current and not path.exists() and (current / name).is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # a file system without links
                path.hardlink_to(current / name)
        return path.is_file() and sha256_file(path) == wanted

    def _wanted(self, name: str) -> str:
        """Return the digest that a file's record states; "" for a record, and for what has none."""
        if name in _SMALL or name.endswith(".json"):
            return ""
        if name.startswith(f"{ENGINES}/"):
            files = EngineFiles((self._place.staging / name).parent, Path(name).stem)
            record = files.read_record()
            return record.engine if name.endswith(files.engine.suffix) else record.recorded
        return self._graphs.get(name, "")

    @cached_property
    def _graphs(self) -> dict[str, str]:
        return recorded_digests(self._place.staging)

    def _forget(self, names: set[str]) -> None:
        """Remove what an interrupted copy of another model left behind."""
        staging = self._place.staging
        for path in [path for path in staging.rglob("*") if path.is_file()]:
            if str(path.relative_to(staging)) not in names:
                path.unlink()


def _checked(staging: Path, digest: str) -> ModelFolder:
    model = open_model_folder(staging)
    model.file(TOKENIZER)
    if model.retrieval:
        model.file(RETRIEVAL_WORDS)
    check_graphs(model)
    for files in _engine_files(staging):
        if any(path.is_file() for path in _three(files)):
            record = files.read()
            check_content(record, files, record.model)
    if model.digest != digest and digest:  # also found out here: the folder gets another name next
        raise FatalError(
            "model-other",
            f"The model {model.name} has the SHA-256 {model.digest}, not {digest}.",
            hint="`histgen model info MODEL` shows a model's digest. Is it the right source?",
        )
    return model


def _engine_files(folder: Path) -> Iterator[EngineFiles]:
    for flavour in FLAVOURS:
        for name in (TILE_ENCODER, ENCODER, STEP):
            yield EngineFiles(engines_folder(folder, flavour), name)


def _three(files: EngineFiles) -> tuple[Path, Path, Path]:
    return files.record, files.engine, files.recorded
