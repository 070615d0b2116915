"""Word soup that has broken scorers before, and a fake `java` for failures."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

WORDS = [
    *[
        "the",
        "a",
        "of",
        "in",
        "carcinoma",
        "invasive",
        "tumour",
        "tumor",
        "tumors",
        "cells",
        "cell",
        "running",
        "run",
        "runs",
        "not",
        "identified",
    ],
    *[
        "grade",
        "2",
        "1",
        "present",
        "necrosis",
        "margin",
        "margins",
        ".",
        ",",
        ";",
        ":",
        "-",
        "--",
        "(",
        ")",
        "3/9",
        "mm",
        "µm",
        "é",
        "naïve",
        "癌",
        "😀",
        "don't",
        "it's",
    ],
    *[
        "U.S.A.",
        "etc.",
        "Dr.",
        "2.5mm",
        "10%",
        "||",
        "|||",
        "||||",
        "a|||b",
        "<b>",
        "</p>",
        "&",
        "&amp;",
        "1,000",
        "``q''",
        "'",
        "_",
        "~",
        "/",
        "\\",
        "...",
        "…",
        "—",
    ],
    *["-LRB-", "#", "@", "http://x.y/z", "a@b.c", '"x"', "", "\u00a0", "\u200b", "\t", "\x07"],
]


def _text(rng: random.Random) -> str:
    words = rng.choice([0, 1, 2, 3, 5, 8, 13, 40])
    return rng.choice([" ", " ", "  ", "   "]).join(rng.choice(WORDS) for _ in range(words))


def _variation(rng: random.Random, reference: str) -> str:
    words = reference.split(" ")
    rng.shuffle(words)
    return rng.choice([reference, " ".join(words), " ".join(words[: len(words) // 2]), _text(rng)])


@pytest.fixture(scope="session")
def soup() -> list[tuple[str, str]]:
    """Pairs of reference and prediction: empty, punctuation, repeated, long, foreign, equal, shuffled."""
    rng = random.Random(20250)
    references = [_text(rng) for _ in range(290)]
    pairs = [(reference, _variation(rng, reference)) for reference in references]
    words = ["the", "tumour", "is", "of", "grade"]
    long = " ".join(rng.choice(words) for _ in range(400))
    return [
        *pairs,
        ("", ""),
        ("", "the"),
        ("the", ""),
        (".", ". ."),
        ("the the the", "the " * 60),
        (long, long[::2]),
        (" lead", "trail "),
        ("A B C D", "a b c d"),
        ("a ||| b", "b ||| a"),
        ("|||", "|||"),
    ]


@pytest.fixture
def fake_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a `java` with a given shell script first on PATH."""

    def install(script: str) -> None:
        program = tmp_path / "bin" / "java"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    return install
