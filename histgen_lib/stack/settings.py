"""The settings of a local stack, and the environment that it gives its services; nothing is started here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import histgen_lib
from histgen_lib.client.home import StackHome
from histgen_lib.cores import cores
from histgen_lib.errors import FatalError
from histgen_lib.models.folder import open_model_folder
from histgen_lib.runtime.silence import LIMIT_S
from services.table import SERVICES, Service, service_named

_CHECKOUT = Path(histgen_lib.__file__).resolve().parents[1]
KAFKA_LIBS = _CHECKOUT / ".local" / "kafka" / "libs"
"""Kafka's jars, where deploy/setup.sh puts them in a checkout."""
TRITON_HOME = _CHECKOUT / ".triton"
"""The environment that holds tritonserver, where deploy/setup.sh makes it."""

RUN_DIR = "HISTGEN_RUN_DIR"
"""This variable in a process's environment tells to which stack it belongs."""


@dataclass(frozen=True)
class StackSettings:
    """What to start, and where.

    `broker`: "embedded" (a file in `home`), "kafka" (started here), "embedded:/file" or "kafka://host:port".
    `store`: "file:/folder" or "s3://bucket/prefix"; a folder in `home` if None. `inference`: "auto" (Triton
    if it is installed, else ONNX Runtime in each worker), "onnx", "triton" or "triton://host:port". `watch`:
    the folder for new slides; `home`/inbox if None. `tilers`: how many of each scaled service to start.
    `roots`: further folders and buckets that slides may be taken from. `grace_s`: how long a running job may
    go on when the stack is stopped. `frozen_s`: a process without a sign of life for so long is replaced; 0:
    never. `retention`: what is pruned once a day, see `catalogue/pruning.py`; if empty, HISTGEN_RETENTION
    applies. `environment`: further variables for the services.
    """

    home: Path
    model: Path
    watch: Path | None = None
    broker: str = "embedded"
    store: str | None = None
    store_endpoint: str | None = None
    inference: str = "auto"
    tilers: int = 1
    threads: int | None = None
    grace_s: float = 20.0
    frozen_s: float = LIMIT_S
    port: int = 0
    roots: tuple[str, ...] = ()
    retention: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    kafka_libs: Path = KAFKA_LIBS
    triton_home: Path = TRITON_HOME

    @property
    def inbox(self) -> Path:
        """The watched folder."""
        return (self.watch or self.home / "inbox").absolute()

    @property
    def allowed(self) -> tuple[str, ...]:
        """The places that slides may be taken from."""
        return (str(self.inbox), str(self.home.absolute()), *self.roots)

    @property
    def store_url(self) -> str:
        """The URL of the object store."""
        return _absolute(self.store or f"file:{self.home / 'objects'}", "file:")

    @property
    def case_index_url(self) -> str:
        """The URL of the case index."""
        return f"file:{(self.home / 'case-index').absolute()}"

    @cached_property
    def has_retrieval(self) -> bool:
        """Whether the model has a retrieval network; False for a folder that is no model."""
        try:
            return bool(open_model_folder(self.model).retrieval)
        except FatalError:
            return False

    @property
    def bus_url(self) -> str:
        """The URL of the broker, unless it is started here."""
        return _absolute(
            f"embedded:{self.home / 'bus.db'}" if self.broker == "embedded" else self.broker, "embedded:"
        )


def service_names(settings: StackSettings) -> list[str]:
    """Name the processes to start; of several tilers, the second is tiler-2.

    Without a retrieval network in the model there is no case index, and nobody who keeps or searches it.
    """
    rows = [row for row in SERVICES if settings.has_retrieval or not row.retrieval]
    single = [row.name for row in rows if not row.scaled]
    scaled = [row.name for row in rows if row.scaled]
    more = [f"{name}-{number}" for name in scaled for number in range(2, settings.tilers + 1)]
    return [*single, *scaled, *more]


def service_module(name: str) -> str:
    """Return the module that runs the process of a name."""
    return _row(name).module


def service_environment(
    settings: StackSettings, name: str, *, home: StackHome, bus: str, inference: str, gateway: str
) -> dict[str, str]:
    """Return the settings of one process as environment variables. `gateway`: the URL it is to have."""
    entrance = _row(name).is_entrance
    values = {
        "BUS": bus,
        "STORE": settings.store_url,
        "STORE_ENDPOINT": settings.store_endpoint or "",
        "CASE_INDEX": settings.case_index_url if settings.has_retrieval else "",
        "INFERENCE": inference,
        "MODEL": str(settings.model.absolute()),
        "THREADS": str(settings.threads or _threads(settings.tilers)),
        "TOKEN_FILE": str(home.token_path),
        "SCRATCH": str(home.folder / "scratch"),
        "GRACE_S": str(settings.grace_s),
        "FROZEN_S": str(settings.frozen_s),
        "HOST": "127.0.0.1",
        "PORT": gateway.rpartition(":")[2] if entrance else "0",
        "WATCH": str(settings.inbox),
        "ROOTS": json.dumps(settings.allowed),
    }
    if settings.broker == "kafka":
        values["KAFKA_FILE"] = str(home.kafka_client_path)
    if entrance:
        values["INDEX"] = str(home.index_path)
        values |= {"RETENTION": settings.retention} if settings.retention else {}
    environment = {f"HISTGEN_{key}": value for key, value in values.items()}
    return environment | {RUN_DIR: str(home.run_dir)} | dict(settings.environment)


def _row(name: str) -> Service:
    return service_named(name.partition("-")[0])


def _absolute(url: str, scheme: str) -> str:
    """Make a relative path absolute: other processes read the URL in other folders."""
    path = url.removeprefix(scheme)
    relative = url.startswith(scheme) and path and not path.startswith("/")
    return f"{scheme}{Path(path).absolute()}" if relative else url


def _threads(tilers: int) -> int:
    """Divide the cores among the tilers; the reporter is busy only for moments."""
    return max(1, cores() // tilers)
