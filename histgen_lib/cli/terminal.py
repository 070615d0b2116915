"""The console of all commands: names of files, and what others wrote, are shown and never obeyed."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from histgen_lib.names import OBEYED

_KEPT = frozenset(b"\t\n")
_SHOWN = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(0x20), *map(ord, OBEYED)) if code not in _KEPT
}
"""Control characters, those of one byte (ESC) and of ISO 6429 (U+009B) alike: a terminal obeys both."""


class PlainConsole(Console):
    """Writes colours and cursor movements of its own only: none that stands in a text."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Give the segments of `renderable`, control characters in their texts replaced."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else text.translate(_SHOWN), style, control)
