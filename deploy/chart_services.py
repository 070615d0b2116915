"""Writes helm/histgen/files/services.json: what the chart has to know of the table of services.

The chart's templates range over that file, so a new row in `services/table.py` is a new Deployment, a new
Kafka topic, a new autoscaler, without an edit in the chart. `make chart` runs this; a test compares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from histgen_lib.bus._kafka_client import _KEPT_MS  # noqa: E402
from histgen_lib.events import DEAD_LETTER  # noqa: E402
from services.settings import settings_class  # noqa: E402
from services.table import SERVICES, Service  # noqa: E402

FILE = ROOT / "helm" / "histgen" / "files" / "services.json"
_KEPT = ("type", "enum", "pattern", "minimum", "maximum", "exclusiveMinimum", "default")


def describe(rows: Iterable[Service]) -> dict[str, Any]:
    """Return what the chart has to know of these services: JSON values."""
    rows = list(rows)
    events = {event.type for row in rows for event in (*row.takes, *row.gives)}
    return {
        "retention_ms": _KEPT_MS,
        "services": [_service(row) for row in rows],
        "topics": sorted({*events, DEAD_LETTER}),
    }


def _service(row: Service) -> dict[str, Any]:
    return {
        "name": row.name,
        "kind": row.kind,
        "entrance": row.is_entrance,
        "takes": [{"topic": topic, "group": group} for topic, group in row.groups.items()],
        "gives": [event.type for event in row.gives],
        "retrieval": row.retrieval,
        "settings": _settings(row),
    }


def _settings(row: Service) -> dict[str, Any]:
    """Describe the settings of a service by name, in the words of JSON schema."""
    schemas = settings_class(row).model_json_schema()["properties"]
    return {name: _setting(name, schema) for name, schema in sorted(schemas.items())}


def _setting(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    choices = [choice for choice in schema.get("anyOf", []) if choice.get("type") != "null"]
    flat = {**(choices[0] if choices else {}), **schema}
    if name == "model":
        flat.pop("default")  # a path in the checkout; in an image it is another
    return {key: flat[key] for key in _KEPT if key in flat}


def text(rows: Iterable[Service]) -> str:
    """Return the file's content."""
    return json.dumps(describe(rows), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(SERVICES), encoding="utf-8")
