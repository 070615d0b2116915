"""Prompts: words and phrases that stand for the topics of reports, mined from the reports themselves.

FGCR's authors chose 25 by hand for one organ (Medical Image Analysis 2024). Here any corpus gives its own, in
any language: of all words and phrases, those that together tell most about which others a report has. That is
a facility location: the chosen set S maximises Σ over all candidates u of max over t in S of I(t; u), with I
the mutual information of "t occurs in a report" and "u occurs". A phrase that says the same as a chosen one
adds nothing, so the set has no synonyms, and a rare word adds little. Greedy choice reaches at least 63 % of
the best set's sum.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from histgen_lib.errors import InvalidInputError

PUBLISHED_COUNT = 25

_LONGEST_PHRASE = 3
_LONGEST_LINE = 8
_MOST_CANDIDATES = 2000
_LEAST_GAIN = 1e-9
_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|"
    r"(?:(?![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])\w)+(?:[-'’]\w+)*"
)
"""A word; or one sign of a script without spaces between words (Thai, Khmer, Japanese, Chinese, …)."""
_BREAK = re.compile(r"[\n\r.,;!?()\[\]{}/|•。、，；！？（）「」]+")
"""Ends a run of words. A colon does not, so that "Grade: 2" is one phrase."""
_LEAST_ENDINGS = 0.1
_LETTER = re.compile(r"[^\W\d_]")

Phrase = tuple[str, ...]
Spans = list[list[str]]


def mine_prompts(reports: Sequence[str], count: int = PUBLISHED_COUNT) -> tuple[str, ...]:
    """Return at most `count` prompts, the most telling first, as they are mostly spelled in the reports.

    The same reports give the same prompts in any order. There are fewer if fewer phrases tell reports apart.
    Raises InvalidInputError("prompts-none") if no phrase does: fewer than two different reports, or no word
    in two of them.
    """
    weights = Counter(reports)
    texts = sorted(weights)
    parts = [_parts(text) for text in texts]
    counts = np.array([weights[text] for text in texts], dtype=np.int64)
    names, occurs = _telling(_candidates(parts, counts), counts, parts)
    if not names:
        raise InvalidInputError(
            "prompts-none",
            f"No word or phrase tells these {len(reports)} reports apart.",
            hint="Give more reports, in the annotation's train split.",
        )
    chosen = _greedy(_information(occurs, counts / counts.sum()), count)
    spelling = _spellings(texts, {names[place] for place in chosen})
    return tuple(spelling[names[place]] for place in chosen)


def prompt_sets(reports: Sequence[str], prompts: Sequence[str]) -> NDArray[np.bool_]:
    """Return which prompts occur in which report, as whole words and without regard to case: bool[N, P]."""
    wanted = [tuple(word for part in _parts(prompt) for word in part) for prompt in prompts]
    found = np.zeros((len(reports), len(prompts)), dtype=np.bool_)
    for row, report in enumerate(reports):
        parts = _parts(report)
        found[row] = [any(_holds(part, phrase) for part in parts) for phrase in wanted]
    return found


def _parts(text: str) -> Spans:
    """Split a text at punctuation and line ends into runs of folded words."""
    runs = ([match[0].casefold() for match in _WORD.finditer(part)] for part in _BREAK.split(text))
    return [run for run in runs if run]


def _holds(part: Sequence[str], phrase: Phrase) -> bool:
    size = len(phrase)
    return bool(size) and any(tuple(part[at : at + size]) == phrase for at in range(len(part) - size + 1))


def _phrases(part: Sequence[str]) -> Iterator[Phrase]:
    """Yield the phrases of up to three words, and the whole run if it has up to eight."""
    for size in range(1, _LONGEST_PHRASE + 1):
        yield from (tuple(part[at : at + size]) for at in range(len(part) - size + 1))
    if _LONGEST_PHRASE < len(part) <= _LONGEST_LINE:
        yield tuple(part)


def _candidates(parts: Sequence[Spans], counts: NDArray[np.int64]) -> dict[Phrase, frozenset[int]]:
    """Return phrases of two reports or more, but not of all, and the rows of the texts with each.

    A bare number is none. Nor are words that hardly ever end a run of words ("of", "with", "invasive"): they
    are the beginnings and the joints of phrases, in any language.
    """
    rows: dict[Phrase, set[int]] = defaultdict(set)
    ends: dict[Phrase, set[int]] = defaultdict(set)
    for row, spans in enumerate(parts):
        for span in spans:
            for phrase in _phrases(span):
                rows[phrase].add(row)
            for size in range(1, min(len(span), _LONGEST_LINE) + 1):
                ends[tuple(span[-size:])].add(row)
    return {
        phrase: frozenset(found)
        for phrase, found in rows.items()
        if 2 <= _number(found, counts) < counts.sum()
        and _LETTER.search("".join(phrase))
        and len(ends.get(phrase, ())) >= _LEAST_ENDINGS * len(found)
    }


def _telling(
    found: Mapping[Phrase, frozenset[int]], counts: NDArray[np.int64], parts: Sequence[Spans]
) -> tuple[list[Phrase], NDArray[np.bool_]]:
    """Keep one phrase of those that occur in the same reports, and of these the most informative.

    The one kept is a whole run of words if there is one ("mucinous adenocarcinoma"), else the shortest.
    Returns them and where they occur: bool[texts, phrases].
    """
    whole = {tuple(span) for spans in parts for span in spans}
    best: dict[frozenset[int], Phrase] = {}
    for phrase in sorted(found, key=lambda one: (one not in whole, len(one), one)):
        best.setdefault(found[phrase], phrase)
    kept = sorted(best.values())
    chance = np.array([_number(found[phrase], counts) for phrase in kept]) / counts.sum()
    names = [kept[at] for at in np.argsort(-_entropy(chance), kind="stable")[:_MOST_CANDIDATES]]
    occurs = np.zeros((len(parts), len(names)), dtype=np.bool_)
    for column, name in enumerate(names):
        occurs[list(found[name]), column] = True
    return names, occurs


def _number(rows: Collection[int], counts: NDArray[np.int64]) -> int:
    """Return in how many reports it is what occurs in the texts `rows`."""
    return int(counts[list(rows)].sum())


def _entropy(chance: NDArray[np.float64]) -> NDArray[np.float64]:
    return -(_x_log_x(chance) + _x_log_x(1 - chance))


def _x_log_x(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x > 0, x * np.log(np.maximum(x, 1e-300)), 0.0)


def _information(occurs: NDArray[np.bool_], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mutual information of each two phrases, float64[C, C], in nats; H(t) on the diagonal."""
    table = occurs.astype(np.float64)
    alone = share @ table
    both = (table * share[:, None]).T @ table
    one, other = alone[:, None] - both, alone[None, :] - both
    cells = (both, one, other, 1 - both - one - other)
    joint = -sum(_x_log_x(np.clip(cell, 0, 1)) for cell in cells)
    entropy = _entropy(alone)
    return np.asarray(np.clip(entropy[:, None] + entropy[None, :] - joint, 0, None), dtype=np.float64)


