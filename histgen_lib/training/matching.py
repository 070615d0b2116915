"""Matching the cases of an annotation with bags (or slides) by name, and reporting what is missing.

A name is a file's name without the suffixes of slides and bags, and nothing less: `P1.2` is not `P1`. Folders
do not matter unless two of them hold files of the same name: these are different sets, such as the bags of
two encoders, and are never mixed (docs/decisions/0019).
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from histgen_lib.bags import BAG_SUFFIXES
from histgen_lib.errors import InvalidInputError
from histgen_lib.names import safe_id
from histgen_lib.slides.formats import SLIDE_SUFFIXES
from histgen_lib.training.annotation import SPLITS, Annotation, Case

_ENDINGS = {*SLIDE_SUFFIXES, *BAG_SUFFIXES, ".png", ".jpg", ".jpeg", ".npy", ".qptiff", ".isyntax", ".zarr"}
"""Suffixes of names in annotations: those of slides and bags, and of files that others extract from."""

_SHOWN = 5


@dataclass(frozen=True)
class Found:
    """A case with the files of its slides, in the case's order."""

    case: Case
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class FileIndex:
    """The files below a folder, by name without suffixes."""

    folder: Path
    by_name: Mapping[str, tuple[Path, ...]]


@dataclass(frozen=True)
class Matching:
    """How one split's cases were matched: ids, except for `found` and the files left `aside`."""

    split: str
    listed: int
    found: tuple[Found, ...]
    missing: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()
    blank: tuple[str, ...] = ()
    sharing: tuple[str, ...] = ()
    aside: tuple[Path, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, and the ids of cases with a problem."""
        return {
            "listed": self.listed,
            "used": len(self.found),
            "slides": sum(len(found.paths) for found in self.found),
            "no_bag": list(self.missing),
            "slides_missing": list(self.incomplete),
            "empty_report": list(self.blank),
            "one_bag_for_several": list(self.sharing),
        }

    def summary(self) -> str:
        """Return the counts in one line."""
        slides = sum(len(found.paths) for found in self.found)
        return f"{self.split}: {len(self.found)} of {self.listed} cases used ({slides} slides)"

    def warnings(self) -> list[str]:
        """Return one line per kind of problem."""
        problems = {
            "no bag, left out": self.missing,
            "an empty report, left out": self.blank,
            "only some of their slides' bags, used with these": self.incomplete,
            "a bag that another case of the split also has": self.sharing,
        }
        lines = [
            f"{self.split}: {len(ids)} with {problem}: {some(ids)}"
            for problem, ids in problems.items()
            if ids
        ]
        if self.aside:
            lines.append(
                f"{self.split}: {len(self.aside)} bags in subfolders left aside, "
                f"since --bags itself has others of the same names: {some(map(str, self.aside))}"
            )
        return lines


def some(names: Iterable[str]) -> str:
    """List the first few of `names`."""
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")


def index_files(folder: Path, suffixes: Iterable[str]) -> FileIndex:
    """Find the files below `folder` with one of `suffixes`."""
    lowered = {suffix.lower() for suffix in suffixes}
    found: dict[str, tuple[Path, ...]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in lowered and path.is_file() and not path.name.startswith("."):
            name = _bare(path.name)
            found[name] = (*found.get(name, ()), path)
    return FileIndex(folder, found)


def match_splits(
    annotation: Annotation, splits: Sequence[str], files: FileIndex, *, allow_missing: bool = False
) -> list[Matching]:
    """Match `splits`, and ensure that no file belongs to two splits and no two sets of files are mixed.

    InvalidInputError: "training-split-unknown", "training-split-empty", "training-bags-missing" (none found,
    or fewer than half without `allow_missing`), "training-bags-ambiguous", "training-slide-in-two-splits".
    """
    matched = {name: match_cases(name, annotation.split(name), files) for name in splits}
    others = {name: annotation.split(name) for name in SPLITS if name not in splits}
    for matching in matched.values():
        _require(matching, files.folder, allow_missing=allow_missing)
    _refuse_two_splits(matched, others, files)
    _refuse_mixture([one for matching in matched.values() for one in matching.found], files)
    return list(matched.values())


def match_cases(split: str, cases: Sequence[Case], files: FileIndex) -> Matching:
    """Match cases in their order. InvalidInputError("training-bags-ambiguous")."""
    reported = [case for case in cases if case.report.strip()]
    slides = {case.id: _slides(case, files) for case in reported}
    found = tuple(Found(case, paths) for case in reported if (paths := _present(slides[case.id])))
    taken = Counter(path for one in found for path in one.paths)
    return Matching(
        split,
        len(cases),
        found,
        missing=tuple(case.id for case in reported if not any(slides[case.id])),
        incomplete=tuple(one.case.id for one in found if None in slides[one.case.id]),
        blank=tuple(case.id for case in cases if not case.report.strip()),
        sharing=tuple(one.case.id for one in found if any(taken[path] > 1 for path in one.paths)),
        aside=tuple(
            p for paths in files.by_name.values() if taken.keys() & set(paths) for p in _hidden(paths)
        ),
    )


def _slides(case: Case, files: FileIndex) -> list[Path | None]:
    """Find the file of each slide of a case: several by image_path, a single one also by the id."""
    named = [(_bare(_last(path)), path) for path in case.image_path if _last(path)]
    named = list({(PureWindowsPath(path).parent, name): (name, path) for name, path in named}.values())
    if len(named) < 2:
        hint = named[0][1] if named else case.id
        return [_first([*_names_of_id(case.id), *(name for name, _ in named)], hint, files)]
    slides = [_file(name, path, files) for name, path in named]
    if any(slides):  # two paths that lead to one file are not two slides
        return [path if path not in slides[:place] else None for place, path in enumerate(slides)]
    whole = _first(_names_of_id(case.id), case.id, files)
    return [whole] if whole else slides


def _present(slides: Iterable[Path | None]) -> tuple[Path, ...]:
    return tuple(path for path in slides if path is not None)


def _first(names: Iterable[str], hint: str, files: FileIndex) -> Path | None:
    return next((path for name in names if (path := _file(name, hint, files))), None)


def _names_of_id(text: str) -> list[str]:
    """Return the names of a file named after an id; an id with a file suffix may be a path."""
    name = unicodedata.normalize("NFC", text)
    return list(dict.fromkeys([name, _bare(name if _ending(name) == "" else _last(name))]))


def _last(path: str) -> str:
    """Return the last part of a path written on any system."""
    return PureWindowsPath(path).name


def _bare(name: str) -> str:
    """Remove the suffixes of slides and bags, and nothing else."""
    name = unicodedata.normalize("NFC", name)
    while ending := _ending(name):
        name = name.removesuffix(ending)
    return name


def _ending(name: str) -> str:
    stem, dot, last = name.rpartition(".")
    return f".{last}" if dot and stem and f".{last}".lower() in _ENDINGS else ""


def _file(name: str, hint: str, files: FileIndex) -> Path | None:
    """Find the one file named `name`, or the name that `histgen encode` gives it."""
    paths = files.by_name.get(name) or files.by_name.get(safe_id(name)) or ()
    nearest = [path for path in paths if path not in _hidden(paths)]
    if len(nearest) < 2:
        return nearest[0] if nearest else None
    chosen = _in_named_folder(nearest, hint)
    if chosen is None:
        raise InvalidInputError(
            "training-bags-ambiguous",
            f"{len(nearest)} files are named {name}: {some(map(str, nearest))}.",
            hint="Choose the folder of one set (one encoder, one layout), or add the folder to image_path.",
        )
    return chosen


def _hidden(paths: Sequence[Path]) -> list[Path]:
    """Return the files of one name that lie deeper than a single one nearest to the indexed folder."""
    if len(paths) < 2:
        return []
    nearest = min(len(path.parts) for path in paths)
    alone = sum(len(path.parts) == nearest for path in paths) == 1
    return [path for path in paths if len(path.parts) > nearest] if alone else []


def _in_named_folder(paths: Sequence[Path], hint: str) -> Path | None:
    """Choose the file whose folder is named like the folder in `hint`, a path in the annotation."""
    named = [path for path in paths if _names_folder(hint, path)]
    return named[0] if len(named) == 1 else None


def _names_folder(hint: str, path: Path) -> bool:
    return PureWindowsPath(hint).parent.name == path.parent.name


def _require(matching: Matching, folder: Path, *, allow_missing: bool) -> None:
    if not matching.listed:
        raise InvalidInputError(
            "training-split-empty",
            f"The annotation file has no cases in its {matching.split} split.",
            hint="Use an annotation file with such cases, or another --split.",
        )
    found, usable = len(matching.found), len(matching.found) + len(matching.missing)
    if not usable:
        raise InvalidInputError(
            "training-split-empty",
            f"All {matching.listed} reports of the annotation's {matching.split} split are empty.",
            hint="Add the reports: without them, nothing can be learned or scored.",
        )
    if not found:
        raise InvalidInputError(
            "training-bags-missing",
            f"None of the {usable} cases of the {matching.split} split has a file in {folder}.",
            hint="Encode the slides first; a bag is found by the case's id or the name in its image_path."
            if folder.is_dir()
            else "There is no such folder: check its path.",
        )
    if 2 * found < usable and not allow_missing:
        raise InvalidInputError(
            "training-bags-missing",
            f"Only {found} of the {usable} cases of the {matching.split} split have a file in {folder}; "
            f"missing: {some(matching.missing)}.",
            hint="Check that the names agree and all slides are encoded. To use so few, add --allow-missing.",
        )


def _refuse_two_splits(
    matched: Mapping[str, Matching], others: Mapping[str, Sequence[Case]], files: FileIndex
) -> None:
    owners: dict[Path, tuple[str, str]] = {}
    found = [(name, one) for name, matching in matched.items() for one in matching.found]
    found += [(name, one) for name, cases in others.items() for one in _found_anyhow(cases, files)]
    for split, one in found:
        for path in one.paths:
            other = owners.setdefault(path, (split, one.case.id))
            if other[0] != split:
                raise InvalidInputError(
                    "training-slide-in-two-splits",
                    f"{path} belongs to {other[1]} of the {other[0]} split and to {one.case.id} of the "
                    f"{split} split.",
                    hint="Put all entries of a slide, and all slides of a patient, into the same split.",
                )


def _found_anyhow(cases: Sequence[Case], files: FileIndex) -> list[Found]:
    """Match cases of a split that is not used; problems in it alone do not matter here."""
    found = []
    for case in cases:
        with suppress(InvalidInputError):
            found.append(Found(case, _present(_slides(case, files))))
    return found


def _refuse_mixture(found: Sequence[Found], files: FileIndex) -> None:
    """Refuse files of two folders that share a name: these are two sets, not parts of one.

    Folders named in the annotation may share file names: `P1/1.svs` is not `P2/1.svs`.
    """
    folders = {
        path.parent
        for one in found
        for path in one.paths
        if not any(_names_folder(hint, path) for hint in one.case.image_path)
    }
    for paths in files.by_name.values():
        rivals = sorted({path.parent for path in paths} & folders)
        if len(rivals) > 1:
            raise InvalidInputError(
                "training-bags-ambiguous",
                f"{rivals[0]} and {rivals[1]} both hold {_bare(paths[0].name)}, and both would be used.",
                hint="Bags of two encoders must not be mixed: choose one set's folder, or move the other.",
            )
