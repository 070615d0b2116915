"""From scan to draft: how long it takes, what waits, what is not drafted and why."""

from __future__ import annotations

from parts import HERE, WORKER, Limits, Query, Row, board, chart, number

_BUCKETS = f"sum by (le) (rate(histgen_scan_to_draft_seconds_bucket{{{HERE}}}[$interval]))"
_DRAFTS = f"sum(rate(histgen_scan_to_draft_seconds_count{{{HERE}}}[$interval]))"
_DISTANCES = f"sum by (le) (rate(histgen_domain_distance_bucket{{{HERE}}}[$interval]))"
_AGE = Limits(900, 3600)

_NOW = Row(
    "Now",
    [
        number(
            "Oldest unfinished slide",
            "Seconds since the scan of the slide that has waited longest for its draft.",
            "s",
            Query(f"max(histgen:oldest_unfinished_seconds{{{HERE}}})", "oldest"),
            limits=_AGE,
            runbook="HistgenSlideWaits",
        ),
        number(
            "Unfinished slides",
            "Slides that are scanned or encoded and have no draft yet.",
            "short",
            Query(
                f'sum(max by (namespace, state) (histgen_slides{{{HERE}, state=~"scanned|bagged"}}))',
                "unfinished",
            ),
        ),
        number(
            "In flight",
            "Records that are being processed.",
            "short",
            Query(f"sum(histgen:in_flight{{{WORKER}}})", "in flight"),
        ),
        number(
            "Drafts per hour",
            "Slides drafted per hour, over the chosen interval.",
            "suffix: /h",
            Query(f"3600 * {_DRAFTS}", "drafts"),
        ),
        number(
            "Dead letters, last hour",
            "Slides that ended without a draft within the hour.",
            "short",
            Query(f"sum(histgen:dead_letters:increase1h{{{HERE}}})", "dead letters"),
            limits=Limits(1, 10),
            runbook="HistgenDeadLetters",
        ),
        number(
            "Set aside",
            "Records that failed for a temporary reason and are tried again while others pass them.",
            "short",
            Query(f"sum(histgen_set_aside{{{WORKER}}})", "set aside"),
            limits=Limits(1, 50),
            runbook="HistgenRetries",
        ),
    ],
)
_TIME = Row(
    "How long does a slide take?",
    [
        chart(
            "Scan to draft",
            "Seconds from scan to draft: the median, and what 95 and 99 of 100 slides stay below.",
            "s",
            *(Query(f"histogram_quantile(0.{q}, {_BUCKETS})", f"p{q}") for q in (50, 95, 99)),
            limits=_AGE,
            runbook="HistgenBurnRateFast",
        ),
        chart(
            "Oldest unfinished slide",
            "Seconds since the scan of the slide that has waited longest; it falls with that slide's draft.",
            "s",
            Query(f"max(histgen:oldest_unfinished_seconds{{{HERE}}})", "oldest"),
            limits=_AGE,
            runbook="HistgenSlideWaits",
        ),
        chart(
            "Slides per hour",
            "Slides that came in, and drafts that were made, per hour over the chosen interval.",
            "suffix: /h",
            Query(
                f"3600 * sum by (via) (rate(histgen_slides_seen_total{{{HERE}}}[$interval]))",
                "in, by {{via}}",
            ),
            Query(f"3600 * {_DRAFTS}", "drafted"),
        ),
        chart(
            "In flight, by worker",
            "Records that are being processed.",
            "short",
            Query(f"sum by (worker) (histgen:in_flight{{{WORKER}}})", "{{worker}}"),
            stacked=True,
        ),
    ],
)
_ENDS = Row(
    "Which slides get no draft, or one that should not be trusted?",
    [
        chart(
            "Dead letters by code",
            "Slides that ended without a draft within the last hour, by error code (docs/errors.md).",
            "short",
            Query(f"sum by (code) (histgen:dead_letters:increase1h{{{HERE}}}) > 0", "{{code}}"),
            stacked=True,
            runbook="HistgenDeadLetters",
        ),
        chart(
            "Refused by the gateway",
            "Slides per hour that the gateway refused to announce, by error code.",
            "suffix: /h",
            Query(
                f"3600 * sum by (code) (rate(histgen_slides_refused_total{{{HERE}}}[$interval]))", "{{code}}"
            ),
            stacked=True,
        ),
        chart(
            "Abstention and out-of-distribution share",
            "Share of drafts that the model does not stand by, and of slides unlike those it was trained on.",
            "percentunit",
            Query(
                f"sum(rate(histgen_abstentions_total{{{HERE}}}[$interval])) / ({_DRAFTS} > 0)", "abstained"
            ),
            Query(
                f"sum(rate(histgen_out_of_distribution_total{{{HERE}}}[$interval])) / ({_DRAFTS} > 0)",
                "out of distribution",
            ),
            Query(f"histgen:abstentions:ratio1d{{{HERE}}}", "abstained, last day"),
            limits=Limits(0.2, 0.5),
            runbook="HistgenAbstentionShift",
        ),
        chart(
            "Distance from the training slides",
            "How unlike the training slides drafted slides are: beyond 1 a slide is out of distribution.",
            "short",
            Query(f"histogram_quantile(0.5, {_DISTANCES})", "median"),
            Query(f"histogram_quantile(0.95, {_DISTANCES})", "p95"),
            limits=Limits(0.8, 1),
            runbook="HistgenEmbeddingDrift",
        ),
    ],
)
_STANDING = Row(
    "Where do slides stand?",
    [
        chart(
            "Slides by state",
            "All slides that the gateway knows: scanned, bagged (encoded), drafted, dead-letter.",
            "short",
            Query(f"sum by (state) (max by (namespace, state) (histgen_slides{{{HERE}}}))", "{{state}}"),
        ),
        chart(
            "Jobs by outcome",
            "Jobs per hour. found: the results were there already; handed-back: stopped, and done elsewhere.",
            "suffix: /h",
            Query(
                f"3600 * sum by (worker, outcome) (rate(histgen_jobs_total{{{WORKER}}}[$interval]))",
                "{{worker}} {{outcome}}",
            ),
        ),
    ],
)

BOARD = board(
    "histgen-pipeline",
    "HistGen: pipeline",
    "From scan to draft: how long it takes, what waits, what is not drafted and why.",
    [_NOW, _TIME, _ENDS, _STANDING],
)
