"""What a Triton's start needs: the model fetched, engines for this GPU, and the repository to load.

<models>/model        the model folder, as `histgen model sync` copies it
<models>/engines/…    compiled engines, kept: a folder for each GPU, TensorRT, model, format and size
<models>/repository   what tritonserver loads

`engines` may be shared by servers on machines of several kinds: each finds its own, and of several that lack
the same ones only one compiles. The other two folders belong to one server.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from histgen_lib.access.model_sync import open_source, sync_model
from histgen_lib.errors import FatalError
from histgen_lib.export.targets import export_to
from histgen_lib.models import SHIPPED_MODEL
from histgen_lib.models.engines.record import (
    EngineFiles,
    check_content,
    engines_folder,
    network_digest,
)
from histgen_lib.models.folder import ModelFolder, open_model_folder
from histgen_lib.models.graph_record import GRAPHS
from histgen_lib.models.serving import Precision
from histgen_lib.names import safe_name
from histgen_lib.storage import StorageSettings

if TYPE_CHECKING:
    from histgen_lib.models.engines.serving import Machine

TARGETS = ("local", "onnxruntime", "tensorrt")
_COMPILED = "tensorrt"
_SHOWN = 16
"""Digits of a digest in a folder's name."""

Say = Callable[[str], None]


def _this_machine() -> Machine:
    from histgen_lib.models.engines.serving import this_machine

    return this_machine(_COMPILED)


@dataclass(frozen=True)
class Preparation:
    """What to prepare.

    models     the folder that holds all three
    source     where the model is (`open_source`); the shipped model if ""
    digest     the SHA-256 that it has to have; "" for any
    target     one of `TARGETS`
    precision, most_tiles   number format of engines, and the largest slide that they take
    storage    how buckets are reached
    machine    opens this machine's GPU and its TensorRT
    """

    models: Path
    target: str
    source: str = ""
    digest: str = ""
    precision: Precision = "float16"
    most_tiles: int = 100_000
    storage: StorageSettings = field(default_factory=lambda: StorageSettings("file:/"))
    machine: Callable[[], Machine] = _this_machine


@dataclass(frozen=True)
class Prepared:
    """What is there now. `engines`: where they are kept, None without any; `compiled`: whether just now."""

    repository: Path
    model: str
    digest: str
    engines: Path | None = None
    compiled: bool = False


def prepare(wanted: Preparation, say: Say) -> Prepared:
    """Fetch the model, compile what is not there yet, and write the repository; `say` takes progress.

    Nothing half-written is left behind, whatever fails. Raises FatalError("settings-invalid") for another
    target, and as `sync_model`, `this_machine`, `compile_model` and `export_to`.
    """
    if wanted.target not in TARGETS:
        raise FatalError(
            "settings-invalid",
            f"HISTGEN_TARGET is none of {', '.join(TARGETS)}.",
            hint="Engines of TensorRT-RTX are compiled on any machine: histgen compile, histgen export.",
        )
    source = open_source(wanted.source or f"file:{SHIPPED_MODEL}", wanted.storage)
    synced = sync_model(source, wanted.models / "model", digest=wanted.digest)
    say(f"model {synced.name}, sha256 {synced.digest}")
    repository = wanted.models / "repository"
    if wanted.target != _COMPILED:
        export_to(wanted.target, synced.folder, repository)
        return Prepared(repository, synced.name, synced.digest)
    model = open_model_folder(synced.folder)
    cache = _Engines(wanted, model, wanted.machine(), say)
    compiled = cache.ensure()
    with _with_engines(model, cache.folder, wanted.models) as folder:
        export_to(_COMPILED, folder, repository)
    return Prepared(repository, synced.name, synced.digest, cache.folder, compiled)


class _Engines:
    """The engines of one model for one GPU."""

    def __init__(self, wanted: Preparation, model: ModelFolder, machine: Machine, say: Say) -> None:
        self._wanted, self._model, self._machine, self._say = wanted, model, machine, say
        shelf, gpu = wanted.models / "engines", safe_name(machine.device.name)
        made_by = f"{gpu}-{safe_name(machine.version)}"
        name = f"{model.digest[:_SHOWN]}-{wanted.precision}-{wanted.most_tiles}"
        self.folder = shelf / f"{made_by}-{name}"
        self._timing = shelf / f"{made_by}.timing"

    def ensure(self) -> bool:
        """Compile unless that was done before; return whether it was necessary now."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            if self._whole():
                self._say(f"engines for {self._machine.device.name} are there")
                return False
            self._compile()
            return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process at a time look and compile here, on whichever machine it runs."""
        with self.folder.with_name(f".{self.folder.name}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say("another server compiles these engines; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:  # a file system without locks: the work may be done twice
                self._say(f"no lock on {self.folder.parent} ({error.strerror})")
            yield

    def _whole(self) -> bool:
        records = sorted(self.folder.glob("*.json"))
        try:
            for path in records:
                files = EngineFiles(self.folder, path.stem)
                check_content(files.read(), files, network_digest(self._model, path.stem))
        except FatalError as error:
            self._say(f"{error.code}: {error} They are compiled again.")
            return False
        return bool(records)

    def _compile(self) -> None:
        """Compile all engines; they appear together."""
        from histgen_lib.export.engines.compile import CompileSettings, compile_model

        for left in self.folder.parent.glob(f".{self.folder.name}.????????"):
            shutil.rmtree(left, ignore_errors=True)  # of a server that was killed
        place = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}.", dir=self.folder.parent))
        try:
            settings = CompileSettings(
                _COMPILED,
                self._wanted.precision,
                most_tiles=self._wanted.most_tiles,
                out=place / "engines",
                timing_cache=self._timing,
            )
            compile_model(self._model.path, settings, self._say)
            if self.folder.exists():
                self.folder.rename(place / "before")
            (place / "engines").rename(self.folder)
        finally:
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _with_engines(model: ModelFolder, engines: Path, models: Path) -> Iterator[Path]:
    """Lend a model folder that has these engines, made of links."""
    with tempfile.TemporaryDirectory(prefix=".model.", dir=models) as place:
        folder = Path(place)
        for path in (*model.files(), model.path / GRAPHS):
            (folder / path.name).symlink_to(path)
        kept = engines_folder(folder, _COMPILED)
        kept.parent.mkdir()
        kept.symlink_to(engines.absolute())
        yield folder
