"""The table of services is whole, and what is derived from it follows it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from pydantic import Field

from histgen_lib.client.home import StackHome
from histgen_lib.events import ReportDrafted
from histgen_lib.stack.settings import (
    StackSettings,
    service_environment,
    service_module,
    service_names,
)
from services import settings as settings_module
from services.codes import Codes
from services.settings import ServiceSettings, settings_class
from services.table import SERVICES, Service, service_named

FOLDER = Path(__file__).resolve().parents[3] / "services"
NAMES = [row.name for row in SERVICES]


class ToySettings(ServiceSettings):
    greeting: str = Field("hello", description="what it says")


TOY = Service("toy", "worker", (ReportDrafted,), (), f"{__name__}:ToySettings", f"{__name__}:ToySettings")


def test_every_row_has_a_folder_and_every_folder_a_row():
    assert sorted(NAMES) == sorted(path.parent.name for path in FOLDER.glob("*/__main__.py"))
    assert all(re.fullmatch("[a-z]{1,32}", name) for name in NAMES)
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("row", SERVICES, ids=NAMES)
def test_a_rows_references_lead_somewhere(row):
    assert issubclass(settings_class(row), ServiceSettings)
    assert isinstance(row.known_codes(), Codes)
    module, name = row.factory.split(":")
    assert module.startswith(f"{row.module}.")
    assert f"def {name}(" in (FOLDER.parent / f"{module.replace('.', '/')}.py").read_text()


def test_every_worker_takes_what_an_earlier_service_gives():
    given: set[type] = set()
    for row in SERVICES:
        assert given.issuperset(row.takes)
        assert bool(row.takes) == (row.kind == "worker")
        given.update(row.gives)


def test_what_a_worker_gives_follows_from_what_it_takes():
    for row in SERVICES:
        if row.kind == "worker":
            assert {data.follows for data in row.gives} <= {data.type for data in row.takes}


def test_a_group_has_one_topic():
    """Members of one group that read different topics would be shared out anew together."""
    groups = [group for row in SERVICES for group in row.groups.values()]
    assert len(set(groups)) == len(groups)
    assert service_named("tiler").groups == {"slide.scanned": "histgen-tiler"}


def test_slides_come_in_at_one_service():
    assert [row.name for row in SERVICES if row.is_entrance] == ["gateway"]


def test_only_the_service_that_publishes_drafts_measures_their_age():
    assert [row.name for row in SERVICES if row.drafts] == ["reporter"]


def test_an_unknown_service_has_no_row():
    with pytest.raises(LookupError):
        service_named("toy")


@pytest.mark.parametrize("row", SERVICES, ids=NAMES)
def test_no_service_imports_another(row):
    others = [f"services.{name}" for name in NAMES if name != row.name]
    for path in (FOLDER / row.name).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            assert not any(module == other or module.startswith(f"{other}.") for other in others), path


def test_the_local_stack_starts_the_configured_number_of_scaled_services(tmp_path):
    settings = StackSettings(home=tmp_path, model=tmp_path, tilers=3)

    assert service_names(settings) == ["gateway", "reporter", "tiler", "tiler-2", "tiler-3"]
    assert service_module("tiler-3") == "services.tiler"


def test_the_case_index_is_kept_and_searched_only_if_the_model_has_a_retrieval_network(tmp_path, model_dir):
    from tiny_retrieval import tiny_retrieval_model

    without, with_it = (
        StackSettings(home=tmp_path, model=model) for model in (model_dir, tiny_retrieval_model())
    )
    assert set(service_names(with_it)) - set(service_names(without)) == {"librarian", "search"}
    for settings, expected in ((without, ""), (with_it, f"file:{tmp_path / 'case-index'}")):
        environment = service_environment(
            settings, "gateway", home=StackHome(tmp_path), bus="b", inference="onnx", gateway="http://h:1"
        )
        assert environment["HISTGEN_CASE_INDEX"] == expected


def test_a_service_has_its_own_section_in_the_settings_file(monkeypatch, tmp_path):
    path = tmp_path / "lab.yaml"
    path.write_text("bus: embedded:/b\nstore: file:/s\ntoy: {greeting: ahoy}\ntiler: {in_flight: 2}\n")
    monkeypatch.setenv("HISTGEN_CONFIG", str(path))
    monkeypatch.setattr(settings_module, "SERVICES", (*SERVICES, TOY))

    assert ToySettings.load().greeting == "ahoy"
    assert settings_class(service_named("tiler")).load().shown()["in_flight"] == 2
