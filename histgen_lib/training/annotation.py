"""The annotation file (the published layout): which report belongs to which slides, in which split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import decode_text, each_name_once
from histgen_lib.opening import read_ordinary

SPLITS = ("train", "val", "test")
_MEANT = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_LAYOUT = '{"train": [{"id", "report", "image_path": [...]}], "val": [...], "test": [...]}'


@dataclass(frozen=True)
class Case:
    """One report and its slides. Of `image_path` only names count (see `matching`); several are a case's."""

    id: str
    report: str
    image_path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Annotation:
    """Cases of each split. Nothing is ever selected or tuned on `test`."""

    train: tuple[Case, ...]
    val: tuple[Case, ...]
    test: tuple[Case, ...]

    def split(self, name: str) -> tuple[Case, ...]:
        """Cases of "train", "val" or "test"."""
        if name not in SPLITS:
            raise InvalidInputError(
                "training-split-unknown", f"No split is called {name}.", hint=f"One of {SPLITS}."
            )
        cases: tuple[Case, ...] = getattr(self, name)
        return cases


def read_annotation(path: Path) -> Annotation:
    """Read an annotation file in the published HistGen layout, in UTF-8 or as its byte order mark says.

    InvalidInputError: "training-annotation-unreadable" when it cannot be read, or is not JSON of that layout;
    "training-annotation-twice" when an id comes twice, in one split or in two.
    """
    try:
        content = json.loads(decode_text(read_ordinary(path)), object_pairs_hook=each_name_once)
        _refuse_other_names(content)
        splits = {name: tuple(_case(item) for item in content.get(name, [])) for name in SPLITS}
    except OSError as error:
        raise InvalidInputError(
            "training-annotation-unreadable",
            f"The annotation file {path} cannot be read ({error.strerror}).",
            hint="Check the path and its rights.",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidInputError(
            "training-annotation-unreadable",
            f"{path} is not an annotation file ({type(error).__name__}: {error}).",
            hint=f"It must be JSON of the form {_LAYOUT}, in UTF-8.",
        ) from error
    _refuse_twice(splits, path)
    return Annotation(**splits)


def _refuse_other_names(content: Mapping[str, Any]) -> None:
    """Refuse a split under a name that is not read: it would be left out without a word."""
    for name, cases in content.items():
        meant = _MEANT.get(name.strip().lower(), name)
        if name != meant and cases and isinstance(cases, list):
            raise ValueError(f"its split {name!r} has to be called {meant!r}")


def _case(item: Mapping[str, Any]) -> Case:
    paths = item.get("image_path") or []
    paths = [paths] if isinstance(paths, str) else paths
    if not isinstance(item["report"], str):
        raise TypeError(f"the report of {item['id']} is not text")
    if not isinstance(item["id"], str | int) or not str(item["id"]).strip():
        raise TypeError("an id is neither a name nor a number")
    if not all(isinstance(path, str) for path in paths):
        raise TypeError(f"an image_path of {item['id']} is not text")
    item["report"].encode()  # half a character could never be written again
    return Case(id=str(item["id"]), report=item["report"], image_path=tuple(paths))


def _refuse_twice(splits: Mapping[str, tuple[Case, ...]], path: Path) -> None:
    where: dict[str, str] = {}
    for name, cases in splits.items():
        for case in cases:
            earlier = where.get(case.id)
            if earlier == name:
                raise _twice(f"{path} has two entries for {case.id} in its {name} split.")
            if earlier is not None:
                raise _twice(f"{path} has {case.id} in its {earlier} split and in its {name} split.")
            where[case.id] = name


def _twice(message: str) -> InvalidInputError:
    return InvalidInputError(
        "training-annotation-twice",
        message,
        hint="Keep one of them. A case of several slides is one entry with all of them in its image_path; "
        "different slides need different ids.",
    )
