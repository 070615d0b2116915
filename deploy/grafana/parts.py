"""What the dashboards are made of: variables, charts, numbers, and boards of rows of them.

Every query is for one data source, one or all namespaces, and the interval that is chosen above the board.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableModel,
    VariableOption,
    VariableRefresh,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
HERE = 'namespace=~"$namespace"'
"""What every query selects by. Targets without a namespace, as on a workstation, match "All"."""
WORKER = f'{HERE}, worker=~"$worker"'
TRITON = f'{HERE}, job="histgen-triton"'
MODEL = f'{TRITON}, model=~"$model"'
INTERVALS = ("5m", "15m", "1h", "6h", "1d")

Panel = stat.Panel | timeseries.Panel
P = TypeVar("P", stat.Panel, timeseries.Panel)


@dataclass(frozen=True)
class Query:
    """A query, and the text of its series in the legend."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Limits:
    """From where on a value is worth a look, and bad; the other way around if `falling`."""

    warning: float
    critical: float
    falling: bool = False

    def steps(self) -> dashboard.ThresholdsConfig:
        """Return them as Grafana's colours."""
        if self.falling:
            steps = [("red", None), ("orange", self.critical), ("green", self.warning)]
        else:
            steps = [("green", None), ("orange", self.warning), ("red", self.critical)]
        made = [Threshold(value=value, color=color) for color, value in steps]
        return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(made)


@dataclass(frozen=True)
class Row:
    """A row of a board: one question, and the panels that answer it."""

    title: str
    panels: Sequence[Panel]


def chart(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    limits: Limits | None = None,
    stacked: bool = False,
    runbook: str = "",
    span: int = 12,
) -> timeseries.Panel:
    """Draw queries over time; `unit` is one of Grafana's, `runbook` an alert's name."""
    legend = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
    panel = (
        timeseries.Panel()
        .legend(legend.placement(LegendPlacement.BOTTOM).calcs(["lastNotNull"]))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .min(0)
        .height(8)
        .fill_opacity(40 if stacked else 8)
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().group("A").mode(StackingMode.NORMAL))
    if limits:
        style = common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.LINE)
        panel = panel.thresholds(limits.steps()).thresholds_style(style)
    return _finish(
        panel,
        title=title,
        description=description,
        unit=unit,
        queries=queries,
        runbook=runbook,
        span=span,
    )


def number(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    limits: Limits | None = None,
    runbook: str = "",
    span: int = 4,
) -> stat.Panel:
    """Show the last value of a query, with its course behind it."""
    panel = (
        stat.Panel()
        .graph_mode(BigValueGraphMode.AREA)
        .color_mode(BigValueColorMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .height(5)
        .thresholds(limits.steps() if limits else _plain())
    )
    return _finish(
        panel,
        title=title,
        description=description,
        unit=unit,
        queries=[query],
        runbook=runbook,
        span=span,
    )


def _plain() -> dashboard.ThresholdsConfig:
    steps = [Threshold(value=None, color="blue")]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _finish(
    panel: P,
    *,
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    runbook: str,
    span: int,
) -> P:
    panel = panel.title(title).description(description).unit(unit).datasource(SOURCE).span(span)
    for ref, query in zip("ABCDEFGH", queries, strict=False):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend)
        panel = panel.with_target(target.ref_id(ref).range().datasource(SOURCE))
    if runbook:
        link = dashboard.DashboardLink(f"Runbook: {runbook}").type(DashboardLinkType.LINK)
        panel = panel.links([link.url(f"${{runbooks:raw}}/{runbook}.md").target_blank(True)])
    return panel


def board(
    uid: str, title: str, description: str, rows: Sequence[Row], *, by: str = "worker"
) -> dashboard.Dashboard:
    """Put rows together; `by`: the second thing to choose, "worker", "model", or "" for none."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["histgen"])
        .timezone("browser")
        .time("now-6h", "now")
        .refresh("30s")
        .editable()
        .link(
            dashboard.DashboardLink("HistGen")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["histgen"])
            .keep_time(True)
            .include_vars(True)
        )
    )
    for variable in _variables(by):
        made = made.with_variable(variable)
    numbers = iter(range(1, 1000))
    for row in rows:
        made = made.with_row(dashboard.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            made = made.with_panel(panel.id(next(numbers)))
    return made


def _variables(by: str) -> list[Builder[VariableModel]]:
    interval = dashboard.IntervalVariable("interval").label("Interval").values(",".join(INTERVALS))
    found: list[Builder[VariableModel]] = [
        dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"),
        _choice("namespace", 'label_values(up{job="histgen"}, namespace)', "Namespace"),
    ]
    if by == "worker":
        found.append(_choice("worker", f"label_values(histgen_in_flight{{{HERE}}}, worker)", "Worker"))
    elif by == "model":
        found.append(_choice("model", f"label_values(nv_inference_count{{{TRITON}}}, model)", "Model"))
    return [
        *found,
        interval.description("What counts and quantiles are taken over; longer where slides are few.")
        .current(VariableOption(selected=True, text="15m", value="15m"))
        .options([VariableOption(selected=one == "15m", text=one, value=one) for one in INTERVALS]),
        dashboard.TextBoxVariable("runbooks")
        .label("Runbooks")
        .description("Where your copy of docs/runbooks/ is served.")
        .default_value("docs/runbooks"),
    ]


def _choice(name: str, query: str, label: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text="All", value="$__all"))
    )


def mean(metric: str, selector: str, by: str, *, per: str = "$interval") -> str:
    """Return the query of a histogram's mean."""
    seconds, times = (
        f"sum by ({by}) (rate({metric}_{part}{{{selector}}}[{per}]))" for part in ("sum", "count")
    )
    return f"{seconds} / ({times} > 0)"
