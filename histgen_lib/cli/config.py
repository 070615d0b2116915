"""`histgen config`: the settings that a service would run with, and where each comes from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from histgen_lib.cli.output import JsonFlag, emit_json, out
from histgen_lib.cli.service_code import service_code

app = typer.Typer(help="Look at the settings of the services.", no_args_is_help=True)

Service = Literal["gateway", "tiler", "reporter"]


@app.command()
def show(
    service: Annotated[Service, typer.Argument(help="Which service.")],
    as_json: JsonFlag = False,
) -> None:
    """Print what is in force for a service here, secrets masked, and where each value comes from.

    Reads HISTGEN_* and the file that HISTGEN_CONFIG names, as the service itself does.

    For example:

      HISTGEN_CONFIG=lab.yaml histgen config show tiler
    """
    module = service_code(f"{service}.settings")
    settings = getattr(module, f"{service.title()}Settings").load()
    values, origins = settings.shown(), settings.origins()
    if as_json:
        emit_json({name: {"value": value, "from": origins.get(name)} for name, value in values.items()})
    else:
        _print(
            values,
            origins,
            {name: field.description or "" for name, field in type(settings).model_fields.items()},
        )


def _print(values: dict[str, Any], origins: dict[str, str], meanings: dict[str, str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("Setting", "Value", "From", "Meaning", box=None, pad_edge=False)
    for name, value in values.items():
        origin = origins.get(name, "")
        style = "dim" if origin == "default" else ""
        shown = "" if value is None else str(value)
        table.add_row(*(Text(part, style=style) for part in (name, shown, origin, meanings.get(name, ""))))
    out().print(table)