def _greedy(information: NDArray[np.float64], count: int) -> list[int]:
    """Choose columns one by one, each adding most to what the chosen ones tell about all."""
    told = np.zeros(len(information))
    chosen: list[int] = []
    while len(chosen) < min(count, len(information)):
        gains = np.clip(information - told, 0, None).sum(axis=1)
        best = int(np.round(gains, 9).argmax())
        if gains[best] < _LEAST_GAIN:
            break
        chosen.append(best)
        told = np.maximum(told, information[best])
    return chosen


def _spellings(texts: Sequence[str], wanted: set[Phrase]) -> dict[Phrase, str]:
    """Return each phrase as it is spelled most often; of equally frequent spellings the first by name."""
    found: dict[Phrase, Counter[str]] = {phrase: Counter() for phrase in wanted}
    sizes = {len(phrase) for phrase in wanted}
    for text in texts:
        for part in _BREAK.split(text):
            places = [match.span() for match in _WORD.finditer(part)]
            for size in sizes:
                for at in range(len(places) - size + 1):
                    words = places[at : at + size]
                    phrase = tuple(part[start:end].casefold() for start, end in words)
                    if phrase in found:
                        found[phrase][" ".join(part[words[0][0] : words[-1][1]].split())] += 1
    return {phrase: min(spelled, key=lambda s: (-spelled[s], s)) for phrase, spelled in found.items()}
