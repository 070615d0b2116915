"""The console of all commands: control characters in file names and in others' texts have no effect."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from histgen_lib.names import OBEYED

_KEPT = frozenset(b"\t\n")
_SHOWN = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(0x20), *map(ord, OBEYED)) if code not in _KEPT
}
"""Control characters of one byte (ESC) and of ISO 6429 (U+009B): terminals interpret both."""


class PlainConsole(Console):
    """Writes only its own colours and cursor movements, never those in a text."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of `renderable` with control characters in their texts replaced."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else text.translate(_SHOWN), style, control)
