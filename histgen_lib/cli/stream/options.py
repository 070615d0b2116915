"""Options with which the commands of the stream say which stack they mean."""

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
        help="Folder the stack lives in. Default: $HISTGEN_HOME, else ~/.local/share/histgen.",
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help='Of a remote stack: "file:/folder" or "s3://bucket/prefix". '
        "Else the running one's, else $HISTGEN_STORE.",
    ),
]
StoreEndpoint = Annotated[
    str | None,
    typer.Option("--store-endpoint", metavar="URL", help="Of an S3 other than Amazon's."),
]
Bus = Annotated[
    str | None,
    typer.Option(
        "--bus",
        metavar="URL",
        help='Broker of a remote stack: "kafka://host:port". Else the running one\'s, else $HISTGEN_BUS.',
    ),
]
Gateway = Annotated[
    str | None,
    typer.Option(
        "--gateway", metavar="URL", help="Of a remote stack. Else the running one's, else $HISTGEN_GATEWAY."
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
    """Find the stack that is meant, whose files are nobody else's; see `stack.connection.connect`."""
    from histgen_lib.client.connection import Target, connect
    from histgen_lib.secret import OWNER_ONLY

    os.umask(OWNER_ONLY)
    return connect(Target(home, store, store_endpoint, bus, gateway), os.environ)


def server_places() -> tuple[Path, Path]:
    """Say where Kafka's jars and Triton's environment are: $HISTGEN_KAFKA_LIBS, $HISTGEN_TRITON_HOME."""
    from histgen_lib.stack.settings import KAFKA_LIBS, TRITON_HOME

    kafka, triton = os.environ.get("HISTGEN_KAFKA_LIBS"), os.environ.get("HISTGEN_TRITON_HOME")
    return Path(kafka) if kafka else KAFKA_LIBS, Path(triton) if triton else TRITON_HOME
