"""The fenced blocks of README and docs, and the commands in them.

What a block is, its fence says: `sh` (typed into a shell), `python`, `json`, `env` (settings of the services)
or `text` (looked at, not typed). A comment on the line before may name what runs a block that takes long:
`<!-- run by make comparison -->` or `<!-- run by tests/…/test_x.py -->`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("sh", "python", "json", "env", "text")

_BLOCK = re.compile(
    r"^(?:<!-- run by (?P<runner>[^>]+?) -->\n)?"
    r"(?P<fence>```+)(?P<kind>[^\n]*)\n(?P<text>.*?)^(?P=fence)[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_REMARK = re.compile(r"(?:^|\s{2,})#.*$")
_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """One fenced block: its page below the repository, its line there, what it is, and who else runs it."""

    page: str
    line: int
    kind: str
    text: str
    runner: str | None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """List the pages that people read."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks() -> list[Block]:
    """Find every fenced block, page by page."""
    return [block for page in pages() for block in blocks_of(page.read_text(encoding="utf-8"), _name(page))]


def blocks_of(text: str, page: str) -> list[Block]:
    """Find the fenced blocks of one page's text."""
    return [
        Block(page, text.count("\n", 0, m.start("fence")) + 1, m["kind"].strip(), m["text"], m["runner"])
        for m in _BLOCK.finditer(text)
    ]


def runbook_queries() -> list[str]:
    """Find the queries that runbooks put to Prometheus."""
    asked = [one for one in blocks() if one.page.startswith("docs/runbooks/") and one.kind == "text"]
    return sorted({line for block in asked for line in block.text.splitlines()})


def spans() -> list[tuple[str, str]]:
    """Find the code in running text and tables: (page, code)."""
    texts = [(_name(page), _BLOCK.sub("", page.read_text(encoding="utf-8"))) for page in pages()]
    return [(page, code) for page, text in texts for code in _SPAN.findall(text)]


def commands(text: str) -> list[str]:
    """Take the commands out of a shell block: a remark is dropped, a line that goes on is put together."""
    found, begun = [], ""
    for line in text.splitlines():
        begun += line if begun else _REMARK.sub("", line)
        if not begun.strip():
            begun = ""
        elif begun.endswith("\\"):
            begun = begun[:-1]
        elif begun.endswith("|"):
            begun += "\n"
        elif _complete(begun):
            found.append(begun.strip())
            begun = ""
        else:
            begun += "\n"
    assert not begun, f"a command without its end: {begun}"
    return found


def _complete(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))
