"""A plan in words and rows: what people read, and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from histgen_lib.capacity.costs import UNITS, amounts_of, costs_of, drivers, network_of, storage_of
from histgen_lib.capacity.planner import BUSY_MOST, SURGE, UNEVEN_MOST, Plan
from histgen_lib.capacity.simulation.result import Result
from histgen_lib.capacity.values import values_of

Rows = list[tuple[str, ...]]


def workers_of(plan: Plan) -> Rows:
    """Return a row for each service and for the GPUs, below a heading."""
    rows: Rows = [("what", "needed", "spare", "a job", "busiest", "one gone", "update takes")]
    for name, service in plan.services.items():
        rows.append(
            (
                f"{name} (one core)",
                str(service.needed),
                str(service.spare),
                duration(service.job_s),
                percent(service.load),
                percent(service.load_less),
                duration(plan.update_s(name)),
            )
        )
    if (gpus := plan.gpus) is not None:
        name, load, less = f"Triton with one {gpus.name}", percent(gpus.load), percent(gpus.load_less)
        rows.append((name, str(gpus.needed), str(gpus.spare), "", load, less, ""))
    return rows


def predicted_of(plan: Plan) -> str:
    """Say how long a slide takes in the busiest hour."""
    parts = ", ".join(f"p{part:g} {duration(seconds)}" for part, seconds in plan.draft_s.items())
    return f"scan to draft in the busiest hour: {parts}"


def things_of(plan: Plan, prices: Mapping[str, float], pod_hours: float | None = None) -> Rows:
    """Return rows about storage, network, and costs if there are prices."""
    storage, network = storage_of(plan), network_of(plan)
    rows: Rows = [("partitions of each topic", str(plan.partitions))]
    rows += [(f"storage, {kind}", f"{size(day)} a day") for kind, day in storage.per_day.items()]
    rows += [("storage, all", f"{size(storage.day)} a day, {size(storage.day * 365)} a year")]
    rows += [("storage, broker", f"{size(storage.broker)} (90 days, 3 copies)")]
    rows += [(f"network, {way}", f"{size(per_s)}/s") for way, per_s in network.items()]
    amounts = amounts_of(plan, pod_hours)
    rows += [(UNITS[name], f"{amount:,.0f} a day") for name, amount in amounts.items() if amount]
    costs = costs_of(plan, prices, pod_hours)
    total = sum(costs.values())
    rows += [
        (f"cost, {UNITS[n]}", f"{cost:,.2f} a day, {percent(cost / total)}")
        for n, cost in costs.items()
        if total
    ]
    return rows


def assumptions_of(plan: Plan) -> list[str]:
    """Say what figures come from, and which are nobody's measurement."""
    measured, assumed = plan.rates.measured, plan.assumed
    lines = [
        f"Seconds and bytes: {measured.command}, {measured.date}, one core of {measured.processor}, "
        f"model {measured.model}, encoder {measured.encoder}.",
        f"Planned to be busy for {percent(BUSY_MOST)} of the busiest hour ({plan.demand.peak:.1f} times the "
        f"average) at most; {percent(UNEVEN_MOST)} for the worker whose partitions have most to do.",
        f"Assumed: slides' tiles vary by {percent(plan.demand.spread)}; a pod's process starts after "
        f"{duration(assumed.pod_s)}; the pods of a lost node come back after {duration(assumed.lost_s)}; "
        f"a node fails every {assumed.node_days:g} days, and takes one pod of a kind with it: where more of "
        f"them are on a node, have as many spares; updates start {percent(SURGE)} more pods.",
    ]
    if (gpus := plan.gpus) is not None:
        source = gpus.rates.source or "ASSUMED, NOT MEASURED"
        report = gpus.rates.report_s
        lines.append(
            f"{gpus.name}: {gpus.rates.tiles_per_second:,.0f} tiles/s"
            + (f", a report in {report:g} s" if report is not None else ", reports on the reporters' cores")
            + f": {source}."
        )
    return lines


def simulated_of(plan: Plan, result: Result) -> Rows:
    """Return rows about a simulated day of a plan."""
    peaks = [max(sample.ready[n] for sample in result.samples) for n in range(len(result.stations))]
    rows: Rows = [
        ("slides", f"{result.slides:,}: {result.drafts:,} drafts, {result.letters:,} dead letters"),
        (
            "scan to draft",
            ", ".join(f"p{part:g} {duration(result.draft_s(part))}" for part in plan.draft_s),
        ),
        ("most waiting at a time", f"{result.most_waiting:,}"),
    ]
    for (name, station), most in zip(result.stations.items(), peaks, strict=True):
        rows.append(
            (
                f"{name} pods",
                f"at most {most}, {station.pod_hours:,.0f} pod hours, busy {percent(station.utilisation)}, "
                f"{station.redone:,} jobs done again",
            )
        )
    if result.gpu_hours:
        rows.append(("GPUs", f"busy {percent(result.gpu_busy_hours / result.gpu_hours)}"))
    rows.append(("simulated", f"{result.events:,} events in {result.took_s:.1f} s"))
    return rows


def json_of(plan: Plan, prices: Mapping[str, float], result: Result | None = None) -> dict[str, Any]:
    """Return everything as JSON."""
    pod_hours = sum(one.pod_hours for one in result.stations.values()) if result else None
    shown = {
        "demand": asdict(plan.demand) | {"peak": plan.demand.peak},
        "goal": asdict(plan.goal),
        "rates": plan.rates.to_json(),
        "assumed": asdict(plan.assumed),
        "services": {
            n: asdict(s) | {"most": s.most, "update_s": plan.update_s(n)} for n, s in plan.services.items()
        },
        "gpus": asdict(plan.gpus) | {"most": plan.gpus.most} if plan.gpus else None,
        "partitions": plan.partitions,
        "draft_s": {f"p{part:g}": seconds for part, seconds in plan.draft_s.items()},
        "storage_bytes_per_day": dict(storage_of(plan).per_day),
        "broker_bytes": storage_of(plan).broker,
        "network_bytes_per_s": network_of(plan),
        "amounts_per_day": amounts_of(plan, pod_hours),
        "costs_per_day": costs_of(plan, prices, pod_hours),
        "drivers": drivers(plan),
        "says": assumptions_of(plan),
        "values": values_of(plan),
    }
    return shown | ({"simulated": _result_json(plan, result)} if result else {})


def _result_json(plan: Plan, result: Result) -> dict[str, Any]:
    return {
        "slides": result.slides,
        "drafts": result.drafts,
        "letters": result.letters,
        "draft_s": {f"p{part:g}": result.draft_s(part) for part in plan.draft_s},
        "most_waiting": result.most_waiting,
        "per_hour": result.per_hour,
        "gpu_hours": result.gpu_hours,
        "gpu_busy_hours": result.gpu_busy_hours,
        "services": {
            name: {
                "pod_hours": station.pod_hours,
                "busy_hours": station.busy_hours,
                "redone": station.redone,
                "wait_s": float(station.waits_s.mean()) if len(station.waits_s) else 0.0,
            }
            for name, station in result.stations.items()
        },
    }


def duration(seconds: float) -> str:
    """Write seconds as people say them."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def percent(share: float) -> str:
    """Write a share."""
    return f"{100 * share:.0f} %"


def size(count: float) -> str:
    """Write bytes."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} PiB"
