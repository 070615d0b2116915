"""The options that say which stack a command is about."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from histgen_lib.client.connection import Connection

Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help="Folder of the stack. Default: $HISTGEN_HOME, else ~/.local/share/histgen.",
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help='Store of a remote stack: "file:/folder" or "s3://bucket/prefix". '
        "Default: that of the stack in the folder, else $HISTGEN_STORE.",
    ),
]
StoreEndpoint = Annotated[
    str | None,
    typer.Option("--store-endpoint", metavar="URL", help="URL of an S3 server other than Amazon's."),
]
Bus = Annotated[
    str | None,
    typer.Option(
        "--bus",
        metavar="URL",
        help='Broker of a remote stack: "kafka://host:port". Default: that of the stack in the folder, else '
        "$HISTGEN_BUS.",
    ),
]
Gateway = Annotated[
    str | None,
    typer.Option(
        "--gateway",
        metavar="URL",
        help="URL of a remote gateway. Default: that of the stack in the folder, else $HISTGEN_GATEWAY.",
    ),
]


def reach(
    home: Path | None,
    *,
    store: str | None = None,
    store_endpoint: str | None = None,
    bus: str | None = None,
    gateway: str | None = None,
) -> Connection:
    """Find the stack (see `client.connection.connect`); files this process writes are its owner's alone."""
    from histgen_lib.client.connection import Target, connect
    from histgen_lib.secret import OWNER_ONLY

    os.umask(OWNER_ONLY)
    return connect(Target(home, store, store_endpoint, bus, gateway), os.environ)


def server_places() -> tuple[Path, Path]:
    """Return where Kafka's jars and Triton's environment lie: $HISTGEN_KAFKA_LIBS, $HISTGEN_TRITON_HOME."""
    from histgen_lib.stack.settings import KAFKA_LIBS, TRITON_HOME

    kafka, triton = os.environ.get("HISTGEN_KAFKA_LIBS"), os.environ.get("HISTGEN_TRITON_HOME")
    return Path(kafka) if kafka else KAFKA_LIBS, Path(triton) if triton else TRITON_HOME
