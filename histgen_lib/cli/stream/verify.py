"""`histgen verify`: check that every object in the store is what was written, and repair what is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histgen_lib.cli.output import JsonFlag, emit_json, err, out
from histgen_lib.cli.stream.options import Bus, Home, Store, StoreEndpoint, reach
from histgen_lib.errors import InvalidInputError
from histgen_lib.names import printable

if TYPE_CHECKING:
    from histgen_lib.catalogue.integrity import Damage
    from histgen_lib.catalogue.repair import Repaired
    from histgen_lib.catalogue.verification import Verification
    from histgen_lib.client.connection import Connection
    from histgen_lib.storage import ObjectStore

DAMAGED = 1
_REFRESH_S = 1.0


def verify(
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what is damaged, once everything is checked.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --repair: only print what would be done.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start over, instead of resuming an interrupted run.")
    ] = False,
    metrics: Annotated[
        Path | None,
        typer.Option(
            "--metrics", metavar="FILE.prom", help="Write metrics for node-exporter's textfile collector."
        ),
    ] = None,
    home: Home = None,
    store: Store = None,
    store_endpoint: StoreEndpoint = None,
    bus: Bus = None,
    as_json: JsonFlag = False,
) -> None:
    """Check that every object in the store is what was written, whether or not the stack runs.

    Reads the whole store; an interrupted run is resumed. From then on histgen status shows what is damaged.
    The exit code is 1 if something is damaged or, with --repair, if something cannot be repaired. Slides
    whose report or bag is damaged are announced again; once the stack has processed them, the same bytes are
    there again.

    For example:

      histgen verify

      histgen verify --repair

      histgen verify --store s3://lab/histgen --metrics /var/lib/node_exporter/histgen.prom --json
    """
    from histgen_lib.catalogue.verification import Verification

    if dry_run and not repair:
        raise InvalidInputError(
            "verify-contradictory",
            "--dry-run has no effect without --repair, since nothing is written.",
            hint="Leave out --dry-run, or add --repair.",
        )
    connection = reach(home, store=store, store_endpoint=store_endpoint, bus=bus)
    opened = connection.store()
    verification = Verification(opened, anew=restart)
    damages = _check(connection, opened, verification, as_json=as_json)
    if metrics:
        _write_metrics(metrics, verification)
    repaired = list(_repair(connection, opened, dry_run=dry_run, as_json=as_json)) if repair else []
    if as_json:
        emit_json(_to_dict(verification, damages, repaired if repair else None, dry_run=dry_run))
    else:
        _print_summary(verification, repaired if repair else None)
    bad = any(not one.done for one in repaired) if repair and not dry_run else bool(damages)
    raise typer.Exit(DAMAGED if bad else 0)


def _check(
    connection: Connection, store: ObjectStore, verification: Verification, *, as_json: bool
) -> list[Damage]:
    """Verify to the end; return all damage, including what an earlier run found."""
    from histgen_lib.catalogue.case import slides_of
    from histgen_lib.catalogue.integrity import noted_damage

    if verification.resumed:
        err().print(f"Resuming after {printable(verification.progress.after)}.", soft_wrap=True)
    with _progress(verification) as show:
        for found in verification.run():
            if found:
                connection.touch_index(slides_of(store, {damage.owner for damage in found}))
            for damage in found if not as_json else ():
                out().print(f"damaged: {printable(str(damage))}", style="red", soft_wrap=True)
            show()
    connection.touch_index(slides_of(store, verification.healed))
    return list(noted_damage(store))


@contextmanager
def _progress(
    verification: Verification, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[], None]]:
    """Show the progress on a terminal. `clock`: monotonic seconds."""
    with err().status("Reading the store …") as status:
        shown_at = clock()

        def show() -> None:
            nonlocal shown_at
            if clock() - shown_at >= _REFRESH_S:
                shown_at = clock()
                status.update(f"{_counts(verification)}; now {printable(verification.progress.after)}")

        yield show


def _repair(
    connection: Connection, store: ObjectStore, *, dry_run: bool, as_json: bool
) -> Iterator[Repaired]:
    from histgen_lib.bus import open_publisher
    from histgen_lib.catalogue.case import slides_of
    from histgen_lib.catalogue.repair import Repair

    with ExitStack() as resources:
        publisher = (
            None if dry_run else resources.enter_context(closing(open_publisher(connection.need_bus())))
        )
        for repaired in Repair(store, publisher).run():
            if not dry_run:
                connection.touch_index(slides_of(store, [repaired.damage.owner]))
            if not as_json:
                _print_repaired(repaired, dry_run=dry_run)
            yield repaired


def _print_repaired(repaired: Repaired, *, dry_run: bool) -> None:
    from histgen_lib.catalogue.repair import ANNOUNCED

    key, verb = printable(repaired.damage.key), "would be" if dry_run else "is"
    if not repaired.done:
        out().print(f"{key}: cannot be repaired. {repaired.hint}", style="yellow", soft_wrap=True)
    elif repaired.done == ANNOUNCED:
        out().print(f"{key}: its slide {verb} announced again, to be processed as needed", soft_wrap=True)
    else:
        out().print(f"{key}: {verb} repaired", soft_wrap=True)


def _print_summary(verification: Verification, repaired: list[Repaired] | None) -> None:
    tally = verification.tally
    summary = f"{_counts(verification)} in {verification.progress.seconds:.0f} s"
    if tally.undigested:
        summary += (
            f"; {tally.undigested:,} were written by an earlier version without a digest, and only checked "
            "to be readable"
        )
    out().print(summary, style="bold", soft_wrap=True)
    if tally.damaged and repaired is None:
        out().print("→ Repair them with histgen verify --repair.", soft_wrap=True)


def _counts(verification: Verification) -> str:
    tally = verification.tally
    damaged = sum(tally.damaged.values())
    return f"{tally.objects:,} objects, {tally.size_bytes / 2**20:,.1f} MiB, {damaged:,} damaged"


def _write_metrics(path: Path, verification: Verification) -> None:
    from histgen_lib.catalogue.verification import KINDS
    from histgen_lib.telemetry.verification import write_verification

    write_verification(path, finished_at=time.time(), kinds=KINDS, **verification.summary())


def _to_dict(
    verification: Verification, damages: list[Damage], repaired: list[Repaired] | None, *, dry_run: bool
) -> dict[str, object]:
    from histgen_lib.catalogue.keys import ReportOwner

    by_key = {one.damage.key: one for one in repaired or ()}
    return {
        **verification.summary(),
        "resumed": verification.resumed,
        "dry_run": dry_run,
        "objects_damaged": [
            {
                "key": one.key,
                "kind": one.kind,
                "why": one.why,
                "slide_id": None if (owner := ReportOwner.named(one.owner)).is_case else owner.id or None,
                "case_id": owner.id if owner.is_case else None,
                "repair": (by_key[one.key].done or "impossible") if one.key in by_key else None,
                "hint": (by_key[one.key].hint or None) if one.key in by_key else None,
            }
            for one in damages
        ],
    }
