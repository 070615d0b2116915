"""`histgen config`: every setting of the services, as it is here or in force in a service that runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from histgen_lib.cli.output import Failure, JsonFlag, emit_json, err, out, say_error
from histgen_lib.cli.stream.options import Home
from histgen_lib.errors import FatalError, HistgenError, InvalidInputError
from services.table import SERVICES, service_named

app = typer.Typer(help="Look at the settings of the services.", no_args_is_help=True)

if TYPE_CHECKING:
    from histgen_lib.client.api import RunningService
    from services.inventory import Setting

    ServiceName = str
else:
    ServiceName = Literal[tuple(row.name for row in SERVICES)]

Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="Ask the service that listens there for its settings."),
]
Running = Annotated[
    bool, typer.Option("--running", help="Ask the services of the stack that runs on this machine.")
]


@app.command()
def show(
    service: Annotated[
        ServiceName | None, typer.Argument(metavar="[SERVICE]", help="Which service; all if not stated.")
    ] = None,
    *,
    url: Url = None,
    running: Running = False,
    home: Home = None,
    as_json: JsonFlag = False,
) -> None:
    """Print every setting of a service: its value, with secrets masked, where that comes from, what it means.

    Reads HISTGEN_* and the file that HISTGEN_CONFIG names, as the service itself does. The exit code is 78 if
    something is wrong with them; a setting that is required and not set is shown as such. With --url or
    --running, services answer themselves, with what is in force there.

    For example:

      histgen config show

      HISTGEN_CONFIG=lab.yaml histgen config show tiler

      histgen config show --running

      histgen config show --url https://gateway.lab:8443
    """
    if url and running:
        raise InvalidInputError(
            "config-contradictory",
            "--url and --running were both given.",
            hint="Give --url for one service anywhere, or --running for those on this machine.",
        )
    if url:
        _show_one_running(url, home, service, as_json=as_json)
    elif running:
        _show_running(home, service, as_json=as_json)
    else:
        _show_here([service] if service else [row.name for row in SERVICES], as_json=as_json)


@app.command(hidden=True)
def docs() -> None:
    """Print docs/settings.md: every setting of every service."""
    from histgen_lib.cli.settings_page import settings_page

    sys.stdout.write(settings_page())


def _show_here(names: Sequence[str], *, as_json: bool) -> None:
    """Print the settings of services as they are on this machine; say last what is wrong with them."""
    from services.inventory import settings_here
    from services.settings import ServiceSettings, settings_class

    settings: dict[str, list[Setting]] = {}
    faults: dict[str, None] = {}
    for name in names:
        settings[name], others = settings_here(settings_class(service_named(name)))
        faults |= dict.fromkeys([*others, *(one.wrong for one in settings[name] if one.wrong)])
    if as_json:
        documents = {name: {one.name: one.to_json() for one in found} for name, found in settings.items()}
        emit_json(documents[names[0]] if len(names) == 1 else documents)
    else:
        for heading, shown in _sections(settings, list(ServiceSettings.model_fields)):
            if shown:
                _print(heading, map(_row, shown))
    for fault in faults:
        err().print(fault, style="red", soft_wrap=True)
    if faults:
        raise typer.Exit(FatalError.exit_code)


def _sections(
    settings: Mapping[str, list[Setting]], shared: Sequence[str]
) -> Iterable[tuple[str, list[Setting]]]:
    """Sort settings by where they apply: what is the same for all services comes first, and once."""
    if len(settings) == 1:
        return [("", found) for found in settings.values()]
    first, *others = ({one.name: one for one in found} for found in settings.values())
    same = {name for name in shared if all(other[name] == first[name] for other in others)}
    own = [(name, [one for one in found if one.name not in same]) for name, found in settings.items()]
    return [("All services", [first[name] for name in shared if name in same]), *own]


def _row(setting: Setting) -> tuple[str, str, str, str, str]:
    """Return style and cells of a setting."""
    value, style = _text(setting.value), "dim" if setting.origin == "default" else ""
    if setting.missing:
        value, style = "required, not set", "yellow"
    if setting.wrong:
        value, style = "cannot be used", "red"
    return style, setting.name, value, setting.origin, setting.meaning


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "" if value is None or value == {} else str(value)


def _print(heading: str, rows: Iterable[tuple[str, ...]], last: str = "Meaning") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("Setting", "Value", "From", last, box=None, pad_edge=False)
    for style, *cells in rows:
        table.add_row(*(Text(cell, style=style) for cell in cells))
    if heading:
        out().print(Text(f"\n{heading}", style="bold"))
    out().print(table)


def _show_one_running(url: str, home: Path | None, service: str | None, *, as_json: bool) -> None:
    from histgen_lib.client.api import settings_in_force
    from histgen_lib.client.connection import remote_gateway

    there = remote_gateway(url, {**os.environ, **({"HISTGEN_HOME": str(home)} if home else {})})
    found = settings_in_force(there.url, there.token(), ca_file=there.ca_file)
    if as_json:
        emit_json(found)
    else:
        _print_in_force("", found, service)


def _show_running(home: Path | None, service: str | None, *, as_json: bool) -> None:
    """Print what is in force in each service of the stack in `home`; say last which do not tell."""
    from histgen_lib.client.api import running_services, settings_of
    from histgen_lib.client.connection import not_running
    from histgen_lib.client.home import StackHome, default_home

    stack = StackHome(home or default_home(os.environ))
    asked = [one for one in running_services(stack.run_dir) if service in (None, one.name)]
    if not asked:
        raise not_running(stack)
    found, silent = [], []
    for one in asked:
        try:
            found.append((one, settings_of(one)))
        except (HistgenError, OSError) as error:
            silent.append(Failure.of(error))
    if as_json:
        emit_json(
            {"services": [_running_json(*told) for told in found]}
            | ({"errors": [failure.to_dict() for failure in silent]} if silent else {})
        )
    else:
        for one, settings in found:
            _print_in_force(f"{one.name}, process {one.pid}, {one.url}", settings, one.name)
    for failure in silent:
        say_error(failure)
    if silent:
        raise typer.Exit(silent[0].exit_code)


def _running_json(service: RunningService, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": service.name, "pid": service.pid, "url": service.url, "settings": settings}


def _print_in_force(heading: str, found: Mapping[str, Mapping[str, Any]], service: str | None) -> None:
    """Print a service's own answer, beside this machine's settings where they differ."""
    from services.inventory import settings_here
    from services.settings import settings_class

    known = settings_here(settings_class(service_named(service)))[0] if service else []
    here = {one.name: one for one in known}

    def row(name: str, value: Any, origin: str) -> tuple[str, ...]:
        differs = name in here and here[name].value != value
        other = ("not set" if here[name].missing else _text(here[name].value) or "none") if differs else ""
        return "dim" if origin == "default" else "", name, _text(value), origin, other

    rows = (row(name, one.get("value"), str(one.get("from") or "")) for name, one in found.items())
    _print(heading, rows, "Here" if here else "")
    err().print("In force there; its own answer.", style="dim")
