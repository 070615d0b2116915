"""The page that compares searches for cases alike: one table a question, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from histgen_lib.evaluation.bootstrap import Estimate
from histgen_lib.evaluation.retrieval.metrics import RetrievalScore, difference
from histgen_lib.evaluation.retrieval.regions import EvidencePairs
from histgen_lib.evaluation.retrieval.tasks import REGION_TASKS, SLIDE_TASKS, TaskScores

MAIN = "MAP@5"
_OTHERS = ("P@3", "ACC@5", "recall@10", "nDCG@10", "Jaccard@5")
_ABSENT = "–"


@dataclass(frozen=True, eq=False)
class Method:
    """One search: its scores, evidence on the lesion by kind of query, and what its training took.

    `fields`: the scores of slides that look for slides with the same value of one field.
    """

    name: str
    tasks: TaskScores
    fields: Mapping[str, TaskScores] = field(default_factory=dict)
    evidence: Mapping[str, EvidencePairs] = field(default_factory=dict)
    parameters: int = 0
    minutes: float | None = None


def render(
    methods: Sequence[Method],
    *,
    command: str,
    facts: Mapping[str, str],
    notes: Sequence[str],
    best: str,
    bootstrap: int,
) -> str:
    """Write the page. `best` names the method whose lead over the others is stated, with intervals."""
    lines = [
        "# Searches for cases alike, compared",
        "",
        "Written by `histgen compare-retrieval`; do not edit. The command that wrote it:",
        "",
        "<!-- run by make retrieval-table -->",
        "```sh",
        command,
        "```",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        *(f"- {note}" for note in notes),
        "",
        f"## {MAIN} of the four tasks, slide level",
        "",
        *_main_table(methods),
        "",
        f"## How far {best} leads in {MAIN}",
        "",
        *_lead_table(methods, best, bootstrap),
        "",
        "## Other figures, image→image",
        "",
        *_others_table(methods),
        "",
        f"## One finding alone, image→image, {MAIN}",
        "",
        *_fields_table(methods),
        "",
        "## Regions",
        "",
        *_regions_table(methods),
        "",
        "## Size and training",
        "",
        *_effort_table(methods),
    ]
    return "\n".join(lines) + "\n"


def _main_table(methods: Sequence[Method]) -> list[str]:
    rows = [[one.name, *(_cell(one.tasks, task, MAIN) for task in SLIDE_TASKS)] for one in methods]
    chance = ["chance", *(_chance(methods[-1].tasks, task, MAIN) for task in SLIDE_TASKS)]
    return _table(["", *SLIDE_TASKS], [*rows, chance])


def _lead_table(methods: Sequence[Method], best: str, bootstrap: int) -> list[str]:
    [leader] = [one for one in methods if one.name == best]
    rows = []
    for other in methods:
        if other is not leader:
            cells = (_lead(leader.tasks, other.tasks, task, bootstrap) for task in SLIDE_TASKS)
            rows.append([f"before {other.name}", *cells])
    return _table(["", *SLIDE_TASKS], rows)


def _others_table(methods: Sequence[Method]) -> list[str]:
    rows = [[one.name, *(_cell(one.tasks, SLIDE_TASKS[0], name) for name in _OTHERS)] for one in methods]
    chance = ["chance", *(_chance(methods[-1].tasks, SLIDE_TASKS[0], name) for name in _OTHERS)]
    return _table(["", *_OTHERS], [*rows, chance])


def _fields_table(methods: Sequence[Method]) -> list[str]:
    names = list(methods[-1].fields)
    rows = [
        [_words(name), *(_cell(one.fields[name], SLIDE_TASKS[0], MAIN) for one in methods),
         _chance(methods[-1].fields[name], SLIDE_TASKS[0], MAIN)]
        for name in names
    ]  # fmt: skip
    return _table(["", *(one.name for one in methods), "chance"], rows)


def _regions_table(methods: Sequence[Method]) -> list[str]:
    able = [one for one in methods if any(task in one.tasks.tasks for task in REGION_TASKS)]
    rows = [
        [
            f"{task}, {MAIN}",
            *(_cell(one.tasks, task, MAIN) for one in able),
            _chance(able[-1].tasks, task, MAIN),
        ]
        for task in REGION_TASKS
        if able and task in able[-1].tasks.tasks
    ]
    for kind in able[-1].evidence if able else ():
        for what, label in (("meets", "overlaps the lesion"), ("mostly", "lies mostly on it")):
            title = f"evidence of {kind}: the region there {label}"
            rows.append([title, *(_pairs_cell(one, kind, what) for one in able), "as stated"])
    return _table(["", *(one.name for one in able), "chance"], rows)


def _pairs_cell(method: Method, kind: str, what: str) -> str:
    """Format a share of evidence pairs with its own chance and number: each search has its own hits."""
    if kind not in method.evidence:
        return _ABSENT
    pairs = method.evidence[kind]
    score: RetrievalScore = getattr(pairs, what)
    return f"{_shown(score.estimate)}, chance {score.chance:.3f}, n = {pairs.pairs}"


def _effort_table(methods: Sequence[Method]) -> list[str]:
    rows = [
        [
            one.name,
            f"{one.parameters:,}" if one.parameters else _ABSENT,
            _ABSENT if one.minutes is None else f"{one.minutes:.1f}",
        ]
        for one in methods
    ]
    return _table(["", "parameters", "training minutes"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _score(scores: TaskScores, task: str, name: str) -> RetrievalScore | None:
    return scores.tasks.get(task, {}).get(name)


def _cell(scores: TaskScores, task: str, name: str) -> str:
    found = _score(scores, task, name)
    return _ABSENT if found is None else _shown(found.estimate)


def _chance(scores: TaskScores, task: str, name: str) -> str:
    found = _score(scores, task, name)
    return _ABSENT if found is None else f"{found.chance:.3f}"


def _lead(leader: TaskScores, other: TaskScores, task: str, bootstrap: int) -> str:
    one, two = _score(leader, task, MAIN), _score(other, task, MAIN)
    if one is None or two is None:
        return _ABSENT
    gain = difference(one, two, bootstrap=bootstrap)
    return f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _words(name: str) -> str:
    return name.replace("_", " ")
