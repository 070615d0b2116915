"""Scoring what looks for cases alike: queries and gallery, the four tasks, and evidence on the lesion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from histgen_lib.cli.offline.cases import MatchedCases, read_truth
from histgen_lib.errors import InvalidInputError

if TYPE_CHECKING:
    from histgen_lib.bags import Bag
    from histgen_lib.evaluation.retrieval import Collection, EvidencePairs, RegionCase, Sought, TaskScores
    from histgen_lib.training.retrieval.data import SlideExample
    from histgen_lib.training.retrieval.embedding import Embedded, Embedder

DEPTHS = (1, 3, 5, 10)
EVIDENCE_DEPTH = 5
_MEMORY_BYTES = 4 << 30


@dataclass(frozen=True)
class Side:
    """Slides that look, or are looked for: splits of an annotation, bags, and the truth if it is known."""

    annotation: Path
    bags: Path
    splits: tuple[str, ...]
    truth: Path | None = None


@dataclass(frozen=True)
class Question:
    """What to score: by what two cases are alike, resamples, and the seed of the resampling."""

    relevant_by: tuple[str, ...] = ("organ", "diagnosis")
    labels: Path | None = None
    bootstrap: int = 1000
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Slides:
    """The slides of one side, one entry each, with their reports and bags."""

    examples: Sequence[SlideExample]
    truth: Path | None

    def bags(self) -> Iterator[Bag]:
        """Yield their bags, read as they are needed if they are not in memory."""
        return (example.load() for example in self.examples)

    @property
    def ids(self) -> list[str]:
        """The ids of their cases."""
        return [example.id for example in self.examples]

    @property
    def reports(self) -> list[str]:
        """Their reports."""
        return [example.report for example in self.examples]

    @cached_property
    def lesions(self) -> list[tuple[Any, ...]]:
        """The lesions that decide each diagnosis; () where the truth is not known, or there is none."""
        from histgen_lib.evaluation.retrieval import lesions_of

        known = [read_truth(self.truth, name) for name in self.ids]
        return [lesions_of(truth) if truth else () for truth in known]


@dataclass(frozen=True, eq=False)
class Match:
    """Queries and gallery, and what is relevant; `by_field`: if one field of the reports alone decides it."""

    queries: Slides
    gallery: Slides
    sought: Sought
    by_field: Mapping[str, Sought] = field(default_factory=dict)

    @property
    def has_truth(self) -> bool:
        """Whether the lesions of both sides are known."""
        return any(self.queries.lesions) and any(self.gallery.lesions)


@dataclass(frozen=True, eq=False)
class Found:
    """The scores of one search: of the tasks, and of slides that look for slides with one equal field.

    Evidence: of a query's own region on its lesion, and of what the network sees of its box alone.
    """

    tasks: TaskScores
    fields: Mapping[str, TaskScores] = field(default_factory=dict)
    evidence: EvidencePairs | None = None
    box_evidence: EvidencePairs | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        both = {"region": self.evidence, "box": self.box_evidence}
        evidence = {name: one.to_dict() for name, one in both.items() if one}
        fields = {name: scores.to_dict() for name, scores in self.fields.items()}
        return self.tasks.to_dict() | {"evidence": evidence, "fields": fields}


def read_slides(side: Side, cases: MatchedCases, *, allow_missing: bool = False) -> Slides:
    """Find the bags of one side's cases. Raises as `read_annotation` and `match_splits`."""
    from histgen_lib.bags import BAG_SUFFIXES
    from histgen_lib.training.annotation import read_annotation
    from histgen_lib.training.matching import index_files, match_splits
    from histgen_lib.training.retrieval.data import slide_examples

    annotation, files = read_annotation(side.annotation), index_files(side.bags, BAG_SUFFIXES)
    splits = [name for name in side.splits if annotation.split(name)]
    matched = match_splits(annotation, splits or side.splits, files, allow_missing=allow_missing)
    cases(matched)
    found = [one for split in matched for one in split.found]
    return Slides(slide_examples(found, _MEMORY_BYTES), side.truth)


def match(queries: Slides, gallery: Slides, question: Question, prompts: Sequence[str]) -> Match:
    """Say what is relevant.

    Raises InvalidInputError("training-slide-in-two-splits") for a case on both sides, and as
    `field_labels` and `read_labels`.
    """
    from histgen_lib.evaluation.retrieval import Sought, field_labels, read_labels, relevance
    from histgen_lib.evaluation.retrieval.metrics import prompt_jaccard
    from histgen_lib.models.fgcr.prompts import prompt_sets

    both = set(queries.ids) & set(gallery.ids)
    if both:
        raise InvalidInputError(
            "training-slide-in-two-splits",
            f"{len(both)} cases are among the queries and in the gallery, such as {min(both)}.",
            hint="Score cases that the gallery does not have.",
        )
    sides = (queries, gallery)
    if question.labels:
        labels = [read_labels(question.labels, side.ids) for side in sides]
    else:
        labels = [field_labels(side.reports, question.relevant_by) for side in sides]
    sets = [prompt_sets(side.reports, prompts) for side in sides]
    likeness = prompt_jaccard(*sets) if prompts else None
    sought = Sought(relevance(*labels), likeness, DEPTHS, question.bootstrap, question.seed)
    return Match(queries, gallery, sought)


