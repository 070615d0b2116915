"""What services can be told: by the environment (HISTGEN_*), or by a YAML file that HISTGEN_CONFIG names.

The environment wins over the file, the file over the defaults. A file may serve all services at once: what
stands under "gateway", "tiler" or "reporter" is for that one, what stands above is for all of them.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

import yaml  # type: ignore[import-untyped]
from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)
from pydantic_settings.sources import EnvSettingsSource, InitSettingsSource

from histgen_lib.errors import FatalError
from histgen_lib.models import SHIPPED_MODEL
from histgen_lib.slides.limits import DEFAULT_BYTES

PREFIX = "HISTGEN_"
CONFIG_VARIABLE = "HISTGEN_CONFIG"
SERVICES = ("gateway", "tiler", "reporter")
"""The sections that a settings file may have."""

MASK = "********"
_SHOWN_KAFKA = frozenset(
    {
        "security_protocol", "sasl_mechanism", "ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile",
        "ssl_check_hostname", "ssl_ciphers", "sasl_kerberos_service_name", "client_id", "client_rack",
    }
)  # fmt: skip
"""Kafka settings whose text is no secret; any other text is masked."""


def _matches(pattern: str, wants: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(wants)
        return value

    return AfterValidator(check)


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


EmptyIsNone = BeforeValidator(_none_if_empty)
"""For settings that may be absent: an empty variable means that."""


def _listed(value: Any) -> Any:
    """Read "a,b", or a JSON list for names with commas in them."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


BusUrl = Annotated[
    str,
    _matches(
        r"embedded:.+|kafka://[^/@\s]+", 'wants "embedded:/folder/bus.db" or "kafka://host:port[,host:port]"'
    ),
]
StoreUrl = Annotated[
    str, _matches(r"file:.+|s3://[^/@\s]+(/[^\s]*)?", 'wants "file:/folder" or "s3://bucket[/prefix]"')
]
InferenceUrl = Annotated[
    str,
    _matches(
        r"onnx|triton://[^/@\s:]+:\d+|triton:///.+",
        'wants "onnx", "triton://host:port" or "triton:///folder/socket"',
    ),
]
Endpoint = Annotated[str, _matches(r"https?://[^\s]+", 'wants "http://host:port" or "https://host[:port]"')]


