"""All entries of one model in memory: vectors, what filters look at, and texts.

A slot is an entry's place; an entry that is replaced or withdrawn leaves its slot empty. One thread changes a
shard; others search the `View`s that it gives, which stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from histgen_lib.retrieval._lance_rows import FLAGS, TEXTS
from histgen_lib.retrieval._maxsim import Places
from histgen_lib.retrieval._port import CaseEntry, Filters, Floats, Ints, Vectors
from histgen_lib.retrieval._postings import Codebook, Codes, Postings, as_floats, centroids_for, sample_size

Halves = npt.NDArray[np.float16]
Flags = npt.NDArray[np.bool_]

FILED_FROM = 20_000
"""Entries from which on regions are filed; fewer are all compared in as little time."""

_REFILED = 500
"""So many new entries are compared without being filed."""
_CODED = 200_000
"""Regions that are filed in one go."""


class Column:
    """An array that grows at its end; what was taken from it before stays as it was."""

    def __init__(self, dtype: npt.DTypeLike, *shape: int) -> None:
        self._data = np.empty((64, *shape), dtype)
        self._size = 0

    def add(self, values: npt.ArrayLike) -> None:
        """Append."""
        new = np.asarray(values)
        size = self._size + len(new)
        if size > len(self._data):
            data = np.empty((max(size, len(self._data) * 3 // 2), *self._data.shape[1:]), self._data.dtype)
            data[: self._size] = self._data[: self._size]
            self._data = data
        self._data[self._size : size] = new
        self._size = size

    def all(self) -> Any:
        """Return what there is, without a copy."""
        return self._data[: self._size]


@dataclass(frozen=True, eq=False)
class View:
    """A shard at one moment. Arrays are by slot; `regions` float16[N, d] and `boxes` int32[N, 4] by region.

    `slots`: by slide id. `owners`: numbers of the owners' names. `postings`, and `codes` uint16 by region: of
    the first `filed` slots.
    """

    slots: Mapping[str, int]
    alive: Flags
    starts: Places
    counts: Ints
    regions: Halves
    codes: Codes
    boxes: Ints
    slides: Floats
    words: Floats
    owners: Ints
    marks: dict[str, npt.NDArray[Any]]
    names: dict[str, dict[str, int]]
    rows: Sequence[tuple[Any, ...]]
    postings: Postings | None
    filed: int

    def allowed(self, filters: Filters) -> Flags:
        """Return which slots the filters let through."""
        allowed = self.alive.copy()
        for name, wanted in (("organ", filters.organ), ("stain", filters.stain), ("site", filters.site)):
            if wanted:
                allowed &= self.marks[name] == self.names[name].get(wanted.casefold(), -1)
        for flag, wanted_flag in (("signed", filters.signed), ("synthetic", filters.synthetic)):
            if wanted_flag is not None:
                allowed &= self.marks[flag] == wanted_flag
        if filters.since or filters.until:
            dates = self.marks["date"]
            allowed &= (dates >= filters.since.encode()) & (dates != b"")
            allowed &= dates <= (filters.until or "9999-99-99").encode()
        without = [self.names["owner"][owner] for owner in filters.without if owner in self.names["owner"]]
        if without:
            allowed &= ~np.isin(self.owners, without)
        return allowed

    def regions_of(self, slots: Places) -> tuple[Floats, Places]:
        """Return the regions of these slots, stacked, and where each one's start."""
        places, starts = self._places_of(slots)
        return as_floats(self.regions[places]), starts

    def estimates_of(self, queries: Floats, slots: Places) -> Floats:
        """Estimate the MaxSim of these slots, all filed, from the files that their regions are in."""
        assert self.postings is not None
        places, starts = self._places_of(slots)
        return self.postings.interact(queries, self.codes[places], starts)

    def _places_of(self, slots: Places) -> tuple[Places, Places]:
        counts = self.counts[slots].astype(np.int64)
        starts = np.cumsum(counts) - counts
        return np.arange(int(counts.sum())) + np.repeat(self.starts[slots] - starts, counts), starts

    def entry(self, slot: int) -> CaseEntry:
        """Return the entry in a slot."""
        regions = slice(int(self.starts[slot]), int(self.starts[slot] + self.counts[slot]))
        vectors = Vectors(self.slides[slot], as_floats(self.regions[regions]), self.boxes[regions])
        values = dict(zip((*TEXTS, *FLAGS), self.rows[slot], strict=True))
        return CaseEntry(**values, vectors=vectors, words=self.words[slot])


