"""`histgen plan`: how many pods, GPUs and partitions a day's slides take, and how long a draft takes then."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from histgen_lib.cli.options import writable_file
from histgen_lib.cli.output import JsonFlag, emit_json, json_text, out
from histgen_lib.errors import InvalidInputError
from histgen_lib.files import write_atomic
from histgen_lib.models import SHIPPED_MODEL

if TYPE_CHECKING:
    from histgen_lib.capacity.outline import Rows
    from histgen_lib.capacity.planner import Plan
    from histgen_lib.capacity.rates import Rates

SLIDES, SEED = 6, 4711
"""What --measure draws."""


def _file(path: Path | None) -> Path | None:
    return None if path is None else writable_file(path)


def _finite(number: float | None) -> float | None:
    """Refuse "nan", which no range refuses, and "inf"."""
    if number is not None and not math.isfinite(number):
        raise typer.BadParameter(f"{number} is not a finite number.")
    return number


def plan(
    *,
    slides_per_day: Annotated[
        int, typer.Option("--slides-per-day", "-n", min=1, max=5_000_000, help="Slides of a working day.")
    ] = 1_000,
    tiles_per_slide: Annotated[
        float,
        typer.Option(
            "--tiles-per-slide",
            "-m",
            min=1,
            max=1e6,
            help="Tiles of a slide, on average.",
            callback=_finite,
        ),
    ] = 4_000,
    gpu: Annotated[str, typer.Option("--gpu", metavar="TYPE", help="GPU type; cpu for none.")] = "cpu",
    profile: Annotated[
        Literal["flat", "working-hours", "night"],
        typer.Option("--profile", help="When slides come; night: most of them in the evening."),
    ] = "working-hours",
    peak: Annotated[
        float | None,
        typer.Option(
            "--peak", help="Instead: how many times the average the busiest hour has.", callback=_finite
        ),
    ] = None,
    target_minutes: Annotated[
        float,
        typer.Option("--target-minutes", min=0.01, help="Minutes from scan to draft.", callback=_finite),
    ] = 15.0,
    percentile: Annotated[
        float,
        typer.Option(
            "--percentile",
            min=1,
            max=99.9,
            help="Percent of slides for which it holds.",
            callback=_finite,
        ),
    ] = 99.0,
    availability: Annotated[
        float,
        typer.Option(
            "--availability",
            min=0.5,
            max=0.9999999,
            help="Share of time for which it holds.",
            callback=_finite,
        ),
    ] = 0.999,
    tiles_per_second: Annotated[
        float | None,
        typer.Option(
            "--tiles-per-second", min=1, help="Assume that one GPU encodes so many.", callback=_finite
        ),
    ] = None,
    report_seconds: Annotated[
        float | None,
        typer.Option(
            "--report-seconds",
            min=0.001,
            help="And that it takes so long for a report.",
            callback=_finite,
        ),
    ] = None,
    rates: Annotated[
        Path | None, typer.Option("--rates", metavar="FILE", help="Rates measured elsewhere.")
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(
            "--price", metavar="WHAT=PRICE", help="core-hour, gpu-hour or gib-month; can be repeated."
        ),
    ] = None,
    simulate: Annotated[bool, typer.Option("--simulate", help="Simulate a day of this plan.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the simulation.")] = 0,
    values: Annotated[
        Path | None,
        typer.Option("--values", metavar="FILE", help="Write values for the chart.", callback=_file),
    ] = None,
    measure: Annotated[
        Path | None,
        typer.Option(
            "--measure", metavar="FILE", help="Measure this machine first; write its rates.", callback=_file
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="DIR", help="Model folder to measure with, instead of ours."),
    ] = None,
    slides: Annotated[
        list[Path] | None,
        typer.Option("--slide", metavar="FILE", help="Slide to measure with; drawn if none is named."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Plan pods, GPUs, partitions and storage for a number of slides a day.

    Seconds and bytes come from measurements, of which every plan names the machine and the model. A GPU type
    that was not measured is refused, unless you state its rate; the plan then says that you did.

    For example:

      histgen plan --slides-per-day 10000 --tiles-per-slide 4000 --simulate

      histgen plan -n 100000 --gpu l4 --tiles-per-second 1500 --values capacity.yaml
    """
    from histgen_lib.capacity.demand import Demand, hours_of
    from histgen_lib.capacity.outline import json_of
    from histgen_lib.capacity.planner import Goal, make_plan
    from histgen_lib.capacity.rates import SHIPPED, load_rates

    prices = _prices(price or [])
    assumed = tiles_per_second is not None
    _refuse_useless(
        ("--rates", bool(rates and measure), "--measure makes rates of its own: leave one of them out"),
        ("--slide", bool(slides and not measure), "it is to measure with: add --measure FILE"),
        ("--model", bool(model and not measure), "it is to measure with: add --measure FILE"),
        ("--tiles-per-second", assumed and gpu == "cpu", "it is of a GPU: name its type with --gpu"),
        ("--report-seconds", bool(report_seconds) and not assumed, "it goes with --tiles-per-second"),
    )
    figures = (
        _measured(measure, model or SHIPPED_MODEL, slides or []) if measure else load_rates(rates or SHIPPED)
    )
    if tiles_per_second is not None:
        figures = figures.assuming(gpu, tiles_per_second, report_seconds)
    demand = Demand(slides_per_day, tiles_per_slide, hours=hours_of(profile, peak))
    goal = Goal(target_minutes, percentile, availability)
    made = make_plan(demand, figures, gpu=gpu, goal=goal)
    if values is not None:
        from histgen_lib.capacity.values import values_text

        write_atomic(values, values_text(made, _command()).encode())
    result = None
    if simulate:
        from histgen_lib.capacity.rehearsal import day_of
        from histgen_lib.capacity.simulation.day import simulate as run

        result = run(day_of(made, seed=seed))
    if as_json:
        emit_json(json_of(made, prices, result))
        return
    hours = sum(station.pod_hours for station in result.stations.values()) if result else None
    _print(made, prices, hours)
    if result is not None:
        from histgen_lib.capacity.outline import simulated_of

        out().print("\nA simulated day, under the chart's autoscaler:", style="bold")
        _rows(simulated_of(made, result))