def with_fields(asked: Match, least: int = 10) -> Match:
    """Return the match with what is relevant by each field that `least` query reports state.

    Fields of which no value occurs on both sides are left out, and so are organ, procedure and diagnosis.
    """
    from histgen_lib.evaluation.retrieval import field_labels, relevance
    from histgen_lib.text.synoptic import HEAD_KEYS, parse_report

    sides = (asked.queries, asked.gallery)
    stated, known = (Counter(key for text in side.reports for key in parse_report(text)) for side in sides)
    names = [n for n, count in stated.items() if count >= least and n in known and n not in HEAD_KEYS]
    found = {}
    for name in names:
        relevant = relevance(*(field_labels(side.reports, (name,)) for side in sides))
        if relevant.any():
            found[name] = replace(asked.sought, relevant=relevant, prompts=None, depths=(5,))
    return replace(asked, by_field=found)


def score_network(embedder: Embedder, asked: Match, *, regions: bool = True) -> Found:
    """Score a network on all tasks; with `regions` also those of regions, and the evidence."""
    seen = [embedder.cases(side.bags(), side.reports) for side in (asked.queries, asked.gallery)]
    found = _scored(asked, *(_collection(one, regions=regions) for one in seen))
    if not (regions and asked.has_truth):
        return found
    queries, gallery = (
        region_cases(side, one) for side, one in zip((asked.queries, asked.gallery), seen, strict=True)
    )
    evidence, box_evidence = _evidence(embedder, asked, queries, gallery)
    return replace(found, evidence=evidence, box_evidence=box_evidence)


def _scored(asked: Match, queries: Collection, gallery: Collection) -> Found:
    from histgen_lib.evaluation.retrieval import similarities

    return _scored_tables(asked, similarities(queries, gallery))


def _scored_tables(asked: Match, tables: Mapping[str, NDArray[Any]]) -> Found:
    from histgen_lib.evaluation.retrieval import score_tasks

    slides = {task: tables[task] for task in ("image→image", "regions→regions") if task in tables}
    fields = {name: score_tasks(slides, sought) for name, sought in asked.by_field.items()}
    return Found(score_tasks(tables, asked.sought), fields)


def region_cases(side: Slides, seen: Embedded) -> list[RegionCase]:
    """Return regions and lesions of one side's slides."""
    from histgen_lib.evaluation.retrieval import RegionCase

    return [RegionCase(*one) for one in zip(side.ids, seen.regions, seen.boxes, side.lesions, strict=True)]


def _collection(seen: Embedded, *, regions: bool) -> Collection:
    from histgen_lib.evaluation.retrieval import Collection

    return Collection(seen.slides, seen.texts, seen.regions if regions else ())


def _evidence(
    embedder: Embedder, asked: Match, queries: Sequence[RegionCase], gallery: Sequence[RegionCase]
) -> tuple[EvidencePairs | None, EvidencePairs | None]:
    """Score evidence: by the query's region on its lesion, and by what the network sees of its box alone.

    None where no region lies mostly on its lesion, as with few large regions.
    """
    from histgen_lib.evaluation.retrieval import RegionCase, nearest_by_region, score_regions
    from histgen_lib.evaluation.retrieval.regions import MOSTLY, shares_on

    rows = [row for row, case in enumerate(queries) if case.polygons]
    whole = [queries[row] for row in rows]
    boxes = [case.boxes[shares_on(case.polygons, case.boxes).argmax()] for case in whole]
    regions, found = embedder.boxes((asked.queries.examples[row].load() for row in rows), boxes)
    alone = [
        RegionCase(case.slide_id, some, places, case.polygons)
        for case, some, places in zip(whole, regions, found, strict=True)
    ]

    def scored(cases: Sequence[RegionCase]) -> EvidencePairs | None:
        if not any((shares_on(case.polygons, case.boxes) >= MOSTLY).any() for case in cases):
            return None
        hits = nearest_by_region(cases, gallery, min(EVIDENCE_DEPTH, len(gallery)))
        return score_regions(cases, gallery, hits, bootstrap=asked.sought.bootstrap, seed=asked.sought.seed)

    return scored(whole), scored(alone)


def score_untrained(asked: Match) -> dict[str, Found]:
    """Score the searches that need no training: the mean of the features, and sets of patches."""
    from histgen_lib.evaluation.retrieval.baselines import barcodes, mean_pooled, mosaic, patch_set_scores
    from histgen_lib.training.retrieval.data import places_of

    sides = (asked.queries, asked.gallery)
    means = [mean_pooled(bag.features for bag in side.bags()) for side in sides]
    sets = [
        [barcodes(bag.features[mosaic(bag.features, places_of(bag)[0])]) for bag in side.bags()]
        for side in sides
    ]
    tables = {"mean-features": means[0] @ means[1].T, "patch-set": patch_set_scores(*sets)}
    return {name: _scored_tables(asked, {"image→image": table}) for name, table in tables.items()}
