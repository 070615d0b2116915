"""The index of cases: what it holds, whether it follows what is said, and what is searched in it."""

from __future__ import annotations

from parts import HERE, WORKER, Limits, Panel, Query, Row, board, chart, mean, number

_LIBRARIAN = f'{WORKER}, worker="librarian"'


def _holds(title: str, kind: str) -> Panel:
    return number(
        title,
        f"How many {kind} the index holds, as the search services see it.",
        "short",
        Query(f'max(histgen_case_index_holds{{{HERE}, kind="{kind}"}})', kind),
        span=6,
    )


_CONTENT = Row(
    "What is in it?",
    [
        _holds("Cases", "cases"),
        _holds("Slides", "slides"),
        _holds("Regions", "regions"),
        number(
            "Size",
            "Bytes of the index in its storage.",
            "bytes",
            Query(f"max(histgen_case_index_bytes{{{HERE}}})", "size"),
            span=6,
        ),
        chart(
            "Cases over time",
            "Cases, slides and regions that the index holds.",
            "short",
            Query(f"max by (kind) (histgen_case_index_holds{{{HERE}}})", "{{kind}}"),
        ),
        chart(
            "Version",
            "The version of the index; it rises with every rebuild and compaction.",
            "short",
            Query(f"max by (instance) (histgen_case_index_version{{{HERE}}})", "{{instance}}"),
        ),
    ],
)
_FOLLOWS = Row(
    "Does it follow?",
    [
        chart(
            "What waits for the librarian",
            "Seconds since the oldest draft, signature or withdrawal that is not in the index yet.",
            "s",
            Query(f"max(histgen:backlog_oldest_seconds{{{_LIBRARIAN}}})", "waits"),
            limits=Limits(900, 1800),
            runbook="HistgenCaseIndexOld",
        ),
        chart(
            "Behind",
            "Seconds since a search service last saw the index.",
            "s",
            Query(f"max by (instance) (histgen_case_index_behind_seconds{{{HERE}}})", "{{instance}}"),
            limits=Limits(60, 300),
            runbook="HistgenCaseIndexOld",
        ),
        chart(
            "Written and withdrawn",
            "Slides per hour that were written to the index, and removed from it as withdrawn.",
            "suffix: /h",
            Query(f"3600 * sum(rate(histgen_cases_shelved_total{{{_LIBRARIAN}}}[$interval]))", "written"),
            Query(f"3600 * sum(rate(histgen_cases_withdrawn_total{{{_LIBRARIAN}}}[$interval]))", "withdrawn"),
        ),
        chart(
            "Seconds a stage",
            "Seconds that a stage takes on average: encoding, writing, withdrawing, compacting.",
            "s",
            Query(mean("histgen_stage_seconds", _LIBRARIAN, "stage"), "{{stage}}"),
        ),
    ],
)
_SEARCHED = Row(
    "What is searched?",
    [
        chart(
            "Searches by outcome",
            "Searches per minute, by outcome.",
            "suffix: /min",
            Query(
                f"60 * sum by (outcome) (rate(histgen_searches_total{{{HERE}}}[$__rate_interval]))",
                "{{outcome}}",
            ),
        ),
        chart(
            "Seconds a search",
            "Time in which 95 of 100 searches are answered, by task.",
            "s",
            Query(
                "histogram_quantile(0.95, sum by (task, le) "
                f"(rate(histgen_search_seconds_bucket{{{HERE}}}[$interval])))",
                "{{task}}",
            ),
        ),
    ],
)

BOARD = board(
    "histgen-cases",
    "HistGen: cases",
    "What the index of cases holds, whether it follows what is drafted and said, and what is searched in it.",
    [_CONTENT, _FOLLOWS, _SEARCHED],
)