def _print(made: Plan, prices: dict[str, float], pod_hours: float | None) -> None:
    from histgen_lib.capacity.costs import drivers
    from histgen_lib.capacity.outline import assumptions_of, predicted_of, things_of, workers_of

    demand = made.demand
    out().print(
        f"{demand.slides_per_day:,} slides a day of {demand.tiles:,.0f} tiles; "
        f"{3600 * demand.peak_per_s:,.0f} slides in the busiest hour",
        style="bold",
    )
    heading, *rows = workers_of(made)
    _rows(rows, heading)
    out().print(predicted_of(made), soft_wrap=True)
    out().print()
    _rows(things_of(made, prices, pod_hours))
    out().print("\nWhat drives it:", style="bold")
    for line in drivers(made):
        out().print(f"- {line}", soft_wrap=True)
    out().print("\nWhere the figures come from:", style="bold")
    for line in assumptions_of(made):
        out().print(f"- {line}", soft_wrap=True)


def _rows(rows: Rows, heading: tuple[str, ...] = ()) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=bool(heading))
    for number in range(len(rows[0])):
        table.add_column(heading[number] if heading else "", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    out().print(table)


def _refuse_useless(*options: tuple[str, bool, str]) -> None:
    """Refuse an option that nothing would come of. Raises InvalidInputError("plan-options").

    Each with whether it is one, and what to do.
    """
    for option, useless, remedy in options:
        if useless:
            raise InvalidInputError(
                "plan-options", f"{option} has no effect here.", hint=f"{option}: {remedy}."
            )


def _prices(stated: list[str]) -> dict[str, float]:
    """Read WHAT=PRICE. Raises InvalidInputError("plan-price")."""
    from histgen_lib.capacity.costs import UNITS

    prices = {}
    for text in stated:
        what, _, number = text.partition("=")
        try:
            prices[what] = float(number)
        except ValueError:
            prices[what] = -1.0
        if what not in UNITS or not 0 <= prices[what] < float("inf"):
            raise InvalidInputError(
                "plan-price",
                f"{text!r} is no price.",
                hint=f"Write WHAT=PRICE, for example gpu-hour=2.5; WHAT is one of {', '.join(UNITS)}.",
            )
    return prices


def _measured(file: Path, model: Path, slides: list[Path]) -> Rates:
    """Measure this machine and write what was found."""
    import tempfile

    from histgen_lib.capacity.measure import measure
    from histgen_lib.synth import generate

    with tempfile.TemporaryDirectory(prefix="histgen-plan-") as folder:
        if not slides:
            generate(Path(folder), SLIDES, SEED)
            slides = sorted((Path(folder) / "slides").glob("*.tif"))
        found = measure(slides, model, command=_command())
    write_atomic(file, f"{json_text(found.to_json())}\n".encode())
    return found


def _command() -> str:
    return " ".join(
        ["histgen", *(Path(part).name if part.startswith("/") else part for part in sys.argv[1:])]
    )
