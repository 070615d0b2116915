"""Running a command in this process."""

from __future__ import annotations

import pytest

from histgen_lib.cli.app import run


@pytest.fixture
def histgen(capsys):
    """Run a command; returns exit code, stdout, stderr."""

    def call(*arguments):
        code = run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call
