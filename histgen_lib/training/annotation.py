"""The annotation file in HistGen's published layout: reports, their slides, and the splits."""

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
_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_LAYOUT = '{"train": [{"id", "report", "image_path": [...]}], "val": [...], "test": [...]}'


@dataclass(frozen=True)
class Case:
    """One report and its slides. Only the names in `image_path` count (see `matching`)."""

    id: str
    report: str
    image_path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Annotation:
    """The cases of each split. Nothing is ever selected or tuned on `test`."""

    train: tuple[Case, ...]
    val: tuple[Case, ...]
    test: tuple[Case, ...]

    def split(self, name: str) -> tuple[Case, ...]:
        """Return the cases of "train", "val" or "test"."""
        if name not in SPLITS:
            raise InvalidInputError(
                "training-split-unknown", f"There is no split {name}.", hint=f"Use one of {SPLITS}."
            )
        cases: tuple[Case, ...] = getattr(self, name)
        return cases


def read_annotation(path: Path) -> Annotation:
    """Read an annotation file in the published layout, in UTF-8 or the encoding of its byte order mark.

    InvalidInputError: "training-annotation-unreadable" if it cannot be read or is not JSON of that layout;
    "training-annotation-twice" if an id occurs twice, in one split or in two.
    """
    try:
        content = json.loads(decode_text(read_ordinary(path)), object_pairs_hook=each_name_once)
        _refuse_other_names(content)
        splits = {name: tuple(_case(item) for item in content.get(name, [])) for name in SPLITS}
    except OSError as error:
        raise InvalidInputError(
            "training-annotation-unreadable",
            f"The annotation file {path} cannot be read ({error.strerror}).",
            hint="Check the path and its permissions.",
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
    """Refuse a split under a name that is not read: it would be ignored silently."""
    for name, cases in content.items():
        split = _SPLIT_NAMES.get(name.strip().lower(), name)
        if name != split and cases and isinstance(cases, list):
            raise ValueError(f"its split {name!r} must be named {split!r}")


def _case(item: Mapping[str, Any]) -> Case:
    paths = item.get("image_path") or []
    paths = [paths] if isinstance(paths, str) else paths
    if not isinstance(item["report"], str):
        raise TypeError(f"the report of {item['id']} is not text")
    if not isinstance(item["id"], str | int) or not str(item["id"]).strip():
        raise TypeError("an id is neither a name nor a number")
    if not all(isinstance(path, str) for path in paths):
        raise TypeError(f"an image_path of {item['id']} is not text")
    item["report"].encode()  # refuse a lone surrogate, which cannot be encoded
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
        hint="Keep one of them. A case with several slides is one entry with all of them in its image_path; "
        "different slides need different ids.",
    )
