"""The service level objective: how fast its error budget is spent, what is left, and which alerts fire."""

from __future__ import annotations

from parts import HERE, Limits, Query, Row, board, chart, number

_BUDGET = "scalar(histgen:slo_budget:ratio)"
_GOOD = f'sum(increase(histgen_scan_to_draft_seconds_bucket{{{HERE}, le="900.0"}}[30d]))'
_ENDED = (
    f"sum(increase(histgen_scan_to_draft_seconds_count{{{HERE}}}[30d])"
    f" or increase(histgen:our_dead_letters:total{{{HERE}}}[30d]))"
)
_FIRING = 'alertname=~"Histgen.*", alertstate="firing"'


def _ratio(window: str) -> str:
    return f"max(histgen:slides_bad:ratio{window}{{{HERE}}})"


_STANDING = Row(
    "Is the objective met?",
    [
        number(
            "Objective",
            "The share of slides that should have their draft within 15 minutes of the scan.",
            "percentunit",
            Query(f'1 - {_BUDGET} + 0 * count(up{{{HERE}, job="histgen"}})', "objective"),
            span=6,
        ),
        number(
            "In time, last three days",
            "The share of slides that had it: those with a fault of their own are left out.",
            "percentunit",
            Query(f"1 - {_ratio('3d')}", "in time"),
            limits=Limits(0.99, 0.98, falling=True),
            runbook="HistgenBurnRateSlow",
            span=6,
        ),
        number(
            "Error budget left, 30 days",
            "1: untouched, 0: spent. Over what Prometheus has kept, if that is less than 30 days.",
            "percentunit",
            Query(f"1 - (1 - {_GOOD} / ({_ENDED} > 0)) / {_BUDGET}", "left"),
            limits=Limits(0.5, 0.1, falling=True),
            runbook="HistgenBurnRateSlow",
            span=6,
        ),
        number(
            "Oldest unfinished slide",
            "Seconds since its scan: what spends the budget next, also where slides are few.",
            "s",
            Query(f"max(histgen:oldest_unfinished_seconds{{{HERE}}})", "oldest"),
            limits=Limits(900, 3600),
            runbook="HistgenSlideWaits",
            span=6,
        ),
    ],
)
_BURNING = Row(
    "How fast is the budget spent?",
    [
        chart(
            "Burn rate, one hour and five minutes",
            "1: the budget lasts exactly a month. Above 14.4 in both, HistgenBurnRateFast pages.",
            "suffix: ×",
            Query(f"{_ratio('1h')} / {_BUDGET}", "1 h"),
            Query(f"{_ratio('5m')} / {_BUDGET}", "5 min"),
            limits=Limits(6, 14.4),
            runbook="HistgenBurnRateFast",
        ),
        chart(
            "Burn rate, six hours and half an hour",
            "Above 6 in both, HistgenBurnRateMedium pages.",
            "suffix: ×",
            Query(f"{_ratio('6h')} / {_BUDGET}", "6 h"),
            Query(f"{_ratio('30m')} / {_BUDGET}", "30 min"),
            limits=Limits(1, 6),
            runbook="HistgenBurnRateMedium",
        ),
        chart(
            "Burn rate, three days",
            "Above 1 here and over six hours, HistgenBurnRateSlow files a ticket.",
            "suffix: ×",
            Query(f"{_ratio('3d')} / {_BUDGET}", "3 d"),
            limits=Limits(0.8, 1),
            runbook="HistgenBurnRateSlow",
        ),
        chart(
            "Slides that ended badly",
            "Drafts later than 15 minutes and dead letters through our fault, beside all, over six hours.",
            "short",
            Query(f"sum(histgen:slides_ended:increase6h{{{HERE}}})", "all"),
            Query(f"sum(histgen:slides_bad:increase6h{{{HERE}}})", "badly"),
            runbook="HistgenBurnRateMedium",
        ),
    ],
)
_WHY = Row(
    "Why?",
    [
        chart(
            "Late drafts",
            "Share of drafts that took longer than 15 minutes, over the chosen interval.",
            "percentunit",
            Query(
                f'1 - sum(rate(histgen_scan_to_draft_seconds_bucket{{{HERE}, le="900.0"}}[$interval]))'
                f" / (sum(rate(histgen_scan_to_draft_seconds_count{{{HERE}}}[$interval])) > 0)",
                "late",
            ),
            limits=Limits(0.01, 0.144),
        ),
        chart(
            "Alerts that fire",
            "Alerts that are firing, by name and severity.",
            "short",
            Query(
                f"count by (alertname, severity) (ALERTS{{{HERE}, {_FIRING}}})",
                "{{alertname}} ({{severity}})",
            ),
            stacked=True,
        ),
    ],
)

BOARD = board(
    "histgen-slo",
    "HistGen: objective and error budget",
    "99 % of slides have their draft within 15 minutes of the scan: how fast the rest is spent, and on what.",
    [_STANDING, _BURNING, _WHY],
    by="",
)
