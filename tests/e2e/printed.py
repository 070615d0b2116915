"""The layout of printed pages, read from a PDF with poppler's tools."""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import unescape
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

A4, LETTER = (8.27, 11.69), (8.5, 11.0)  # inches
_DPI = 50
_WORD = re.compile(r'<word xMin="([\d.]+)" yMin="([\d.]+)" xMax="([\d.]+)" yMax="([\d.]+)">(.*?)</word>')


@dataclass(frozen=True)
class Printed:
    """One page: its words in reading order with their boxes (points), and where its ink lies."""

    file: Path
    number: int
    words: tuple[tuple[tuple[float, float, float, float], str], ...]

    @cached_property
    def text(self) -> str:
        """All words, separated by single spaces."""
        return " ".join(word for _, word in self.words)

    def overprinted(self) -> list[tuple[str, str]]:
        """List pairs of words whose boxes cover each other by more than a fifth of the smaller one."""
        return [
            (one[1], two[1]) for one, two in combinations(self.words, 2) if _covered(one[0], two[0]) > 0.2
        ]

    def captions(self) -> dict[int, str]:
        """Read the letters of tiles ("A · 11 %") from left to right, by how far down (points) they stand."""
        rows: dict[int, str] = {}
        dots = [box for box, word in self.words if word == "·"]
        for box, word in sorted(self.words):
            if word in "ABCD" and any(0 <= dot[0] - box[2] < 5 and abs(dot[1] - box[1]) < 1 for dot in dots):
                rows[round(box[1])] = rows.get(round(box[1]), "") + word
        return rows

    def ink_mm(self) -> tuple[float, float, float, float]:
        """Blank margins left, top, right and bottom of everything printed, in mm."""
        command = [
            "pdftoppm",
            "-r",
            str(_DPI),
            "-f",
            str(self.number),
            "-l",
            str(self.number),
            "-gray",
            self.file,
        ]
        done = subprocess.run(command, capture_output=True, check=True)
        dark = np.asarray(Image.open(io.BytesIO(done.stdout))) < 240
        rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
        height, width = dark.shape
        px = (columns[0], rows[0], width - 1 - columns[-1], height - 1 - rows[-1])
        return tuple(float(side) / _DPI * 25.4 for side in px)


class Paper:
    """A PDF, page by page."""

    def __init__(self, file: Path) -> None:
        done = subprocess.run(["pdftotext", "-bbox", file, "-"], capture_output=True, text=True, check=True)
        parts = done.stdout.split("<page ")[1:]
        self.pages = [
            Printed(
                file, number, tuple((tuple(map(float, m[:4])), unescape(m[4])) for m in _WORD.findall(part))
            )
            for number, part in enumerate(parts, 1)
        ]


def _covered(one: Sequence[float], two: Sequence[float]) -> float:
    across = min(one[2], two[2]) - max(one[0], two[0])
    down = min(one[3], two[3]) - max(one[1], two[1])
    if across <= 0 or down <= 0:
        return 0.0
    return across * down / min((b[2] - b[0]) * (b[3] - b[1]) for b in (one, two))
