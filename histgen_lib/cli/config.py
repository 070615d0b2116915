"""`histgen config`: the settings that a service would run with, and where each comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from histgen_lib.cli.output import JsonFlag, emit_json, out
from services.table import SERVICES, service_named

app = typer.Typer(help="Look at the settings of the services.", no_args_is_help=True)

if TYPE_CHECKING:
    ServiceName = str
else:
    ServiceName = Literal[tuple(row.name for row in SERVICES)]


@app.command()
def show(
    service: Annotated[ServiceName, typer.Argument(help="Which service.")],
    as_json: JsonFlag = False,
) -> None:
    """Print the settings in force for a service, with secrets masked, and where each value comes from.

    Reads HISTGEN_* and the file that HISTGEN_CONFIG names, as the service itself does.

    For example:

      HISTGEN_CONFIG=lab.yaml histgen config show tiler
    """
    from services.settings import settings_class

    kind = settings_class(service_named(service))
    settings = kind.load()
    if as_json:
        emit_json(settings.in_force())
    else:
        meanings = {field: info.description or "" for field, info in kind.model_fields.items()}
        _print(settings.shown(), settings.origins(), meanings)


def _print(values: Mapping[str, Any], origins: Mapping[str, str], meanings: Mapping[str, str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("Setting", "Value", "From", "Meaning", box=None, pad_edge=False)
    for name, value in values.items():
        origin = origins.get(name, "")
        style = "dim" if origin == "default" else ""
        shown = "" if value is None else str(value)
        table.add_row(*(Text(part, style=style) for part in (name, shown, origin, meanings.get(name, ""))))
    out().print(table)