class ServiceSettings(BaseSettings):
    """The settings that all services share; each service adds its own in a subclass.

    Read them with `load`, which names the variable that is at fault.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True
    )
    section: ClassVar[str] = ""
    """The service's own part of a settings file."""

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    bus: BusUrl = Field(description='"embedded:/folder/bus.db" or "kafka://host:port[,host:port]"')
    bus_partitions: int = Field(12, ge=1, le=10_000, description="partitions of topics that are made")
    bus_session_s: float = Field(
        10.0, ge=1, le=1800, description="seconds after which a silent member loses its partitions"
    )
    kafka: dict[str, str | int | bool] = Field(
        default_factory=dict, description="JSON object of further settings for kafka-python (TLS, SASL)"
    )
    kafka_file: Annotated[Path | None, EmptyIsNone] = Field(
        None, description="file with such settings that others cannot read, for passwords; they win"
    )
    store: StoreUrl = Field(description='"file:/folder" or "s3://bucket[/prefix]"')
    store_endpoint: Annotated[Endpoint | None, EmptyIsNone] = Field(
        None, description="URL of an S3 other than Amazon's"
    )
    store_region: Annotated[str | None, EmptyIsNone] = Field(None, description="region of the bucket")
    store_timeout_s: float = Field(
        4.0, gt=0, le=600, description="seconds that S3 may be silent; more where bags leave by a slow line"
    )
    watch: Annotated[Path | None, EmptyIsNone] = Field(
        None, description="folder in which new slides appear, always one of the roots; none if not stated"
    )
    roots: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = Field(
        (), description="folders and s3:// buckets that slides may lie in, for whoever opens them"
    )
    inference: InferenceUrl = Field(
        "onnx", description='"onnx" (in process), "triton://host:port" or "triton:///folder/socket"'
    )
    inference_secret: Annotated[Path | None, EmptyIsNone] = Field(
        None, description="file with the secret of a Triton that restricts its protocols"
    )
    model: Path = Field(SHIPPED_MODEL, description="model folder")
    threads: Annotated[int | None, EmptyIsNone] = Field(
        None, ge=1, le=1024, description="cores that in-process inference uses; all of them if not stated"
    )
    host: str = Field("127.0.0.1", min_length=1, description="address that metrics and health listen on")
    port: int = Field(0, ge=0, le=65535, description="port of it; 0 takes a free one")
    http_names: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = Field(
        (), description="names by which it may be called, beside that address and those of loopback"
    )
    http_connections: int = Field(256, ge=8, le=65536, description="connections to it at a time")
    http_peer_connections: int = Field(
        128, ge=8, le=65536, description="connections to it from one address at a time"
    )
    http_head_s: float = Field(
        10.0, gt=0, le=3600, description="seconds that a request's line and headers may take to come"
    )
    http_body_s: float = Field(30.0, gt=0, le=3600, description="seconds that a request's body may take")
    run_dir: Annotated[Path | None, EmptyIsNone] = Field(
        None, description="folder in which the service says where it listens"
    )
    token_file: Annotated[Path | None, EmptyIsNone] = Field(
        None, description="file with the token that who asks must have; the home folder's if not stated"
    )
    scratch: Annotated[Path | None, EmptyIsNone] = Field(
        None, description="folder for slides fetched from S3; the system's temporary one if not stated"
    )
    scratch_bytes: int = Field(
        64 << 30, ge=1 << 20, description="how much of it may be kept for slides that are needed again"
    )
    slide_bytes: int = Field(
        DEFAULT_BYTES, ge=1 << 20, description="bytes that a slide may have, with all files that belong to it"
    )
    memory_bytes: Annotated[int | None, EmptyIsNone] = Field(
        None,
        ge=256 << 20,
        description="bytes of memory that the process of a job may hold; if not stated, 8 GiB, or three "
        "quarters of what the machine or container has where that is less",
    )
    deadline_s: float = Field(1800.0, gt=0, description="seconds after which a job is given up")
    max_attempts: int = Field(5, ge=1, le=1000, description="tries of a job that crashes or hangs")
    frozen_s: float = Field(
        60.0, ge=0, description="seconds after which a job's process that was stopped is replaced; 0: never"
    )
    grace_s: float = Field(20.0, ge=0, description="seconds a running job may take to finish on SIGTERM")
    traces: Annotated[Endpoint | None, EmptyIsNone] = Field(
        None, description="URL of an OpenTelemetry collector (OTLP over HTTP) that is told of traces"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level logged")

    @property
    def opening_s(self) -> float:
        """Seconds that a job may take until it has its slide's first tiles; only the tiler's does."""
        return math.inf

    @classmethod
    def load(cls, **stated: Any) -> Self:
        """Read the settings in force; `stated` values win over all. FatalError("settings-invalid")."""
        try:
            made = cls(**stated)
        except ValidationError as error:
            raise _invalid(_complaints(error)) from None
        except SettingsError as error:
            raise _invalid([f"{_variable(_field_named_in(str(error)))} wants JSON"]) from None
        made._origins.update(_origins(cls, stated))
        return made

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, _file_values(cls.section))

    def origins(self) -> dict[str, str]:
        """Say of each setting where its value came from: a variable, a file, "default", or "argument"."""
        return dict(self._origins)

    def shown(self) -> dict[str, Any]:
        """Return the settings as JSON values, secrets masked."""
        values = self.model_dump(mode="json")
        values["kafka"] = {name: _shown_kafka(name, value) for name, value in self.kafka.items()}
        return {name: _without_login(value) for name, value in values.items()}

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Keep secrets out of tracebacks and logs."""
        return list(self.shown().items())


def _file_values(section: str) -> dict[str, Any]:
    """Read the settings file: what it says to all services, over that what it says to this one."""
    path = os.environ.get(CONFIG_VARIABLE, "")
    if not path:
        return {}
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        raise _invalid([f"{CONFIG_VARIABLE} wants a readable YAML file"]) from None
    sections = {name: found.pop(name, None) or {} for name in SERVICES} if isinstance(found, dict) else {}
    if not sections or not all(isinstance(part, dict) for part in sections.values()):
        raise _invalid([f"{CONFIG_VARIABLE} wants a YAML file of names and values"])
    return {str(name): value for name, value in {**found, **sections.get(section, {})}.items()}


def _origins(cls: type[ServiceSettings], stated: Mapping[str, Any]) -> dict[str, str]:
    environment, file = EnvSettingsSource(cls)(), _file_values(cls.section)
    origins = dict.fromkeys(cls.model_fields, "default")
    origins |= dict.fromkeys(file, os.environ.get(CONFIG_VARIABLE, ""))
    origins |= {name: _variable(name) for name in environment}
    return origins | dict.fromkeys(stated, "argument")


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _complaints(error: ValidationError) -> list[str]:
    """Name each variable that is at fault and what it wants; never the value it has."""
    return [_complaint(str(entry["loc"][0]), entry["type"], entry["msg"]) for entry in error.errors()]


def _complaint(name: str, kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return f"{name!r} in the settings file is no setting of this service"
    if kind == "missing":
        return f"{_variable(name)} is missing"
    return f"{_variable(name)} {_wish(message.removeprefix('Value error, '))}"


def _wish(message: str) -> str:
    """Put pydantic's words into the sentence: "Input should be greater than 0" → "wants … greater than 0"."""
    return message if message.startswith("wants ") else f"wants {message.removeprefix('Input should be ')}"


def _field_named_in(message: str) -> str:
    found = re.search(r'field "(\w+)"', message)
    return found.group(1) if found else "?"


def _invalid(complaints: Sequence[str]) -> FatalError:
    return FatalError(
        "settings-invalid",
        f"The settings cannot be used: {'; '.join(complaints)}.",
        hint="Correct the environment or the settings file; `histgen config show` prints what holds.",
    )


def _shown_kafka(name: str, value: str | int | bool) -> str | int | bool:
    return MASK if isinstance(value, str) and name not in _SHOWN_KAFKA else value


def _without_login(value: Any) -> Any:
    """Mask a login in a URL."""
    if not isinstance(value, str) or "://" not in value or "@" not in urlsplit(value).netloc:
        return value
    parts = urlsplit(value)
    return parts._replace(netloc=f"{MASK}@{parts.netloc.rpartition('@')[2]}").geturl()
