"""Every setting of a service: what it means, what it is set to here and by what, and what is wrong with it.

`ServiceSettings.load` needs every setting to be right; this reads each by itself, so that where some are
missing or wrong, the others are shown all the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import SettingsError
from pydantic_settings.sources import EnvSettingsSource

from histgen_lib.errors import FatalError
from services.settings import (
    CONFIG_VARIABLE,
    ServiceSettings,
    complaint,
    file_values,
    shown_value,
    variable,
)
from services.wiring import bus_settings, http_address, slide_roots

DEFAULT = "default"


@dataclass(frozen=True)
class Setting:
    """One setting of a service.

    `value`: what is in force, JSON-ready and with secrets masked; None if it is not set or cannot be used.
    `origin`: "default", a variable or a file; "" if it is not set, but has to be. `wrong`: why it cannot be
    used, without its value.
    """

    name: str
    meaning: str
    value: Any
    origin: str
    wrong: str = ""
    missing: bool = False

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return variable(self.name)

    def to_json(self) -> dict[str, Any]:
        """Return what `histgen config show --json` prints of it."""
        flaw = {"wrong": self.wrong} if self.wrong else {"missing": True} if self.missing else {}
        return {"value": self.value, "from": self.origin or None, **flaw}


def settings_here(cls: type[ServiceSettings]) -> tuple[list[Setting], list[str]]:
    """Return every setting of a service as it is here, and what is wrong apart from single settings."""
    try:
        file, faults = file_values(cls), list[str]()
    except FatalError as error:
        file, faults = {}, [error.message]
    faults += [complaint(name, "extra_forbidden", "") for name in file if name not in cls.model_fields]
    environment = EnvSettingsSource(cls)
    found = [_setting(name, info, environment, file) for name, info in cls.model_fields.items()]
    if not faults and not any(setting.wrong or setting.missing for setting in found):
        faults += _faults_together(cls)
    return found, faults


def _faults_together(cls: type[ServiceSettings]) -> list[str]:
    """Return what is wrong with settings that are right each by itself."""
    try:
        settings = cls.load()
        for made_of in (http_address, bus_settings, slide_roots):
            made_of(settings)
    except FatalError as error:
        return [error.message]
    return []


def _setting(name: str, info: FieldInfo, environment: EnvSettingsSource, file: Mapping[str, Any]) -> Setting:
    def as_found(value: Any, origin: str) -> Setting:
        return Setting(name, meaning, shown_value(name, value), origin)

    meaning = info.description or ""
    raw, _, is_complex = environment.get_field_value(info, name)
    if raw is None and name not in file:
        if info.is_required():
            return Setting(name, meaning, None, "", missing=True)
        return as_found(_as_json(info, info.get_default(call_default_factory=True)), DEFAULT)
    origin = os.environ[CONFIG_VARIABLE] if raw is None else variable(name)
    try:
        value = file[name] if raw is None else environment.prepare_field_value(name, info, raw, is_complex)
        checked = _adapter(info).validate_python(value)
        return as_found(_as_json(info, checked), origin)
    except ValidationError as error:
        first = error.errors()[0]
        return Setting(name, meaning, None, origin, wrong=complaint(name, first["type"], first["msg"]))
    except (SettingsError, ValueError):
        return Setting(name, meaning, None, origin, wrong=f"{variable(name)} must be JSON")


def _as_json(info: FieldInfo, value: Any) -> Any:
    return _adapter(info).dump_python(value, mode="json")


def _adapter(info: FieldInfo) -> TypeAdapter[Any]:
    """Return what checks a value of this setting alone."""
    form: Any = Annotated[info.annotation, info]
    return TypeAdapter(form)
