"""draft.json: stable bytes, a strict schema, and a schema file that agrees with the code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from histgen_lib.errors import InvalidInputError
from histgen_lib.reports.renderers.draft_json import from_json, json_schema, to_json

ROOT = Path(__file__).resolve().parents[3]


def test_equal_records_give_equal_bytes_and_survive_the_round_trip(draft):
    data = to_json(draft)

    assert to_json(draft.model_copy(deep=True)) == data
    assert from_json(data) == draft
    assert to_json(from_json(data)) == data


def test_the_record_begins_with_its_version_and_notice(draft):
    content = json.loads(to_json(draft))

    assert list(content)[:2] == ["schema_version", "notice"]
    assert content["schema_version"] == "1"
    assert content["notice"] == "AI-generated draft, not for clinical use"


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c | {"schema_version": "2"},
        lambda c: c | {"surprise": 1},
        lambda c: c | {"confidence": 1.5},
        lambda c: {k: v for k, v in c.items() if k != "provenance"},
    ],
)
def test_anything_but_schema_version_1_is_refused(draft, damage):
    content = json.loads(to_json(draft))

    with pytest.raises(InvalidInputError) as caught:
        from_json(json.dumps(damage(content)).encode())
    assert caught.value.code == "draft-unreadable"


def test_the_schema_file_in_docs_is_up_to_date():
    written = (ROOT / "docs" / "draft-schema.json").read_bytes()

    assert written == json_schema(), (
        "rebuild it: python -m histgen_lib.reports.renderers.draft_json > docs/draft-schema.json"
    )


def test_every_field_of_the_schema_is_explained_in_the_docs():
    text = (ROOT / "docs" / "draft-schema.md").read_text(encoding="utf-8")
    schema = json.loads(json_schema())
    names = {name for part in [schema, *schema["$defs"].values()] for name in part["properties"]}

    assert sorted(name for name in names if f"`{name}`" not in text) == []
