"""The embedded broker keeps the promises of a bus."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from bus_aside_suite import AsideSuite
from bus_backlog_suite import BacklogSuite
from bus_members import Beside
from bus_several_suite import SeveralSuite
from bus_suite import BusSuite

from histgen_lib.bus import BusSettings


@pytest.fixture
def settings(tmp_path: Path) -> BusSettings:
    return BusSettings(f"embedded:{tmp_path / 'bus.db'}")


@pytest.fixture
def hasty(settings: BusSettings) -> BusSettings:
    return dataclasses.replace(settings, session_s=1.5)


class TestEmbeddedBus(BusSuite):
    """The shared suite."""


class TestEmbeddedAside(AsideSuite):
    """The shared suite."""


class TestEmbeddedBesideBus(BusSuite):
    """The shared suite, by members that have another topic beside."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> BusSettings:
        return Beside(f"embedded:{tmp_path / 'bus.db'}")


class TestEmbeddedBesideAside(AsideSuite):
    """The shared suite, by such members."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> BusSettings:
        return Beside(f"embedded:{tmp_path / 'bus.db'}")


class TestEmbeddedSeveral(SeveralSuite):
    """The shared suite."""


class TestEmbeddedBacklog(BacklogSuite):
    """The shared suite."""
