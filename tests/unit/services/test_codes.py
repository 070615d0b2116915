"""Counters show every code from the start that a service can write."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest

from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.runtime.board import Board
from histgen_lib.telemetry import metrics
from services.gateway.app import GatewayBoard
from services.gateway.settings import GATEWAY, REFUSALS
from services.gateway.submission import Via
from services.table import SERVICES, service_named

CODES = {row.name: row.known_codes() for row in SERVICES}
LETTERS = {name: codes.letters for name, codes in CODES.items()}
RETRIES = {name: codes.retries for name, codes in CODES.items()}
ROOT = Path(__file__).resolve().parents[3]
ROOMS = (
    "histgen_lib/events.py",
    *(
        f"histgen_lib/{room}"
        for room in ("slides", "bags", "bus", "storage", "inference", "pipeline", "worker")
    ),
    "services",
)
"""What runs in a service."""
ELSEWHERE = {
    "backfill-prefix",  # a command's
    "backfill-rate",
    "bag-format-unknown",
    "bag-missing",
    "bag-write-failed",
    "dead-letter-unreadable",
    "event-too-large",
    "model-other-encoder",
    "output-disk-full",
    "output-other-slide",
    "replay-ambiguous",
    "replay-contradictory",
    "replay-impossible",
    "replay-unstated",
    "request-host",  # refuses a request, not a slide
    "request-invalid",
    "request-method",
    "request-origin",
    "request-path",
    "request-too-large",
    "request-unreadable",
    "token-expired",
    "token-missing",
    "token-scope",
    "token-wrong",
    "tiling-settings-invalid",  # of a model folder, which is checked before
}
"""Codes of these rooms that no service counts: commands, and requests that tell of no slide."""


def files(names: Sequence[str]) -> list[Path]:
    rooms = [ROOT / room for room in names]
    return [path for room in rooms for path in ([room] if room.is_file() else room.rglob("*.py"))]


def raised(kind: type[Exception], rooms: Sequence[str] = ROOMS) -> set[str]:
    """Find the codes that the rooms can raise errors of a kind with."""
    nodes = [node for path in files(rooms) for node in ast.walk(ast.parse(path.read_text()))]
    calls = [node for node in nodes if isinstance(node, ast.Call) and node.args]
    named = [call.args[0] for call in calls if getattr(call.func, "id", "") == kind.__name__]
    return {code.value for code in named if isinstance(code, ast.Constant)}


@pytest.mark.parametrize(("kind", "listed"), [(InvalidInputError, LETTERS), (TransientError, RETRIES)])
def test_every_code_that_a_service_can_write_is_listed(kind, listed):
    """Add a new code to a group in services/codes.py, or to the service that can write it."""
    known = {code for codes in listed.values() for code in codes}
    assert sorted(raised(kind) - known - ELSEWHERE) == []


@pytest.mark.parametrize("name", RETRIES)
def test_a_service_lists_every_retry_of_the_rooms_that_it_runs(name):
    """That another service lists a code does not make this one's counter start at 0."""
    jobs = ["bags", "inference", "pipeline", "worker"]
    jobs += ["retrieval"] if name == "librarian" else ["access", "slides"]
    shared = [f"histgen_lib/{room}" for room in ("bus", "storage")]
    web = service_named(name).kind == "web"
    own = [f"services/{name}"] if web else [f"histgen_lib/{room}" for room in jobs]
    assert sorted(raised(TransientError, [*shared, *own]) - set(RETRIES[name]) - ELSEWHERE) == []


@pytest.mark.parametrize("name", LETTERS)
def test_listed_codes_are_unique_and_documented(name):
    documented = (ROOT / "docs" / "errors.md").read_text()
    for codes in (LETTERS[name], RETRIES[name]):
        assert len(set(codes)) == len(codes)
        assert [code for code in codes if f"`{code}`" not in documented] == []


@pytest.mark.parametrize("name", [row.name for row in SERVICES if row.kind == "worker"])
def test_a_workers_counters_start_at_0_for_every_code_it_can_write(name):
    Board(f"{name}-at-0", letters=LETTERS[name], retries=RETRIES[name], stages=CODES[name].stages)

    for metric, codes in (("dead_letters", LETTERS[name]), ("retries", RETRIES[name])):
        for code in codes:
            labels = {"worker": f"{name}-at-0", "code": code}
            assert metrics.REGISTRY.get_sample_value(f"histgen_{metric}_total", labels) == 0
    for stage in CODES[name].stages:
        labels = {"worker": f"{name}-at-0", "stage": stage}
        assert metrics.REGISTRY.get_sample_value("histgen_stage_seconds_count", labels) == 0


def test_the_gateways_counters_exist_from_the_start():
    GatewayBoard()

    for via in get_args(Via):
        assert metrics.REGISTRY.get_sample_value("histgen_slides_seen_total", {"via": via}) is not None
    for code in REFUSALS:
        assert metrics.REGISTRY.get_sample_value("histgen_slides_refused_total", {"code": code}) is not None
    for code in GATEWAY.letters:
        labels = {"worker": "gateway", "code": code}
        assert metrics.REGISTRY.get_sample_value("histgen_dead_letters_total", labels) is not None


def test_a_code_that_is_not_listed_is_counted_too():
    Board("unlisted", letters=("slide-empty",))
    metrics.DEAD_LETTERS.labels("unlisted", "slide-of-tomorrow").inc()

    labels = {"worker": "unlisted", "code": "slide-of-tomorrow"}
    assert metrics.REGISTRY.get_sample_value("histgen_dead_letters_total", labels) == 1
