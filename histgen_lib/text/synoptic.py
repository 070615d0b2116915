"""The synoptic report: one line of organ and procedure, one of diagnosis, then "- Name: value" lines."""

from __future__ import annotations

import re
from collections.abc import Mapping

HEAD_KEYS = ("organ", "procedure", "diagnosis")
"""Keys with a fixed place in the text; every other key becomes a "- Name: value" line."""

_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s*(?P<name>[^:]{1,80}?)\s*:\s*(?P<value>.+?)\s*$")
_NUMBERING = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9])")
_HYPHENATED = {"tumor_infiltrating_lymphocytes": "Tumor-infiltrating lymphocytes"}


def field_name(key: str) -> str:
    """Return the printed name of a field: `mitotic_score` -> `Mitotic score`."""
    printed = _HYPHENATED.get(key, key.replace("_", " "))
    return printed[:1].upper() + printed[1:]


def field_key(name: str) -> str:
    """Return the snake_case key of a printed name: `Mitotic score` -> `mitotic_score`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def format_report(fields: Mapping[str, str]) -> str:
    """Write `fields` as a report; items keep the mapping's order. `parse_report` is its inverse."""
    lines = [f"{fields['organ']}, {fields['procedure']}:", f"  {fields['diagnosis']}"]
    lines += [f"  - {field_name(key)}: {value}" for key, value in fields.items() if key not in HEAD_KEYS]
    return "\n".join(lines)


def parse_report(text: str) -> dict[str, str]:
    """Parse a synoptic report by any author; fields that are missing or unreadable are left out.

    The head line may end in ":" (ours) or ";" (as in the REG2025 challenge, where a comma may separate organ
    and procedure, and the diagnosis may be numbered or share the head's line).
    """
    head, _, rest = _split_head(text.strip())
    fields: dict[str, str] = {}
    if head:
        organ, _, procedure = (part.strip() for part in head.partition(","))
        fields.update({"organ": organ} | ({"procedure": procedure} if procedure else {}))
    for line in filter(str.strip, rest.splitlines()):
        item = _ITEM.match(line)
        if item and field_key(item["name"]):
            fields.setdefault(field_key(item["name"]), item["value"])
        elif "diagnosis" not in fields:
            fields["diagnosis"] = _NUMBERING.sub("", line).strip()
    return fields


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Return (start, end) character spans of the report's statements, in order, without outer whitespace.

    A statement is a line; a line of running prose is split further after each full stop.
    """
    spans = []
    for line in re.finditer(r"[^\n]+", text):
        start = line.start()
        cuts = [match.span() for match in _SENTENCE_END.finditer(line[0])] if ": " not in line[0] else []
        for left, right in cuts:
            if not _NUMBERING.fullmatch(line[0][start - line.start() : left] + " "):
                spans.append((start, line.start() + left))
                start = line.start() + right
        spans.append((start, line.end()))
    return [span for span in (_trim(text, *span) for span in spans) if span[0] < span[1]]


def _split_head(text: str) -> tuple[str, str, str]:
    first, newline, rest = text.partition("\n")
    stripped = first.rstrip()
    if stripped.endswith((":", ";")) and not _ITEM.match(first):
        return stripped[:-1].rstrip(), newline, rest
    if ";" in stripped:
        organ, _, beyond = first.partition(";")
        return organ.strip(), newline, f"{beyond}\n{rest}"
    return "", "", text


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())
