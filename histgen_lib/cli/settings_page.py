"""docs/settings.md, written from the settings classes: `histgen config docs`."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from histgen_lib.models import SHIPPED_MODEL
from services.settings import ServiceSettings, settings_class, variable
from services.table import SERVICES

_HEAD = """\
# Settings

Every setting of every service. `make settings` writes this page from the code; do not edit it.

A service reads each setting from its environment variable, or else from the YAML file that `HISTGEN_CONFIG`
names. There it has the variable's name in lower case without `HISTGEN_`, at the top level for all services,
or in the section of one (`tiler: {in_flight: 4}`), which takes precedence. A setting that is in neither has
its default. Lists are written `a,b`, or as a JSON list.

`histgen config show` prints what is in force on a machine, and without any setting what there is to set;
`histgen config show --running` and `--url` ask services that run.
"""
_BASIC: Mapping[object, str] = {
    bool: "true or false",
    dict: "JSON object",
    float: "number",
    int: "whole number",
    Path: "path",
    str: "text",
    tuple: "list",
}
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"))


def settings_page() -> str:
    """Write the page."""
    parts = [_HEAD, "## All services\n", *_table(ServiceSettings.model_fields)]
    for row in SERVICES:
        fields = settings_class(row).model_fields
        own = {name: field for name, field in fields.items() if name not in ServiceSettings.model_fields}
        if own:
            parts += [f"\n## {row.name.capitalize()}\n", *_table(own)]
    return "\n".join(parts) + "\n"


def _table(fields: Mapping[str, FieldInfo]) -> Iterator[str]:
    yield "| variable | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in fields.items():
        cells = f"`{variable(name)}`", _type(field), _default(name, field), field.description or ""
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _type(field: FieldInfo) -> str:
    limits = [text for bound in field.metadata if (text := _limit(bound))]
    return ", ".join([_kind(field.annotation), *limits])


def _kind(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in inner)
    if origin is Annotated:
        return _kind(inner[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(one) for one in inner if one is not type(None))
    return _BASIC[origin or annotation]


def _limit(bound: object) -> str:
    if isinstance(bound, Ge):
        return f"at least {_text(bound.ge)}"
    if isinstance(bound, Gt):
        return f"more than {_text(bound.gt)}"
    return f"at most {_text(bound.le)}" if isinstance(bound, Le) else ""


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value == SHIPPED_MODEL:
        return "the shipped model"
    if value in (None, "", (), {}):
        return "not set"
    size, unit = next((one for one in _UNITS if name.endswith("_bytes") and value % one[0] == 0), (0, ""))
    return f"`{_text(value)}`" + (f" ({value // size} {unit})" if size else "")


def _text(value: Any) -> str:
    """Write a value as one types it."""
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value).removesuffix(".0")
