"""The pictures of docs/capacity.md. They need matplotlib, which only developers install."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histgen_lib.capacity.planner import Plan
from histgen_lib.capacity.scenarios import ASSUMED, CASES, NOON, case_result, day_result, plan_of
from histgen_lib.capacity.simulation.result import Result

COLOURS = ("#1f77b4", "#d95f02", "#444444")


def draw_all(folder: Path) -> list[Path]:
    """Draw every picture into a folder; the same simulations give the same pictures."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    folder.mkdir(parents=True, exist_ok=True)
    return [
        draw_day(folder / "day.png", 1_000_000, ASSUMED),
        draw_troubles(folder / "troubles.png"),
        draw_night(folder / "night.png"),
    ]


def draw_day(path: Path, slides: int, gpu: str) -> Path:
    """Draw a day: slides that come, pods that follow, slides that wait."""
    plan, result = plan_of(slides, gpu), day_result(slides, gpu)
    figure, axes = _figure(3, f"{slides:,} slides in a working day, GPUs assumed to encode 2,000 tiles/s")
    hours = np.arange(24) + 0.5
    came = np.histogram(result.arrivals_s / 3600, bins=np.arange(25))[0]
    axes[0].bar(hours, came, width=0.9, color=COLOURS[0])
    axes[0].set_ylabel("slides an hour")
    _pods(axes[1], plan, result)
    _waiting(axes[2], result)
    return _save(figure, axes, path)


def draw_troubles(path: Path) -> Path:
    """Draw, for the slides of each minute, how long they took, on days on which something happens."""
    cases = [CASES[0], CASES[3], CASES[4]]
    figure, axes = _figure(
        len(cases), "10,000 slides on CPUs: the slowest slide of each minute, minutes to its draft"
    )
    top = max(float(np.nanmax(_slowest(case_result(case)))) for case in cases)
    for axis, case, colour in zip(axes, cases, COLOURS, strict=True):
        slowest = _slowest(case_result(case))
        axis.plot(np.arange(len(slowest)) / 60, slowest, color=colour, linewidth=0.8)
        axis.set_title(case.name, loc="left", fontsize=9)
        axis.set_ylabel("minutes")
        axis.set_ylim(0, top * 1.05)
        axis.axhline(15, color="#999999", linewidth=0.8, linestyle="--")
        if case.troubles:
            axis.axvline(NOON / 3600, color="#999999", linewidth=0.8)
    return _save(figure, axes, path)


def draw_night(path: Path) -> Path:
    """Draw a night's batch: pods that follow it, and slides that wait meanwhile."""
    plan, result = plan_of(10_000, profile="night"), day_result(10_000, profile="night")
    figure, axes = _figure(3, "10,000 slides on CPUs, most of them announced from 18 to 20 o'clock")
    came = np.histogram(result.arrivals_s / 3600, bins=np.arange(25))[0]
    axes[0].bar(np.arange(24) + 0.5, came, width=0.9, color=COLOURS[0])
    axes[0].set_ylabel("slides an hour")
    _pods(axes[1], plan, result)
    _waiting(axes[2], result)
    return _save(figure, axes, path)


def _figure(rows: int, title: str) -> tuple[Any, Any]:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, 1, figsize=(7.5, 1.9 * rows + 0.6), sharex=True)
    figure.suptitle(title, x=0.02, ha="left", fontsize=10, fontweight="bold")
    return figure, axes


def _pods(axis: Any, plan: Plan, result: Result) -> None:
    hours = [sample.at_s / 3600 for sample in result.samples]
    for number, (name, colour) in enumerate(zip(plan.services, COLOURS, strict=False)):
        ready = [sample.ready[number] for sample in result.samples]
        axis.step(hours, ready, where="post", color=colour, linewidth=1.2, label=f"{name}s")
    axis.set_ylabel("pods that are ready")
    axis.legend(frameon=False, loc="upper left")
    axis.set_ylim(bottom=0)


def _waiting(axis: Any, result: Result) -> None:
    hours = [sample.at_s / 3600 for sample in result.samples]
    axis.plot(hours, [sum(sample.waiting) for sample in result.samples], color=COLOURS[2], linewidth=0.8)
    axis.set_ylabel("slides that wait")
    axis.set_ylim(bottom=0)


def _slowest(result: Result) -> NDArray[np.float64]:
    """Return minutes to the draft, of the slowest of the slides that came in each minute of the day."""
    minutes = np.full(24 * 60, np.nan)
    took = result.scan_to_draft_s / 60
    np.fmax.at(minutes, (result.arrivals_s // 60).astype(int), took)
    return minutes


def _save(figure: Any, axes: Any, path: Path) -> Path:
    from matplotlib import pyplot

    axes[-1].set_xlim(0, 24)
    axes[-1].set_xticks(range(0, 25, 2))
    axes[-1].set_xlabel("hour of the day")
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return path
