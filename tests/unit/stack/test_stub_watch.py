"""The end of a model's process is noticed once, whether or not the kernel can report it."""

from __future__ import annotations

import os
import subprocess

import pytest
from waiting import until

from histgen_lib.stack import stubs
from histgen_lib.stack.stubs import StubWatch


def _no_descriptor(pid: int) -> int:
    raise OSError(38, "Function not implemented")


@pytest.mark.parametrize("kernel_tells", [True, False])
def test_an_end_is_noticed_once(monkeypatch, kernel_tells):
    if not kernel_tells:
        monkeypatch.setattr(os, "pidfd_open", _no_descriptor)
    children = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    monkeypatch.setattr(
        stubs, "stubs_of", lambda server: {child.pid: [] for child in children if child.poll() is None}
    )
    watch = StubWatch(lambda: 1)
    assert watch.disturbed()  # it is news which there are
    assert not watch.disturbed()

    children[0].kill()
    until(watch.disturbed, 60, "the end")
    assert not watch.disturbed()
    children[1].kill()
    until(watch.disturbed, 60, "the other's end")


def test_nothing_is_read_until_the_kernel_reports_an_end(monkeypatch):
    looks = []
    child = subprocess.Popen(["sleep", "600"])
    monkeypatch.setattr(stubs, "stubs_of", lambda server: looks.append(server) or {child.pid: []})
    watch = StubWatch(lambda: 1)
    assert [watch.disturbed() for _ in range(5)] == [True, False, False, False, False]
    child.kill()

    assert len(looks) == 1
