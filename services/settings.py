"""The settings of services, from the environment (HISTGEN_*) or a YAML file that HISTGEN_CONFIG names.

The environment overrides the file, and the file overrides the defaults. One file may serve all services:
settings under the name of a service ("gateway", "tiler", …) apply to that service, settings at the top level
to all.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, Literal, Self
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
from services.table import SERVICES, Service

PREFIX = "HISTGEN_"
CONFIG_VARIABLE = "HISTGEN_CONFIG"

MASK = "********"
_SHOWN_KAFKA = frozenset(
    {
        "security_protocol", "sasl_mechanism", "ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile",
        "ssl_check_hostname", "ssl_ciphers", "sasl_kerberos_service_name", "client_id", "client_rack",
    }
)  # fmt: skip
"""Kafka settings whose text is not secret; any other text is masked."""
_SECRET = re.compile("password|secret|token|key")
"""In the names of those that are secret even as a number."""


def _matches(pattern: str, complaint: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(complaint)
        return value

    return AfterValidator(check)


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


EmptyIsNone = BeforeValidator(_none_if_empty)
"""For optional settings: an empty variable means that the setting is not set."""


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
        r"embedded:.+|kafka://[^/@\s]+",
        'must be "embedded:/folder/bus.db" or "kafka://host:port[,host:port]"',
    ),
]
StoreUrl = Annotated[
    str, _matches(r"file:.+|s3://[^/@\s]+(/[^\s]*)?", 'must be "file:/folder" or "s3://bucket[/prefix]"')
]
InferenceUrl = Annotated[
    str,
    _matches(
        r"onnx|triton://[^/@\s:]+:\d+|triton:///.+",
        'must be "onnx", "triton://host:port" or "triton:///folder/socket"',
    ),
]
Endpoint = Annotated[str, _matches(r"https?://[^\s]+", 'must be "http://host:port" or "https://host[:port]"')]
IssuerUrl = Annotated[
    str,
    _matches(
        r"https://[^/@\s?#]+(/[^\s?#]*)?|http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(/[^\s?#]*)?",
        'must be "https://host[:port][/path]"; http only on this machine',
    ),
]


class ServiceSettings(BaseSettings):
    """The settings that all services share; each service adds its own in a subclass.

    Read them with `load`, whose errors name the variable at fault.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True
    )
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    bus: BusUrl = Field(description='"embedded:/folder/bus.db" or "kafka://host:port[,host:port]"')
    bus_partitions: int = Field(
        12, ge=1, le=10_000, description="partitions of topics that the service creates"
    )
    bus_session_s: float = Field(
        10.0, ge=1, le=1800, description="seconds after which a silent member loses its partitions"
    )
    kafka: dict[str, str | int | bool] = Field(
        default_factory=dict, description="JSON object of further settings for kafka-python (TLS, SASL)"
    )
    kafka_file: Annotated[Path | None, EmptyIsNone] = Field(
        None,
        description="private file with more such settings, for passwords; overrides HISTGEN_KAFKA",
    )
    store: StoreUrl = Field(description='"file:/folder" or "s3://bucket[/prefix]"')
    store_endpoint: Annotated[Endpoint | None, EmptyIsNone] = Field(
        None, description="URL of an S3 service other than Amazon's"
    )
    store_region: Annotated[str | None, EmptyIsNone] = Field(None, description="region of the bucket")
    store_timeout_s: float = Field(
        4.0, gt=0, le=600, description="seconds that S3 may be silent; set more for a slow upload link"
    )
    watch: Annotated[Path | None, EmptyIsNone] = Field(
        None, description="folder in which new slides appear, always one of the roots; none if not set"
    )
    roots: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = Field(
        (), description="folders and s3:// buckets from which slides may be opened"
    )
    inference: InferenceUrl = Field(
        "onnx", description='"onnx" (in process), "triton://host:port" or "triton:///folder/socket"'
    )
    inference_secret: Annotated[Path | None, EmptyIsNone] = Field(
        None, description="file with the secret for a Triton that restricts its protocols"
    )
    model: Path = Field(SHIPPED_MODEL, description="model folder")
    threads: Annotated[int | None, EmptyIsNone] = Field(
        None, ge=1, le=1024, description="cores for in-process inference; all if not set"
    )
    host: str = Field("127.0.0.1", min_length=1, description="address on which the service listens")
    port: int = Field(0, ge=0, le=65535, description="port on which it listens; 0 takes a free one")
    http_names: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = Field(
        (), description="host names that requests may use, besides that address and loopback"
    )
    http_connections: int = Field(256, ge=8, le=65536, description="most connections at a time")
    http_peer_connections: int = Field(
        128, ge=8, le=65536, description="most connections at a time from one address"
    )
    http_head_s: float = Field(
        10.0, gt=0, le=3600, description="seconds in which a request's line and headers must arrive"
    )
    http_body_s: float = Field(
        30.0, gt=0, le=3600, description="seconds in which a request's body must arrive"
    )
    http_open: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = Field(
        ("probes", "metrics"), description="what is open without a token: probes, metrics, both or nothing"
    )
    http_rate: float = Field(
        100.0, ge=0, le=1e6, description="requests a second of one caller; 0 for any number"
    )
    http_burst: int = Field(2000, ge=1, le=1_000_000, description="requests that a caller may send at once")
    tls_cert: Annotated[Path | None, EmptyIsNone] = Field(
        None,
        description="PEM file with the service's certificate and those that signed it; plain HTTP if not set",
    )
    tls_key: Annotated[Path | None, EmptyIsNone] = Field(
        None, description="PEM file with the certificate's private key, without a password"
    )
    tls_elsewhere: bool = Field(
        False, description="a mesh or proxy encrypts: do not warn of plain HTTP that others can reach"
    )
    run_dir: Annotated[Path | None, EmptyIsNone] = Field(
        None, description="folder in which the service writes where it listens"
    )
    token_file: Annotated[Path | None, EmptyIsNone] = Field(
        None,
        description="file with the service's own token, good for everything; the home folder's if not set",
    )
    tokens_file: Annotated[Path | None, EmptyIsNone] = Field(
        None,
        description="JSON file with further tokens, each with a name and scopes; read again when it changes",
    )
    oidc_issuer: Annotated[IssuerUrl | None, EmptyIsNone] = Field(
        None, description="OpenID Connect issuer whose tokens are good as well; none if not set"
    )
    oidc_audience: str = Field("", description='what the "aud" of its tokens must hold')
    oidc_scopes_claim: str = Field(
        "scope", min_length=1, description="their claim with scopes or groups; dots lead into objects"
    )
    oidc_scopes: dict[str, Literal["submit", "read", "operate"]] = Field(
        default_factory=dict,
        description="JSON object: the scope for each value of that claim; as they are if empty",
    )
    ca_file: Annotated[Path | None, EmptyIsNone] = Field(
        None,
        description="PEM file of authorities that sign the issuer's certificate; the system's if not set",
    )
    scratch: Annotated[Path | None, EmptyIsNone] = Field(
        None, description="folder for slides fetched from S3; one in the system's temporary folder if not set"
    )
    scratch_bytes: int = Field(
        64 << 30, ge=1 << 20, description="most bytes kept there of slides that may be needed again"
    )
    slide_bytes: int = Field(
        DEFAULT_BYTES, ge=1 << 20, description="most bytes of a slide, with all its files"
    )
    memory_bytes: Annotated[int | None, EmptyIsNone] = Field(
        None,
        ge=256 << 20,
        description="most bytes of memory that a job's process may hold; if not set, 8 GiB or three "
        "quarters of the machine's or container's memory, whichever is less",
    )
    deadline_s: float = Field(1800.0, gt=0, description="seconds after which a job is ended")
    max_attempts: int = Field(
        5, ge=1, le=1000, description="attempts at a job that crashes, hangs or fails unexpectedly"
    )
    frozen_s: float = Field(
        60.0, ge=0, description="seconds after which a stopped (SIGSTOP) job process is replaced; 0: never"
    )
    grace_s: float = Field(
        20.0, ge=0, description="seconds that a running job may take to finish after SIGTERM"
    )
    traces: Annotated[Endpoint | None, EmptyIsNone] = Field(
        None, description="URL of an OpenTelemetry collector (OTLP over HTTP) for traces; none if not set"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level logged")

    @property
    def opening_s(self) -> float:
        """Seconds that a job may take to reach its slide's first tiles; only the tiler's jobs have any."""
        return math.inf

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings in force; `overrides` take precedence. Raises FatalError("settings-invalid")."""
        try:
            settings = cls(**overrides)
        except ValidationError as error:
            raise _invalid(_complaints(error)) from None
        except SettingsError as error:
            raise _invalid([f"{variable(_field_named_in(str(error)))} must be JSON"]) from None
        settings._origins.update(_origins(cls, overrides))
        return settings

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources by precedence: arguments, the environment, the file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, file_values(cls))

    def origins(self) -> dict[str, str]:
        """Return where each setting's value came from: a variable, a file, "default", or "argument"."""
        return dict(self._origins)

    def shown(self) -> dict[str, Any]:
        """Return the settings as JSON values, with secrets masked."""
        return {name: shown_value(name, value) for name, value in self.model_dump(mode="json").items()}

    def in_force(self) -> dict[str, dict[str, Any]]:
        """Return each setting's value, with secrets masked, and its origin, as JSON values."""
        origins = self.origins()
        return {name: {"value": value, "from": origins.get(name)} for name, value in self.shown().items()}

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Keep secrets out of tracebacks and logs."""
        return list(self.shown().items())


def settings_class(service: Service) -> type[ServiceSettings]:
    """Load the class of a service's settings."""
    found: type[ServiceSettings] = resolve_name(service.settings)
    return found


def file_values(cls: type[ServiceSettings]) -> dict[str, Any]:
    """Read the settings file: its top level, overridden by this service's section.

    Raises FatalError("settings-invalid").
    """
    path = os.environ.get(CONFIG_VARIABLE, "")
    if not path:
        return {}
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        raise _invalid([f"{CONFIG_VARIABLE} must name a readable YAML file"]) from None
    sections = {row: found.pop(row.name, None) or {} for row in SERVICES} if isinstance(found, dict) else {}
    if not sections or not all(isinstance(part, dict) for part in sections.values()):
        raise _invalid([f"{CONFIG_VARIABLE} must name a YAML file of names and values"])
    for row, part in sections.items():
        if row.settings == f"{cls.__module__}:{cls.__qualname__}":
            found |= part
    return {str(name): value for name, value in found.items()}


def _origins(cls: type[ServiceSettings], overrides: Mapping[str, Any]) -> dict[str, str]:
    environment, file = EnvSettingsSource(cls)(), file_values(cls)
    origins = dict.fromkeys(cls.model_fields, "default")
    origins |= dict.fromkeys(file, os.environ.get(CONFIG_VARIABLE, ""))
    origins |= {name: variable(name) for name in environment}
    return origins | dict.fromkeys(overrides, "argument")


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def _complaints(error: ValidationError) -> list[str]:
    """Name each variable at fault and what it must be, never its value."""
    return [complaint(str(entry["loc"][0]), entry["type"], entry["msg"]) for entry in error.errors()]


def complaint(name: str, kind: str, message: str) -> str:
    """Say what a setting must be. `kind`, `message`: pydantic's."""
    if kind == "extra_forbidden":
        return f"{name!r} in the settings file is not a setting of this service"
    if kind == "missing":
        return f"{variable(name)} is missing"
    requirement = re.sub(r"\A\w+ should ", "must ", message.removeprefix("Value error, "))
    return f"{variable(name)} {requirement}"


def _field_named_in(message: str) -> str:
    found = re.search(r'field "(\w+)"', message)
    return found.group(1) if found else "?"


def _invalid(complaints: Sequence[str]) -> FatalError:
    return FatalError(
        "settings-invalid",
        f"The settings cannot be used: {'; '.join(complaints)}.",
        hint="Correct the environment or the settings file; `histgen config show` prints what is in force.",
    )


def shown_value(name: str, value: Any) -> Any:
    """Mask the secrets in a setting's JSON value."""
    if name == "kafka":
        return {one: _shown_kafka(one, setting) for one, setting in value.items()}
    return _without_login(value)


def _shown_kafka(name: str, value: str | int | bool) -> str | int | bool:
    secret = isinstance(value, str) or (not isinstance(value, bool) and _SECRET.search(name))
    return MASK if secret and name not in _SHOWN_KAFKA else value


def _without_login(value: Any) -> Any:
    """Mask the login in a URL."""
    if not isinstance(value, str) or "://" not in value or "@" not in value:
        return value
    try:
        parts = urlsplit(value)
    except ValueError:
        return MASK
    if "@" not in parts.netloc:
        return value
    return parts._replace(netloc=f"{MASK}@{parts.netloc.rpartition('@')[2]}").geturl()
