"""Finding the bags (or slides) of an annotation's cases by name, and saying what was not found.

A name is that of a file without the endings of slides and bags, and never less: `P1.2` is not `P1`. Folders
do not matter, until two hold files of one name: then they are different sets, such as the bags of two
encoders, and never mixed (docs/decisions/0019).
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from histgen_lib.errors import InvalidInputError
from histgen_lib.names import safe_id
from histgen_lib.slides.formats import SLIDE_SUFFIXES
from histgen_lib.training.annotation import SPLITS, Annotation, Case

BAG_SUFFIXES = (".parquet", ".h5", ".pt")
_ENDINGS = {*SLIDE_SUFFIXES, *BAG_SUFFIXES, ".png", ".jpg", ".jpeg", ".npy", ".qptiff", ".isyntax", ".zarr"}
"""Endings that an annotation's names may have: those of slides and bags, and what others extract from."""

_SHOWN = 5


@dataclass(frozen=True)
class Found:
    """A case with the files of its slides, in its order."""

    case: Case
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class FileIndex:
    """The files below a folder, by their names without endings."""

    folder: Path
    by_name: Mapping[str, tuple[Path, ...]]


@dataclass(frozen=True)
class Matching:
    """What became of one split's cases: ids, but for `found` and the files left `aside`."""

    split: str
    listed: int
    found: tuple[Found, ...]
    missing: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()
    blank: tuple[str, ...] = ()
    sharing: tuple[str, ...] = ()
    aside: tuple[Path, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Give counts, and the ids behind those that are not as they should be."""
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
        """One line for people."""
        slides = sum(len(found.paths) for found in self.found)
        return f"{self.split}: {len(self.found)} of {self.listed} cases used ({slides} slides)"

    def warnings(self) -> list[str]:
        """Say what a person should look at, a line each."""
        told = {
            "no bag, left out": self.missing,
            "an empty report, left out": self.blank,
            "only some of their slides' bags, used with these": self.incomplete,
            "a bag that another case of the split has, too": self.sharing,
        }
        lines = [f"{self.split}: {len(ids)} with {what}: {some(ids)}" for what, ids in told.items() if ids]
        if self.aside:
            lines.append(
                f"{self.split}: {len(self.aside)} bags in subfolders left aside, "
                f"as --bags itself has others of their names: {some(map(str, self.aside))}"
            )
        return lines


def some(names: Iterable[str]) -> str:
    """Write the first few of `names`."""
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")


def index_files(folder: Path, suffixes: Iterable[str]) -> FileIndex:
    """Find the files below `folder` with one of `suffixes`."""
    wanted = {suffix.lower() for suffix in suffixes}
    found: dict[str, tuple[Path, ...]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in wanted and path.is_file() and not path.name.startswith("."):
            name = _bare(path.name)
            found[name] = (*found.get(name, ()), path)
    return FileIndex(folder, found)


def match_splits(
    annotation: Annotation, wanted: Sequence[str], files: FileIndex, *, allow_missing: bool = False
) -> list[Matching]:
    """Match the `wanted` splits, and see that no file serves two splits and no two sets of files are mixed.

    InvalidInputError: "training-split-unknown", "training-split-empty", "training-bags-missing" (none is
    there, or fewer than half without `allow_missing`), "training-bags-ambiguous",
    "training-slide-in-two-splits".
    """
    asked = {name: match_cases(name, annotation.split(name), files) for name in wanted}
    others = {name: annotation.split(name) for name in SPLITS if name not in wanted}
    for matching in asked.values():
        _require(matching, files.folder, allow_missing=allow_missing)
    _refuse_two_splits(asked, others, files)
    _refuse_mixture([one for matching in asked.values() for one in matching.found], files)
    return list(asked.values())


def match_cases(split: str, cases: Sequence[Case], files: FileIndex) -> Matching:
    """Match cases in their order. InvalidInputError("training-bags-ambiguous")."""
    told = [case for case in cases if case.report.strip()]
    slides = {case.id: _slides(case, files) for case in told}
    found = tuple(Found(case, paths) for case in told if (paths := _there(slides[case.id])))
    taken = Counter(path for one in found for path in one.paths)
    return Matching(
        split,
        len(cases),
        found,
        missing=tuple(case.id for case in told if not any(slides[case.id])),
        incomplete=tuple(one.case.id for one in found if None in slides[one.case.id]),
        blank=tuple(case.id for case in cases if not case.report.strip()),
        sharing=tuple(one.case.id for one in found if any(taken[path] > 1 for path in one.paths)),
        aside=tuple(
            p for paths in files.by_name.values() if taken.keys() & set(paths) for p in _hidden(paths)
        ),
    )


def _slides(case: Case, files: FileIndex) -> list[Path | None]:
    """Find the file of each slide of a case: several by image_path, a single one by the id as well."""
    stated = [(_bare(_last(path)), path) for path in case.image_path if _last(path)]
    stated = list({(PureWindowsPath(path).parent, name): (name, path) for name, path in stated}.values())
    if len(stated) < 2:
        hint = stated[0][1] if stated else case.id
        return [_first([*_names_of_id(case.id), *(name for name, _ in stated)], hint, files)]
    slides = [_file(name, path, files) for name, path in stated]
    if any(slides):  # two paths that lead to one file are not two slides
        return [path if path not in slides[:place] else None for place, path in enumerate(slides)]
    whole = _first(_names_of_id(case.id), case.id, files)
    return [whole] if whole else slides


def _there(slides: Iterable[Path | None]) -> tuple[Path, ...]:
    return tuple(path for path in slides if path is not None)


def _first(names: Iterable[str], hint: str, files: FileIndex) -> Path | None:
    return next((path for name in names if (path := _file(name, hint, files))), None)


def _names_of_id(text: str) -> list[str]:
    """Names a file may have that is called after an id; one with the ending of a file may be a path."""
    name = unicodedata.normalize("NFC", text)
    return list(dict.fromkeys([name, _bare(name if _ending(name) == "" else _last(name))]))


def _last(path: str) -> str:
    """Return the last part of a path that was written on any system."""
    return PureWindowsPath(path).name


def _bare(name: str) -> str:
    """Take the endings of slides and bags away, and nothing else."""
    name = unicodedata.normalize("NFC", name)
    while ending := _ending(name):
        name = name.removesuffix(ending)
    return name


def _ending(name: str) -> str:
    stem, dot, last = name.rpartition(".")
    return f".{last}" if dot and stem and f".{last}".lower() in _ENDINGS else ""


def _file(name: str, hint: str, files: FileIndex) -> Path | None:
    """Find the one file called `name`, or as `histgen encode` calls it."""
    paths = files.by_name.get(name) or files.by_name.get(safe_id(name)) or ()
    nearest = [path for path in paths if path not in _hidden(paths)]
    if len(nearest) < 2:
        return nearest[0] if nearest else None
    named = _in_named_folder(nearest, hint)
    if named is None:
        raise InvalidInputError(
            "training-bags-ambiguous",
            f"{len(nearest)} files are called {name}: {some(map(str, nearest))}.",
            hint="Give the folder of one set (one encoder, one layout), or name the folder in image_path.",
        )
    return named


def _hidden(paths: Sequence[Path]) -> list[Path]:
    """Of files of one name, those that lie deeper than the one that is nearest to the folder given."""
    if len(paths) < 2:
        return []
    nearest = min(len(path.parts) for path in paths)
    alone = sum(len(path.parts) == nearest for path in paths) == 1
    return [path for path in paths if len(path.parts) > nearest] if alone else []


def _in_named_folder(paths: Sequence[Path], hint: str) -> Path | None:
    """Choose the file whose folder has the name of the folder in `hint`, a path in the annotation."""
    named = [path for path in paths if _names_folder(hint, path)]
    return named[0] if len(named) == 1 else None


def _names_folder(hint: str, path: Path) -> bool:
    return PureWindowsPath(hint).parent.name == path.parent.name


def _require(matching: Matching, folder: Path, *, allow_missing: bool) -> None:
    if not matching.listed:
        raise InvalidInputError(
            "training-split-empty",
            f"The annotation file has no cases in its {matching.split} split.",
            hint="Give an annotation file with such cases, or another --split.",
        )
    found, wanted = len(matching.found), len(matching.found) + len(matching.missing)
    if not wanted:
        raise InvalidInputError(
            "training-split-empty",
            f"All {matching.listed} reports of the annotation's {matching.split} split are empty.",
            hint="Give reports; nothing can be learned or scored without them.",
        )
    if not found:
        raise InvalidInputError(
            "training-bags-missing",
            f"None of the {wanted} cases of the {matching.split} split has a file in {folder}.",
            hint="A bag is found by the case's id or the name in its image_path: encode the slides first."
            if folder.is_dir()
            else "There is no such folder: check its path.",
        )
    if 2 * found < wanted and not allow_missing:
        raise InvalidInputError(
            "training-bags-missing",
            f"Only {found} of the {wanted} cases of the {matching.split} split have a file in {folder}; "
            f"missing: {some(matching.missing)}.",
            hint="Do the names agree, and are all slides encoded? If so few are meant, say --allow-missing.",
        )


def _refuse_two_splits(
    asked: Mapping[str, Matching], others: Mapping[str, Sequence[Case]], files: FileIndex
) -> None:
    owners: dict[Path, tuple[str, str]] = {}
    found = [(name, one) for name, matching in asked.items() for one in matching.found]
    found += [(name, one) for name, cases in others.items() for one in _found_anyhow(cases, files)]
    for split, one in found:
        for path in one.paths:
            other = owners.setdefault(path, (split, one.case.id))
            if other[0] != split:
                raise InvalidInputError(
                    "training-slide-in-two-splits",
                    f"{path} belongs to {other[1]} of the {other[0]} split and to {one.case.id} of the "
                    f"{split} split.",
                    hint="Put all entries of a slide, and all slides of a patient, into one split.",
                )


def _found_anyhow(cases: Sequence[Case], files: FileIndex) -> list[Found]:
    """Match cases of a split that is not asked for: what is wrong with it alone is no matter now."""
    found = []
    for case in cases:
        with suppress(InvalidInputError):
            found.append(Found(case, _there(_slides(case, files))))
    return found


def _refuse_mixture(found: Sequence[Found], files: FileIndex) -> None:
    """Refuse files of two folders that share a name: they are two sets, not parts of one.

    Folders that the annotation itself names may hold files of one name: `P1/1.svs` is not `P2/1.svs`.
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
                hint="Bags of two encoders must not be mixed: give the folder of one set, or move one.",
            )