class Shard:
    """Entries of one model, whose vectors have `size` numbers. `seed`: of the choice of centroids."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.slots: dict[str, int] = {}
        self.revisions: dict[str, str] = {}
        self._rng = np.random.default_rng(seed)
        self._alive, self._starts, self._counts = Column(np.bool_), Column(np.int64), Column(np.int32)
        self._regions, self._boxes = Column(np.float16, size), Column(np.int32, 4)
        self._slides, self._words = Column(np.float32, size), Column(np.float32, size)
        self._owners, self._codes = Column(np.int32), Column(np.uint16)
        self._marks: dict[str, Column] = {
            **{name: Column(np.int32) for name in ("organ", "stain", "site")},
            **{name: Column(np.bool_) for name in FLAGS},
            "date": Column("S10"),
        }
        self._names: dict[str, dict[str, int]] = {name: {} for name in ("owner", "organ", "stain", "site")}
        self._rows: list[tuple[Any, ...]] = []
        self._codebook: Codebook | None = None
        self._postings: Postings | None = None
        self._filed = self._learnt_from = 0

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def filled(self) -> int:
        """How many slots are in use or empty again."""
        return len(self._rows)

    def add(self, rows: Any) -> None:
        """Add the rows of an Arrow table, each in place of the one of its slide."""
        columns = {name: rows.column(name).to_pylist() for name in (*TEXTS, *FLAGS, "revision")}
        self.drop(slide_id for slide_id in columns["slide_id"] if slide_id in self.slots)
        first = len(self._rows)
        self.slots |= {slide_id: first + n for n, slide_id in enumerate(columns["slide_id"])}
        self.revisions |= dict(zip(columns["slide_id"], columns["revision"], strict=True))
        self._rows += zip(*(columns[name] for name in (*TEXTS, *FLAGS)), strict=True)
        self._owners.add(self._numbers("owner", columns["owner"]))
        for name in ("organ", "stain", "site"):
            self._marks[name].add(self._numbers(name, [text.casefold() for text in columns[name]]))
        for name in FLAGS:
            self._marks[name].add(columns[name])
        self._marks["date"].add(np.array([date.encode()[:10] for date in columns["date"]], "S10"))
        self._add_vectors(rows)
        self._alive.add(np.ones(rows.num_rows, np.bool_))

    def drop(self, slide_ids: Iterable[str]) -> None:
        """Empty the slots of these slides."""
        gone = [self.slots.pop(slide_id) for slide_id in slide_ids]
        if gone:
            alive = Column(np.bool_)
            alive.add(self._alive.all())
            alive.all()[gone] = False
            self._alive = alive
        for slot in gone:
            self.revisions.pop(self._rows[slot][0])

    def view(self) -> View:
        """Return the shard as it is now; files what is new if that is much."""
        self._file()
        return View(
            slots=dict(self.slots),
            alive=self._alive.all(),
            starts=self._starts.all(),
            counts=self._counts.all(),
            regions=self._regions.all(),
            codes=self._codes.all(),
            boxes=self._boxes.all(),
            slides=self._slides.all(),
            words=self._words.all(),
            owners=self._owners.all(),
            marks={name: column.all() for name, column in self._marks.items()},
            names=self._names,
            rows=self._rows,
            postings=self._postings,
            filed=self._filed,
        )

    def _add_vectors(self, rows: Any) -> None:
        counts = rows.column("count").to_numpy()
        self._starts.add(len(self._regions.all()) + np.cumsum(counts, dtype=np.int64) - counts)
        self._counts.add(counts)
        size = self._slides.all().shape[1]
        self._regions.add(_stacked(rows, "regions", "<f2").reshape(-1, size))
        self._boxes.add(_stacked(rows, "boxes", "<i4").reshape(-1, 4))
        self._slides.add(_stacked(rows, "slide", "<f2").reshape(-1, size))
        self._words.add(_stacked(rows, "words", "<f2").reshape(-1, size))

    def _numbers(self, name: str, values: Iterable[str]) -> list[int]:
        names = self._names[name]
        return [names.setdefault(value, len(names)) for value in values]

    def _file(self) -> None:
        entries = len(self._rows)
        if len(self.slots) < FILED_FROM or entries - self._filed < _REFILED:
            return
        if self._codebook is None or entries > 4 * self._learnt_from:
            self._learn()
        assert self._codebook is not None
        regions = self._regions.all()
        for start in range(len(self._codes.all()), len(regions), _CODED):
            self._codes.add(self._codebook.codes(as_floats(regions[start : start + _CODED])))
        slots = np.repeat(np.arange(entries), self._counts.all())
        self._postings, self._filed = Postings(self._codebook, self._codes.all(), slots, regions), entries

    def _learn(self) -> None:
        regions = self._regions.all()
        count = centroids_for(len(regions))
        size = min(len(regions), sample_size(count))
        chosen = np.sort(self._rng.choice(len(regions), size, replace=False))
        self._codebook = Codebook(as_floats(regions[chosen]), count, self._rng)
        self._codes, self._learnt_from = Column(np.uint16), len(self._rows)


def _stacked(rows: Any, name: str, dtype: str) -> npt.NDArray[Any]:
    return np.frombuffer(b"".join(rows.column(name).to_pylist()), dtype)
