"""docs/errors.md lists every code that the source can raise, and no others."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CODE = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)+")
ERRORS = {"TransientError", "InvalidInputError", "FatalError", "Failure", "_refuse"}


def _raised() -> set[str]:
    """Find codes passed first to an error, and those of csv_pairs._bad, which adds a prefix."""
    found = {"usage"}
    for path in (path for room in ("histgen_lib", "services") for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name, code = getattr(node.func, "id", ""), node.args[0].value
                if name in ERRORS or (name == "cls" and code == "internal-error"):
                    found.add(str(code))
                elif name == "_bad" and path.name == "csv_pairs.py":
                    found.add(f"evaluation-csv-{code}")
    return found


def _documented() -> set[str]:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {code for cell in cells for code in re.findall(r"`([^`]+)`", cell)} | {"usage", "internal-error"}


def test_every_error_code_is_documented():
    assert sorted(_raised() - _documented()) == []


def test_every_documented_code_can_be_raised():
    assert sorted(_documented() - _raised()) == []


def test_codes_are_kebab_case():
    assert [code for code in _raised() if code != "usage" and not CODE.fullmatch(code)] == []
