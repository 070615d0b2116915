"""The annotation file (the published layout) and finding each case's bag or slide by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histgen_lib.errors import InvalidInputError

BAG_SUFFIXES = (".parquet", ".h5", ".pt")
SPLITS = ("train", "val", "test")
_LAYOUT = '{"train": [{"id", "report", "image_path": [...]}], "val": [...], "test": [...]}'


@dataclass(frozen=True)
class Case:
    """One slide and its report. `image_path` is what the annotation says; only its stems are used."""

    id: str
    report: str
    image_path: tuple[str, ...] = ()

    @property
    def stems(self) -> tuple[str, ...]:
        """Names under which this case's bag or slide may be filed: its id, then its image paths' stems."""
        names = [self.id, Path(self.id).stem, *(Path(path).stem for path in self.image_path)]
        return tuple(dict.fromkeys(names))


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
    """Read an annotation file in the published HistGen layout.

    InvalidInputError("training-annotation-unreadable") when it cannot be read, or is not JSON of that layout.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        splits = {name: tuple(_case(item) for item in content.get(name, [])) for name in SPLITS}
    except OSError as error:
        raise InvalidInputError(
            "training-annotation-unreadable",
            f"The annotation file {path} cannot be read ({error.strerror}).",
            hint="Check the path and its rights.",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            "training-annotation-unreadable",
            f"{path} is not an annotation file ({type(error).__name__}: {error}).",
            hint=f"It must be JSON of the form {_LAYOUT}.",
        ) from error
    return Annotation(**splits)


def index_files(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """Stem → path of the files below `folder` with one of `suffixes`; of one stem the first by path wins."""
    wanted = {suffix.lower() for suffix in suffixes}
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in wanted and path.is_file() and not path.name.startswith("."):
            found.setdefault(path.stem, path)
    return found


def match_cases(cases: Sequence[Case], files: Mapping[str, Path]) -> list[tuple[Case, Path]]:
    """Each case with its file; cases without one are left out, in order."""
    return [(case, files[stem]) for case in cases for stem in _first_known(case, files)]


def require_matches(
    split: str, cases: Sequence[Case], files: Mapping[str, Path], folder: Path
) -> list[tuple[Case, Path]]:
    """As `match_cases`, for a split of which something must be there.

    InvalidInputError: "training-split-empty" without cases, "training-bags-missing" without a file of one.
    """
    matched = match_cases(cases, files)
    if not cases:
        raise InvalidInputError(
            "training-split-empty",
            f"The annotation file has no cases in its {split} split.",
            hint="Give an annotation file with such cases, or another --split.",
        )
    if not matched:
        raise InvalidInputError(
            "training-bags-missing",
            f"None of the {len(cases)} cases of the {split} split has a file in {folder}.",
            hint="A bag is found by the case's id or the stem of its image_path: encode the slides first.",
        )
    return matched


def _first_known(case: Case, files: Mapping[str, Path]) -> list[str]:
    return [stem for stem in case.stems if stem in files][:1]


def _case(item: Mapping[str, Any]) -> Case:
    paths = item.get("image_path", [])
    paths = [paths] if isinstance(paths, str) else paths
    if not isinstance(item["report"], str):
        raise TypeError(f"the report of {item['id']} is not text")
    return Case(id=str(item["id"]), report=item["report"], image_path=tuple(str(path) for path in paths))
